"""Masks through every layer: data, training, engine, rows, report."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from advjax import data, report, store, training
from advjax.cli import main
from advjax.config import DataConfig

pytestmark = pytest.mark.unoptimised

SIZE, COUNT = 16, {"train": 24, "val": 8, "test": 10}
ATTACKS = ("fgsm", "pgd:num_steps=3", "pgd:num_steps=3,loss=dice", "pgd:num_steps=3,goal=erase")
LABELS = ("fgsm", "pgd-3", "pgd-3-dice", "pgd-3-erase")


def squares(folder):
    """Bright squares on a dark ground; a margin of each mask counts for nothing."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in COUNT.items():
        masks = np.zeros((count, SIZE, SIZE), np.uint8)
        for mask in masks:
            y, x = rng.integers(2, SIZE - 7, 2)
            mask[y : y + 6, x : x + 5] = 1
        noise = rng.uniform(0, 60, (count, SIZE, SIZE, 1))
        images = noise + 150 * (masks[..., None] == 1)
        masks[:, :1] = 255
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_masks": masks}
    path = folder / "squares.npz"
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation")
    source = f"npz:{squares(folder)}"
    out = str(folder / "net")
    words = [
        "train", "--out", out, "--data.source", source, "--data.task", "segmentation",
        "--model.name", "unet", "--model.width", "2", "--epochs", "20", "--batch-size", "8",
        "--method", "pgd", "--eps", "4/255", "--attack-steps", "1", "--val-attack.num-steps", "2",
        "--optimizer.name", "adam", "--optimizer.learning-rate", "0.02",
        "--augment.flip-horizontal", "True", "--augment.rotate-degrees", "10",
    ]  # fmt: skip
    assert main(words) == 0
    return out, source


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("robustness") / "out")
    words = ["evaluate", "--runs", run[0], "--out", out, "--attacks", *ATTACKS]
    words += ["--epsilons", "8/255", "32/255", "--bootstrap", "50", "--panels", "3"]
    assert main(words) == 0
    return out


def test_the_validation_scores_are_those_of_masks(run):
    with open(f"{run[0]}/metrics.jsonl") as file:
        last = file.readlines()[-1]
    for name in ("val_dice", "val_iou", "val_accuracy", "robust_dice"):
        found = re.search(rf'"{name}": ([0-9.e-]+)', last)
        assert found, name
        assert 0 <= float(found[1]) <= 1


@pytest.mark.slow
def test_clean_rows_hold_the_pixels_of_the_model(run, evaluated):
    model, variables, _, _ = training.restore_model(run[0], "best")
    split = data.load(DataConfig(source=run[1], task="segmentation")).test
    images = np.asarray(split.images, np.float32) / np.float32(255)
    said = np.asarray(jax.jit(model.apply)(variables, images)).argmax(-1)
    rows = store.Store(evaluated).read(attack="none")
    order = np.argsort(rows["example_id"])
    pixels = rows["probabilities"][order].reshape(-1, 2, 3)
    counted = split.targets != 255
    for k in range(2):
        true, found = (split.targets == k) & counted, (said == k) & counted
        for column, both in enumerate((true & found, found, true)):
            np.testing.assert_array_equal(pixels[:, k, column], both.sum((1, 2)))
    # Dice of the only class that is not background
    dice = 2 * pixels[:, 1, 0] / (pixels[:, 1, 1] + pixels[:, 1, 2])
    np.testing.assert_array_equal(rows["success"][order], dice < 0.5)
    assert (rows["target"] == 1).all()


@pytest.mark.slow
def test_rows_of_all_attacks_agree_with_their_criterion(evaluated):
    for label in LABELS:
        rows = store.Store(evaluated).read(attack=label)
        assert len(rows["eps"]) == 2 * COUNT["test"]
        pixels = rows["probabilities"].reshape(-1, 2, 3)[:, 1]
        if label.endswith("erase"):
            np.testing.assert_array_equal(rows["success"], pixels[:, 1] == 0)
        else:
            dice = 2 * pixels[:, 0] / (pixels[:, 1] + pixels[:, 2])
            np.testing.assert_array_equal(rows["success"], dice < 0.5)


@pytest.mark.slow
def test_the_report_speaks_of_masks(evaluated):
    page = Path(evaluated, "report.html").read_text()
    for words in (
        "Dice per class", "Intersection over union", "true mask", "pgd-3-erase",
        "at least one half",
    ):  # fmt: skip
        assert words in page, words
    assert "AUROC" not in page
    figures = {
        (entry["attack"], round(entry["eps"] * 255)): entry["robust_accuracy"]
        for entry in report.summary(evaluated)
    }
    assert figures["pgd-3", 32] <= figures["pgd-3", 8] <= figures["pgd-3", 0]


@pytest.mark.slow
def test_a_sweep_says_the_same_as_the_brute_force(run, evaluated, tmp_path):
    out = str(tmp_path / "sweep")
    words = ["sweep", "--runs", run[0], "--out", out, "--attacks", "pgd:num_steps=3"]
    words += ["--epsilons", "8/255", "32/255", "--bootstrap", "50", "--order", "exhaustive"]
    assert main([*words, "--diagnose", "False"]) == 0
    mine, brute = store.Store(out).read(attack="pgd-3"), store.Store(evaluated).read(attack="pgd-3")
    for rows in (mine, brute):
        order = np.lexsort((rows["example_id"], rows["eps"]))
        rows.update({name: column[order] for name, column in rows.items()})
    np.testing.assert_array_equal(mine["success"], brute["success"])
    # the engine does not attack what is wrong already
    right = ~mine["wrong_when_clean"]
    assert right.sum() >= 6
    np.testing.assert_array_equal(mine["probabilities"][right], brute["probabilities"][right])


def test_what_masks_cannot_do_is_said(run, tmp_path, capsys):
    for attack, words in (
        ("autoattack", "autoattack"),
        ("pgd:loss=bce", "unknown 'bce'"),
        ("pgd:goal=hide-polyp", "use erase"),
    ):
        out = str(tmp_path / "none")
        assert main(["evaluate", "--runs", run[0], "--out", out, "--attacks", attack]) == 1
        assert words in capsys.readouterr().err
