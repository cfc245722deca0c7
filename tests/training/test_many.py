"""Several runs as one program, the other model of a method, and the alarm of one-step training."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from advjax import models, training
from advjax.cli._main import UsageError
from advjax.cli._many import expand, split_lists
from advjax.config import AttackConfig, OptimizerConfig, TrainConfig
from advjax.training import _loop, _overfitting, _run
from tests.training.runs import CLASSES, make_config, train, write_npz
from tests.training.test_loop import ALONE, ROUNDING, _leaves
from tests.training.tiny import tiny_model


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "single.npz")


@pytest.fixture
def make(images, tmp_path, monkeypatch):
    """Return `make(folder, **fields) -> TrainConfig` of the tiny network."""
    # one model for all runs of a test: programs of validation are compiled once for each
    model = tiny_model(CLASSES)
    monkeypatch.setattr(models, "build", lambda config, num_classes: model)
    fixed = {"data": images, "epochs": 2, "ema": 0.9, "steps_range": (1, 2),
             "attack_steps": 1, "val_examples": 0, "select_by": "clean"}  # fmt: skip
    return lambda folder, **fields: make_config(tmp_path / folder, **{**fixed, **fields})


def _many_of(config, lists):
    return training.train_many(expand(config, lists), stack="map", progress=False)


def _timeless(records):
    return [{n: v for n, v in r.items() if "seconds" not in n} for r in records]


def _same_runs(a, b):
    """Two folders hold the same parameters and records, up to rounding."""
    chex.assert_trees_all_close(_leaves(a), _leaves(b), atol=1e-6)
    for one, two in zip(_run.read_metrics(a), _run.read_metrics(b), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            if "seconds" not in name:
                np.testing.assert_allclose(one[name], two[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_stack_of_runs_equals_single_ones(make, tmp_path):
    """Seeds, budgets, weights and rates at once, each against a run of its own."""
    config = make("many", method="trades")
    lists = {"seed": [0, 3], "eps": [0.02], "beta": [1.0], "lr": [0.05]}
    configs = expand(config, lists)
    configs += expand(config, {"seed": [0], "eps": [0.05], "beta": [6.0], "lr": [0.01]})
    results = training.train_many(configs, stack="map", progress=False)
    assert [r.epochs for r in results] == [2, 2, 2]
    assert sorted(os.listdir(tmp_path / "many")) == [
        "lr-0.01-eps-0.05-beta-6-seed-0",
        "lr-0.05-eps-0.02-beta-1-seed-0",
        "lr-0.05-eps-0.02-beta-1-seed-3",
    ]
    for i, (one, result) in list(enumerate(zip(configs, results, strict=True)))[1:]:
        alone = train(dataclasses.replace(one, out=str(tmp_path / f"alone{i}")))
        _same_runs(result.run_dir, alone.run_dir)
        assert result.best_epoch == alone.best_epoch
    # beside each other, as on an accelerator
    others = [dataclasses.replace(c, out=f"{c.out}-vmap") for c in configs]
    for one, other in zip(
        results, training.train_many(others, stack="vmap", progress=False), strict=True
    ):
        _same_runs(one.run_dir, other.run_dir)
    _, _, config, _ = training.restore_model(results[2].run_dir)
    assert (config.eps, config.beta, config.optimizer.learning_rate) == (0.05, 6.0, 0.01)
    kernels = [_leaves(r.run_dir)["model"]["params"]["first"]["kernel"] for r in results]
    assert not np.allclose(kernels[0], kernels[1], atol=1e-3)


def test_runs_that_were_interrupted_go_on_and_finished_ones_are_left_alone(
    make, tmp_path, monkeypatch, capsys
):
    """Interrupted between two saves, so that one run is an epoch ahead of the other."""
    lists = {"seed": [0, 1]}
    fields = {"method": "mpadvt", "epochs": 3}
    _many_of(make("whole", **fields), lists)
    close, saved = _loop.close_epoch, []

    def torn(*args, **kwargs):
        saved.append(args)
        if len(saved) == 4:
            raise KeyboardInterrupt
        return close(*args, **kwargs)

    monkeypatch.setattr(_loop, "close_epoch", torn)
    with pytest.raises(KeyboardInterrupt):
        _many_of(make("torn", **fields), lists)
    assert "seed-1: interrupted; 1 epochs are saved" in capsys.readouterr().out
    monkeypatch.setattr(_loop, "close_epoch", close)
    results = _many_of(make("torn", **fields), lists)
    assert [r.resumed_from for r in results] == [2, 1]
    for seed in (0, 1):
        name = f"seed-{seed}"
        chex.assert_trees_all_equal(
            _leaves(tmp_path / "torn" / name), _leaves(tmp_path / "whole" / name)
        )
        assert _timeless(_run.read_metrics(tmp_path / "torn" / name)) == _timeless(
            _run.read_metrics(tmp_path / "whole" / name)
        )
    capsys.readouterr()
    _many_of(make("torn", **fields), lists)
    assert capsys.readouterr().out.count("nothing to do") == 2


def test_a_run_that_diverges_does_not_take_the_others_with_it(make, tmp_path, capsys):
    config = make("many", method="standard", ema=None)
    with pytest.raises(training.NonFiniteLossError, match="lr-1e") as error:
        _many_of(config, {"lr": [0.05, 1e30]})
    assert "lr-0.05" not in str(error.value)
    assert "warning: " in capsys.readouterr().out
    alone = train(dataclasses.replace(config, out=str(tmp_path / "alone")))
    _same_runs(tmp_path / "many" / "lr-0.05", alone.run_dir)


RUNNER = """
import sys
from advjax.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill(images, tmp_path):
    """`advjax train --method mpadvt --seeds 0..1`, killed twice, ends as one that was not."""
    words = [
        "--data.source", images.source, "--model.name", "small_cnn", "--model.width", "4",
        "--method", "mpadvt", "--seeds", "0..1", "--epochs", "4", "--batch-size", "16",
        "--val-examples", "8", "--val-attack.num-steps", "2", "--optimizer.learning-rate", "0.05",
    ]  # fmt: skip

    def start(out):
        return subprocess.Popen(
            [sys.executable, "-u", "-c", RUNNER, *words, "--out", str(tmp_path / out)],
            env={**os.environ, **ALONE}, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    with start("whole") as process:
        assert "next: advjax evaluate --runs" in process.stdout.read()
    random, kills = np.random.default_rng(), 0
    for wanted in ("epoch 1/4", "epoch 3/4", None):
        with start("torn") as process:
            for line in process.stdout:
                if wanted is not None and wanted in line:
                    time.sleep(random.uniform(0, 0.2))
                    process.kill()
        kills += process.returncode == -signal.SIGKILL
    assert process.returncode == 0
    assert kills >= 1
    for seed in (0, 1):
        chex.assert_trees_all_close(
            _leaves(tmp_path / "torn" / f"seed-{seed}"),
            _leaves(tmp_path / "whole" / f"seed-{seed}"),
            **ROUNDING,
        )


def test_what_cannot_be_stacked_is_refused_by_name(make):
    config = make("many")
    pair = expand(config, {"seed": [0, 1]})
    for fields, message in (
        ({"attack_steps": 3}, "not in attack_steps: 1 -> 3"),
        ({"out": pair[0].out}, "every run needs a folder of its own"),
    ):
        other = dataclasses.replace(pair[1], **fields)
        with pytest.raises(ValueError, match=message):
            training.train_many([pair[0], other], progress=False)
    with pytest.raises(ValueError, match="share one device"):
        training.train_many([dataclasses.replace(pair[0], devices=2)], progress=False)
    with pytest.raises(ValueError, match="stack: unknown"):
        training.train_many(pair, stack="pile")
    with pytest.raises(ValueError, match="at least one config"):
        training.train_many([])


def test_lists_of_the_command_line():
    rest, lists = split_lists(
        ["a.py", "--seeds", "0..2", "--method", "trades", "--eps=2/255,4/255", "--beta", "1,6",
         "--optimizer.learning_rate", "0.1,0.05"]
    )  # fmt: skip
    assert rest == ["a.py", "--method", "trades"]
    assert lists == {
        "seed": [0, 1, 2], "eps": [2 / 255, 4 / 255], "beta": [1, 6], "lr": [0.1, 0.05],
    }  # fmt: skip
    configs = expand(TrainConfig(out="runs/a", method="trades"), lists)
    assert len(configs) == 24
    assert configs[0].out == "runs/a/lr-0.1-eps-0.007843-beta-1-seed-0"
    assert configs[-1].seed == 2
    assert configs[-1].optimizer.learning_rate == 0.05
    # all runs of such a list would be the same one
    for method, name in (("standard", "eps"), ("mpadvt", "eps"), ("pgd", "beta")):
        with pytest.raises(ValueError, match=f"--{name}: {method} training takes no notice"):
            expand(TrainConfig(method=method), {name: [0.1, 0.2]})
    assert split_lists(["--lr", "0.1,0.01"]) == ([], {"lr": [0.1, 0.01]})
    assert split_lists(["--lr", "0.1", "--lr=1"])[0] == [
        "--optimizer.learning-rate", "0.1", "--optimizer.learning-rate=1",
    ]  # fmt: skip
    # what is no list is left to the parser
    assert split_lists(["--eps", "8/255", "--seed", "3"]) == (["--eps", "8/255", "--seed", "3"], {})
    for words in (["--seeds", "a"], ["--seeds", "1,1"], ["--seeds", "0.5"], ["--beta", "1,x"]):
        with pytest.raises(UsageError, match=words[0]):
            split_lists(words)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hat", "distillation"])
def test_the_other_model_is_trained_first_or_taken_from_its_run(make, tmp_path, method, capsys):
    config = make("run", method=method)
    result = train(config)
    assert result.epochs == 2
    said = capsys.readouterr().out
    assert said.index("helper: standard training") < said.index(f"run: {method} training")
    _, variables, helper, _ = training.restore_model(tmp_path / "run" / "helper")
    assert helper.method == "standard"
    assert helper.temperature == (20.0 if method == "distillation" else None)
    stored = _leaves(tmp_path / "run")["training"]["method_state"]["helper"]
    chex.assert_trees_all_equal(stored, jax.device_get(variables))
    # the same, named
    named = dataclasses.replace(config, out=str(tmp_path / "named"), helper=str(helper.out))
    train(named)
    chex.assert_trees_all_equal(_leaves(tmp_path / "named"), _leaves(tmp_path / "run"))
    assert not (tmp_path / "named" / "helper").exists()


def test_a_helper_of_other_images_is_refused(make, tmp_path):
    train(make("helper", method="standard", epochs=1))
    file = tmp_path / "helper" / "config.json"
    header = json.loads(file.read_text())
    header["dataset"]["image_shape"] = [14, 12, 3]
    file.write_text(json.dumps(header))
    config = make("run", method="hat", helper=str(tmp_path / "helper"))
    with pytest.raises(
        ValueError, match=r"helper: .* image_shape \[14, 12, 3\], not \[12, 12, 3\]"
    ):
        train(config)
    with pytest.raises(FileNotFoundError, match="no training run"):
        train(make("other", method="hat", helper=str(tmp_path / "nothing")))


def _collapse(monkeypatch, scores):
    """Let the accuracy under PGD-5 be what is given, epoch after epoch."""
    left = list(scores)

    def make_probe(*args):
        return lambda variables: {_overfitting.SCORE: left.pop(0)}

    monkeypatch.setattr(_overfitting, "make_probe", make_probe)


def test_catastrophic_overfitting_is_said_and_goes_on(make, monkeypatch, capsys):
    _collapse(monkeypatch, [0.5, 0.31, 0.29, 0.6])
    result = train(make("run", method="fast", epochs=4))
    said = capsys.readouterr().out
    assert said.count("catastrophic overfitting") == 1  # 0.31 is less than 20 points below
    assert "in epoch 3: accuracy under PGD-5 fell by 21 points to 0.2900" in said
    assert [r.get(_overfitting.ALARM) for r in result.history] == [None, None, True, None]
    assert result.epochs == 4


def test_catastrophic_overfitting_can_stop_a_run_for_good(make, monkeypatch, tmp_path, capsys):
    config = make("run", method="fast", epochs=4, on_overfitting="stop", checkpoint_every=4)
    _collapse(monkeypatch, [0.5, 0.1])
    assert train(config).epochs == 2
    assert "training stops here" in capsys.readouterr().out
    again = train(config)
    assert again.epochs == again.resumed_from == 2
    said = capsys.readouterr().out
    assert "nothing to do, it stopped after epoch 2 of 4 (catastrophic overfitting)" in said
    training.restore_model(tmp_path / "run", "latest")


@pytest.mark.slow
def test_the_probe_is_the_accuracy_under_five_steps(make, monkeypatch, tmp_path):
    """Against `predict_attacked` on all validation images, and only for one-step methods."""
    config = make("run", method="fast", epochs=1, ema=None, val_eps=0.02,
                  val_attack=AttackConfig(name="pgd", num_steps=5), val_examples=None,
                  select_by="robust")  # fmt: skip
    record = train(config).history[0]
    assert record["pgd5_accuracy"] == record["robust_accuracy"]
    assert "pgd5_accuracy" not in train(make("pgd", epochs=1)).history[0]
    quiet = make("quiet", method="fgsm", epochs=1, on_overfitting="ignore")
    assert "pgd5_accuracy" not in train(quiet).history[0]
    with pytest.raises(ValueError, match="on_overfitting: unknown 'sing'"):
        train(make("bad", on_overfitting="sing"))


def test_free_runs_have_their_updates_in_the_schedule_and_resume(make, tmp_path):
    config = make("run", method="free", replays=3, optimizer=OptimizerConfig(learning_rate=0.02))
    result = train(config)
    # OneCycle over 2 epochs x 4 batches x 3 replays ends near zero
    assert result.history[-1]["learning_rate"] < 1e-3
    assert _leaves(tmp_path / "run")["training"]["step"] == 8
    whole = _leaves(tmp_path / "run")
    assert np.abs(whole["training"]["method_state"]["delta"]).max() > 0
    os.rename(tmp_path / "run" / "checkpoints" / "2", tmp_path / "lost")
    assert train(config).resumed_from == 1
    chex.assert_trees_all_equal(_leaves(tmp_path / "run"), whole)
