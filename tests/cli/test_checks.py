"""What an evaluation refuses before anything is written."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from advjax.cli import main
from advjax.cli._checks import check_evaluation, check_sweep
from advjax.cli._subjects import load_subjects
from advjax.config import EvaluateConfig, SweepConfig
from advjax.store import Store
from tests.data.made import arrays

GOOD = EvaluateConfig(runs=("runs/k",), out="runs/out")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"runs": ("runs/k", "runs/k/")}, "runs/k/ is named twice"),
        ({"out": "runs/./k"}, "out: runs/k is the folder of a training run"),
        ({"epsilons": (1.0, 2.0)}, r"epsilons: 2 is more than the whole range .* 8/255 = 0\.0314"),
        ({"epsilons": ()}, "strictly increasing"),
        ({"epsilons": (0.1, float("nan"))}, "strictly increasing"),
        ({"epsilons": (0.1, 0.1)}, "strictly increasing"),
        ({"epsilons": (-0.1, 0.1)}, "strictly increasing"),
        ({"num_examples": 0}, "num_examples: must be at least 1, got 0"),
        ({"restarts": 0}, "restarts: must be at least 1"),
        ({"panels": -1}, "panels: must not be negative"),
        ({"gradient_dtype": "float16"}, "gradient_dtype: 'float16' is unknown; use float32 or bf"),
        ({"attacks": ()}, "attacks: name at least one"),
        ({"attacks": ("pgd:step_size=nan",)}, "pgd:step_size=nan: step_size must be a positive"),
        ({"attacks": ("pgd:step_size=0",)}, "step_size must be a positive"),
        ({"attacks": ("pgd:step_size=-1",)}, "step_size must be a positive"),
        ({"attacks": ("pgd:num_steps=0",)}, "num_steps must be at least 1"),
        ({"attacks": ("pgd:norm=l3",)}, "unknown norm 'l3'"),
    ],
)
def test_impossible_evaluations(fields, match):
    with pytest.raises(ValueError, match=match):
        check_evaluation(dataclasses.replace(GOOD, **fields))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"warm_start": True}, "warm_start: only a climb goes on .* use order ascending"),
        ({"order": "descending"}, "order: 'descending' is unknown"),
        ({"seeds": (1, 1)}, "seeds: expected different numbers"),
        ({"quantise": 9}, "quantise: must be 8, 12 or 16 bits, got 9"),
        ({"stack": "pmap"}, "stack: 'pmap' is unknown"),
        ({"shard": "4/4"}, "shard: expected i/n"),
        ({"epsilons": (8.0,)}, "8 is more than the whole range"),
    ],
)
def test_impossible_sweeps(fields, match):
    with pytest.raises(ValueError, match=match):
        check_sweep(dataclasses.replace(SweepConfig(runs=("runs/k",), out="runs/out"), **fields))
    check_sweep(SweepConfig(runs=("runs/k",), out="runs/out", order="ascending", warm_start=True))


def test_sound_evaluations_say_nothing(capsys):
    check_evaluation(GOOD)
    l2 = dataclasses.replace(GOOD, attacks=("pgd:norm=l2",), epsilons=(0.5, 3.0))
    check_evaluation(l2)  # an l2 budget may be larger than 1
    assert capsys.readouterr().err == ""


def test_l2_attacks_with_budgets_of_linf_are_doubted(capsys):
    check_evaluation(dataclasses.replace(GOOD, attacks=("fgsm", "pgd:norm=l2")))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("advjax: warning: pgd-l2: the largest budget")


def test_the_folder_of_a_run_is_no_place_for_an_evaluation(tmp_path, capsys):
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "config.json").write_text("kept")
    assert main(["evaluate", "--runs", str(tmp_path / "run"), "--out", str(other)]) == 1
    assert "is the folder of a training run" in capsys.readouterr().err
    assert (other / "config.json").read_text() == "kept"
    assert not (other / "rows").exists()


def test_the_folder_of_an_evaluation_is_no_place_for_a_run(tmp_path, capsys):
    Store(tmp_path, identity={})
    before = sorted(tmp_path.iterdir())
    assert main(["train", "--out", str(tmp_path)]) == 1
    assert "holds an evaluation (rows/)" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One epoch on a small npz."""
    folder = tmp_path_factory.mktemp("npz")
    np.savez_compressed(folder / "scans.npz", **arrays())
    words = ["--data.source", f"npz:{folder / 'scans.npz'}", "--model.name", "small_cnn",
             "--model.width", "4", "--epochs", "1", "--batch-size", "4"]  # fmt: skip
    assert main(["train", "--out", str(folder / "run"), *words]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """Copy the run, with a file of data of its own."""
    shutil.copytree(trained / "run", tmp_path / "run")
    header = tmp_path / "run" / "config.json"
    told = json.loads(header.read_text())
    told["config"]["data"]["source"] = f"npz:{tmp_path / 'scans.npz'}"
    header.write_text(json.dumps(told))
    return EvaluateConfig(runs=(str(tmp_path / "run"),), out=str(tmp_path / "out"))


@pytest.mark.slow
def test_the_same_data_are_no_matter(run, tmp_path, capsys):
    np.savez_compressed(tmp_path / "scans.npz", **arrays())
    (subject,) = load_subjects(run)
    assert subject.dataset.image_shape == (8, 8, 3)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"channels": 1}, r"images of shape \(8, 8, 3\), but npz:.* now has \(8, 8, 1\); restore"),
        ({"classes": 4}, "the number of classes 3, but npz:.* now has 4"),
    ],
)
def test_data_of_another_kind_are_refused(run, tmp_path, changed, match):
    np.savez_compressed(tmp_path / "scans.npz", **arrays(**changed))
    with pytest.raises(ValueError, match=match):
        load_subjects(run)


def test_changed_images_are_doubted(run, tmp_path, capsys):
    changed = arrays()
    changed["test_images"][0, 0, 0, 0] ^= 1
    np.savez_compressed(tmp_path / "scans.npz", **changed)
    load_subjects(run)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("advjax: warning: ")
    assert "is not what the model was trained on" in line


def test_one_source_with_two_sizes_is_refused(run, tmp_path):
    np.savez_compressed(tmp_path / "scans.npz", **arrays())
    shutil.copytree(tmp_path / "run", tmp_path / "fewer")
    header = tmp_path / "fewer" / "config.json"
    told = json.loads(header.read_text())
    told["config"]["data"]["num_test"] = 3
    header.write_text(json.dumps(told))
    both = dataclasses.replace(run, runs=(*run.runs, str(tmp_path / "fewer")))
    with pytest.raises(ValueError, match="name the same source"):
        load_subjects(both)
