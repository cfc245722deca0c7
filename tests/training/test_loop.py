"""Whole runs: what they write, how they resume, what stops them."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from advjax import data, training
from advjax.checkpoint import Checkpoints
from advjax.config import (
    AttackConfig,
    AugmentConfig,
    DataConfig,
    OptimizerConfig,
    TrainConfig,
)
from advjax.training import _loop, _run
from advjax.training._checks import check_config, with_defaults
from tests.training.runs import CLASSES, make_config, train, use_tiny
from tests.training.tiny import tiny_model


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """Make one finished run of two epochs, for tests that look at its folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        result = train(make_config(folder, data=images, epochs=2, ema=0.9))
    return folder, result


@pytest.fixture
def run(finished, make, tiny, tmp_path):
    """Copy the finished run to `tmp_path / "run"` and return its config there."""
    shutil.copytree(finished[0], tmp_path / "run")
    return make("run", epochs=2, ema=0.9)


def _leaves(folder):
    """Return everything that the newest checkpoint stores."""
    with Checkpoints(folder / "checkpoints", read_only=True) as store:
        step = store.latest_step()
    with ocp.StandardCheckpointer() as reader:
        return {
            name: reader.restore(folder.absolute() / "checkpoints" / str(step) / name)
            for name in ("model", "training")
        }


def test_a_run_writes_its_folder(make, tiny, tmp_path, capsys):
    config = make("run", ema=0.9)
    result = train(config)
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoints", "config.json", "metrics.jsonl"]
    assert result.epochs == 3
    assert result.resumed_from == 0
    assert result.score == "robust_accuracy"
    header = json.loads((tmp_path / "run" / "config.json").read_text())
    assert training.config_from_dict(header["config"]) == config
    assert header["dataset"]["image_shape"] == [12, 12, 3]
    assert header["dataset"]["task"] == "single"
    assert len(header["dataset"]["class_names"]) == header["dataset"]["num_classes"] == CLASSES
    assert re.fullmatch("[0-9a-f]{64}", header["dataset"]["fingerprint"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records == result.history
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert [r["step"] for r in records] == [4, 8, 12]
    for record in records:
        assert {
            "train_loss", "train_accuracy", "train_grad_norm", "val_accuracy",
            "val_balanced_accuracy", "robust_accuracy", "learning_rate", "seconds",
        } <= set(record)  # fmt: skip
        assert 0 <= record["robust_accuracy"] <= 1
    best = max(r["robust_accuracy"] for r in records)
    assert result.best_score == best
    assert records[result.best_epoch - 1]["robust_accuracy"] == best
    out = capsys.readouterr().out
    assert "pgd training at eps 0.02" in out
    assert "64 train, 40 val, 12x12x3, 5 classes; 3 epochs of 4 steps" in out
    assert "epoch 3/3: loss" in out


def test_a_finished_run_has_nothing_to_do(run, finished, tiny, tmp_path, capsys):
    before = _leaves(tmp_path / "run")
    again = train(run)
    assert "run: nothing to do, all 2 epochs are done" in capsys.readouterr().out
    assert tiny == []
    assert again == finished[1]._replace(resumed_from=2, run_dir=tmp_path / "run")
    chex.assert_trees_all_equal(_leaves(tmp_path / "run"), before)


@pytest.mark.slow
def test_programs_are_traced_once(make, tiny, tmp_path):
    """One training step, one evaluation, one attack, whatever the number of epochs."""
    train(make("one", epochs=1))
    once = list(tiny)
    tiny.clear()
    train(make("three", epochs=3))
    assert tiny == once


def test_an_interrupted_run_ends_as_one_that_was_not(make, tiny, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second epoch, with a moving average, augmentation and balanced sampling."""
    fields = {
        "ema": 0.9,
        "balanced": True,
        "augment": AugmentConfig(flip_horizontal=True, rotate_degrees=10, crop_padding=1),
    }
    train(make("whole", **fields))
    config = make("torn", **fields)
    batches, count = _loop.batches, 0

    def interrupted(job, epoch):
        nonlocal count
        for batch in batches(job, epoch):
            count += 1
            if count == 7:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(_loop, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert "interrupted in epoch 2; 1 of 3 epochs are saved" in capsys.readouterr().out
    monkeypatch.setattr(_loop, "batches", batches)
    result = train(config)
    assert result.resumed_from == 1
    assert "resumed after epoch 1" in capsys.readouterr().out
    chex.assert_trees_all_equal(_leaves(tmp_path / "torn"), _leaves(tmp_path / "whole"))
    whole = _run.read_metrics(tmp_path / "whole")
    for a, b in zip(result.history, whole, strict=True):
        timeless = [n for n in a if "seconds" not in n]
        assert {n: a[n] for n in timeless} == {n: b[n] for n in timeless}


RUNNER = """
import json, sys
from advjax import training
config = training.config_from_dict(json.loads(sys.argv[1]))
training.train(config, progress=False)
"""


# the number of devices decides the last bits
ALONE = {"JAX_NUM_CPU_DEVICES": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
# Allows for processes that round otherwise now and then; a step or an epoch too few would be a
# thousand times this. Bits are compared inside of one process, see
# `test_an_interrupted_run_ends_as_one_that_was_not`.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def _start(config):
    """Start a run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", RUNNER, json.dumps(training.config_to_dict(config))],
        env={**os.environ, **ALONE},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(make, tmp_path):
    """SIGKILL at random moments of a training epoch, a validation or a save, three times."""
    whole = make("whole", epochs=6, val_examples=8, ema=0.9)
    torn = dataclasses.replace(whole, out=str(tmp_path / "torn"))
    with _start(whole) as process:
        assert "done; best epoch" in process.stdout.read()
    random, kills = np.random.default_rng(), 0
    for wanted in ("6 epochs of 4 steps", "epoch 2/6", "epoch 4/6", None):
        with _start(torn) as process:
            for line in process.stdout:
                if wanted is not None and wanted in line:
                    time.sleep(random.uniform(0, 0.2))
                    process.kill()
        kills += process.returncode == -signal.SIGKILL
    assert process.returncode == 0
    assert kills >= 1
    chex.assert_trees_all_close(_leaves(tmp_path / "torn"), _leaves(tmp_path / "whole"), **ROUNDING)
    records = _run.read_metrics(tmp_path / "torn")
    assert [r["epoch"] for r in records] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_metrics_after_the_last_checkpoint_are_written_again(run, finished, tmp_path):
    """Killed between the record and the checkpoint, and in the middle of a line."""
    folder = tmp_path / "run"
    whole = _leaves(folder)
    os.rename(folder / "checkpoints" / "2", tmp_path / "lost")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tr')
    result = train(run)
    assert result.resumed_from == 1
    assert [r["epoch"] for r in result.history] == [1, 2]
    chex.assert_trees_all_equal(_leaves(folder), whole)


def test_another_config_is_refused_by_name(run):
    other = dataclasses.replace(
        run, eps=0.03, optimizer=OptimizerConfig(learning_rate=0.5), epochs=3
    )
    with pytest.raises(ValueError, match="another config") as error:
        train(other)
    text = str(error.value)
    assert "epochs: 2 -> 3; eps: 0.02 -> 0.03; optimizer.learning_rate: 0.05 -> 0.5" in text
    assert "choose another folder" in text


def test_a_folder_without_its_config_is_refused(run, tmp_path):
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints but no config\.json"):
        train(run)


@pytest.mark.parametrize("which", ["best", "latest"])
def test_a_model_comes_back(run, finished, tmp_path, which):
    result = finished[1]
    model, variables, back, info = training.restore_model(tmp_path / "run", which)
    assert dataclasses.replace(back, out=run.out) == run
    epoch = result.best_epoch if which == "best" else 2
    assert info["epoch"] == epoch
    record = result.history[epoch - 1]
    assert info["record"] == record
    assert info["class_names"] == [str(i) for i in range(CLASSES)]
    val = data.load(run.data).val
    logits = training.predict(model, variables, val, batch_size=32)
    assert logits.shape == (40, CLASSES)
    found = training.scores(logits, val.targets, "single")["accuracy"]
    assert found == record["val_accuracy"]


@pytest.mark.slow
def test_two_devices_train_as_one(make, tiny, tmp_path):
    one = train(make("one", epochs=1))
    two = train(make("two", epochs=1, devices=2))
    assert two.history[0]["train_loss"] == pytest.approx(one.history[0]["train_loss"], abs=1e-4)
    a, b = _leaves(tmp_path / "one"), _leaves(tmp_path / "two")
    chex.assert_trees_all_close(a["model"], b["model"], atol=1e-4)
    training.restore_model(tmp_path / "two")  # on one device


def test_several_labels_are_selected_by_auroc(make, tiny, findings):
    result = train(make("run", data=findings, epochs=1))
    assert result.score == "robust_auroc"
    assert 0 <= result.best_score <= 1
    assert {"val_auroc", "val_accuracy", "robust_auroc"} <= set(result.history[0])


def test_robust_validation_can_be_left_out(make, tiny, tmp_path):
    result = train(make("run", method="standard", epochs=1, val_examples=0))
    assert not [n for n in result.history[0] if n.startswith("robust_")]
    assert result.score == "val_accuracy"


def test_the_test_split_is_never_looked_at(make, tiny, tmp_path, monkeypatch):
    config = make("run", epochs=1)
    load = data.load

    def without(c, **options):
        dataset = load(c, **options)
        splits = {name: split for name, split in dataset.splits.items() if name != "test"}
        return dataclasses.replace(dataset, splits=splits)

    monkeypatch.setattr(data, "load", without)
    assert train(config).epochs == 1


def test_the_default_validation_attack_has_the_norm_of_training():
    assert with_defaults(TrainConfig(norm="l2")).val_attack == AttackConfig("pgd", "l2", 10)
    assert with_defaults(TrainConfig()) == TrainConfig()
    one_step = TrainConfig(norm="l2", val_attack=AttackConfig("fgsm", num_steps=10))
    assert with_defaults(one_step).val_attack == AttackConfig("fgsm", "l2")
    with pytest.raises(ValueError, match="no option num_steps"):
        check_config(TrainConfig(val_attack=AttackConfig("fgsm", num_steps=7)))
    own = TrainConfig(norm="l2", val_eps=8 / 255, val_attack=AttackConfig("fgsm"))
    assert with_defaults(own) == own
    check_config(with_defaults(TrainConfig(method="pgd", norm="l2", eps=0.5)))


def test_a_run_without_a_checkpoint_is_named(run, tmp_path):
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        training.restore_model(tmp_path / "run")


def test_configs_survive_json():
    config = TrainConfig(
        eps=1,
        data=DataConfig(size=32, num_val=None),
        optimizer=OptimizerConfig(grad_clip=1.0),
        val_attack=AttackConfig(name="bim", step_size=0.3),
    )
    text = json.dumps(training.config_to_dict(config))
    assert training.config_from_dict(json.loads(text)) == config


def test_predict_compiles_once_and_drops_padding(images):
    calls = []
    model = tiny_model(calls=calls)
    variables = model.init(jax.random.key(0), np.zeros((1, 12, 12, 3), np.float32))
    split = data.load(images).val
    first = training.predict(model, variables, split, batch_size=16)
    again = training.predict(model, variables, split, batch_size=16)
    assert calls == ["eval"]
    assert first.shape == (40, 3)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    pixels = np.asarray(split.images, np.float32) / 255
    np.testing.assert_allclose(first, model.apply(variables, pixels), atol=1e-5)
