"""What ends a run, or keeps it from starting: one clear error, and nothing is lost."""

import dataclasses
import math
import os
import re

import chex
import numpy as np
import pytest

from advjax import checkpoint, data, models, training
from advjax.checkpoint import Checkpoints
from advjax.config import (
    AttackConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
)
from advjax.training import _loop
from tests.training.runs import train, write_npz


def test_other_data_are_refused(make, tiny, tmp_path):
    config = make("run", epochs=2, data=write_npz(tmp_path / "changing.npz"))
    train(config)
    os.rename(tmp_path / "run" / "checkpoints" / "2", tmp_path / "lost")
    write_npz(tmp_path / "changing.npz", seed=1)
    with pytest.raises(ValueError, match="started on other data"):
        train(config)


def test_a_loss_that_is_no_number_stops_the_run(make, tiny, tmp_path):
    optimizer = OptimizerConfig(learning_rate=1e30, schedule="onecycle", weight_decay=0.0)
    config = make("run", epochs=6, method="standard", optimizer=optimizer)
    with pytest.raises(training.NonFiniteLossError) as error:
        train(config)
    found = re.search(r"is (nan|inf) at step (\d+) \(epoch (\d+)\)", str(error.value))
    assert found, error.value
    assert int(found.group(3)) == -(-int(found.group(2)) // 4)
    assert "lower optimizer.learning_rate" in str(error.value)


def test_checkpoints_before_a_bad_loss_are_intact(make, tiny, tmp_path, monkeypatch):
    config = make("run")
    batches = _loop.batches

    def poisoned(job, epoch):
        for batch in batches(job, epoch):
            image = np.array(batch.image)
            image[0] = np.nan if epoch == 3 else image[0]
            yield batch._replace(image=image)

    monkeypatch.setattr(_loop, "batches", poisoned)
    with pytest.raises(training.NonFiniteLossError, match=r"loss is nan at step 9 \(epoch 3\)"):
        train(config)
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as store:
        assert store.latest_step() == 2
    _, variables, _, info = training.restore_model(tmp_path / "run", "latest")
    chex.assert_tree_all_finite(variables)
    assert info["epoch"] == 2


@pytest.mark.slow
def test_a_full_disk_stops_the_run_with_one_error(make, tiny, tmp_path, monkeypatch):
    config = make("run")
    save = checkpoint.ocp.CheckpointManager.save

    def full(self, step, **kwargs):
        if step == 2:
            raise ValueError("RESOURCE_EXHAUSTED: ... [os_error_code='28']")
        return save(self, step, **kwargs)

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", full)
    with pytest.raises(OSError, match="disk full: checkpoint 2 could not be written in"):
        train(config)
    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", save)
    assert train(config).resumed_from == 1


def test_one_class_is_nothing_to_learn(make, monkeypatch, tmp_path):
    real = data.load

    def one(config, **options):
        dataset = real(config, **options)
        # as a set of images with masks has it, made for segmentation
        return dataclasses.replace(dataset, num_classes=1, class_names=("lesion",))

    monkeypatch.setattr(data, "load", one)
    with pytest.raises(ValueError, match="has the same class"):
        train(make("run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"epochs": 0}, "epochs: expected at least 1"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"batch_size": 65}, "batch_size: 65 is more than the 64 training images"),
        ({"batch_size": 10, "devices": 4}, "batch_size: 10 cannot be split over 4 devices"),
        ({"devices": 64, "batch_size": 64}, "64 asked for, but 8 cpu"),
        ({"ema": 1.5}, "ema: must be in"),
        ({"seed": -1}, "seed: must be in"),
        ({"select_by": "test"}, "select_by: unknown 'test'"),
        ({"method": "nothing"}, "method: unknown 'nothing'"),
        ({"val_attack": AttackConfig(name="magic")}, r"val_attack\.name: unknown 'magic'"),
        ({"val_attack": AttackConfig(norm="l2")}, "so that eps cannot serve both"),
        ({"val_attack": AttackConfig(num_steps=0)}, "val_attack: num_steps must be at least 1"),
        ({"val_attack": AttackConfig(step_size=math.nan)}, "val_attack: step_size must be a pos"),
        ({"eps": "4/255"}, "config: eps must be a number, got '4/255'"),
        ({"epochs": 2.5}, "config: epochs must be a whole number, got 2.5"),
        ({"val_eps": -0.1}, "val_eps: must not be negative"),
        ({"val_examples": 0}, "0 switches robust validation off"),
        ({"optimizer": OptimizerConfig(name="x")}, r"optimizer\.name: unknown"),
    ],
)
def test_impossible_configs_leave_no_folder(make, tmp_path, fields, match):
    with pytest.raises(ValueError, match=match):
        train(make("run", **fields))
    assert not (tmp_path / "run").exists()


def test_a_network_of_another_task_is_named(make, findings):
    for fields, words in (
        ({"model": ModelConfig(name="gap_unet")}, "gap_unet makes perturbations; `advjax evaluate"),
        ({"model": ModelConfig(name="unet")}, "unet gives pixels, but the data have labels"),
        (
            {"data": findings, "val_attack": AttackConfig(name="cw_linf")},
            "findings do not have",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            training.train(make("run", **fields))
    masks = DataConfig(source="phantom:ct", size=16, num_train=32, num_val=8, num_test=8,
                       task="segmentation")  # fmt: skip
    with pytest.raises(ValueError, match="small_cnn gives labels, but phantom:ct has masks"):
        training.train(make("run", data=masks))


def test_balanced_sampling_needs_one_label(make, findings):
    with pytest.raises(ValueError, match="balanced: class-balanced sampling needs single-label"):
        train(make("run", data=findings, balanced=True))


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no training run: config\.json is missing"):
        training.restore_model(tmp_path)
    for name in ("seed-0", "seed-1"):
        (tmp_path / "many" / name).mkdir(parents=True)
        (tmp_path / "many" / name / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"holds several runs: .*seed-0 .*seed-1"):
        training.restore_model(tmp_path / "many")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        training.restore_model(tmp_path)
    with pytest.raises(ValueError, match="which: unknown 'last'"):
        training.restore_model(tmp_path, "last")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"epoch": 3}, "unknown field 'epoch'"),
        ({"optimizer": {"lr": 1}}, r"unknown field 'optimizer\.lr'"),
        ({"optimizer": 3}, "optimizer must be a group of fields"),
    ],
)
def test_unknown_fields_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        training.config_from_dict(values)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_moments_of_other_channels_than_the_images_have(make, tmp_path, name):
    # three numbers would make three channels of one
    model = ModelConfig(name="small_cnn", width=4, **{name: (0.5, 0.4)})
    with pytest.raises(ValueError, match=f"model.{name}: gives 2 numbers, but .* 3 channel"):
        train(make("run", model=model))
    assert not (tmp_path / "run").exists()


def test_moments_of_each_channel_are_kept_and_restored(make, tmp_path):
    moments = {"mean": (0.7, 0.6, 0.5), "std": (0.2, 0.3, 0.1)}
    config = make("run", model=ModelConfig(name="small_cnn", width=4, **moments), epochs=1)
    train(config)
    assert train(config).resumed_from == 1
    model, variables, found, _ = training.restore_model(tmp_path / "run")
    assert (found.model.mean, found.model.std) == (moments["mean"], moments["std"])
    x = np.random.default_rng(0).random((2, 12, 12, 3), np.float32)
    plain = models.ZOO["small_cnn"](5, width=4, mean=0, std=1)
    scaled = (x - np.float32(moments["mean"])) / np.float32(moments["std"])
    expected = plain.apply(variables, scaled)
    np.testing.assert_allclose(model.apply(variables, x), expected, atol=1e-5)
