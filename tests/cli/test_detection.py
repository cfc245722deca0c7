"""Boxes through every layer: data, training, engine, rows, report."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from advjax import boxes, criteria, data, metrics, report, store, tasks, training
from advjax.cli import main
from advjax.config import DataConfig

SIZE, COUNT = 16, {"train": 96, "val": 16, "test": 10}
NAMES = ("bright", "dark")
ATTACKS = ("pgd:num_steps=3", "smia:num_steps=2", "dag:num_steps=2")
LABELS = ("pgd-3", "smia-2", "dag-2")


def squares(folder):
    """A square or two on grey ground, bright ones and dark ones."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in COUNT.items():
        images = rng.uniform(110, 140, (count, SIZE, SIZE, 1))
        found = np.full((count, 2, 5), -1.0)
        for image, own in zip(images, found, strict=True):
            for k in range(rng.integers(1, 3)):
                y, x = rng.integers(0, 10), 8 * k + rng.integers(0, 3)
                kind = rng.integers(2)
                image[y : y + 6, x : x + 5] += 100 if kind == 0 else -100
                own[k] = kind, y, x, y + 6, x + 5
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_boxes": found}
    path = folder / "squares.npz"
    np.savez(path, box_names=np.array(NAMES), **arrays)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    source = f"npz:{squares(folder)}"
    out = str(folder / "net")
    words = [
        "train", "--out", out, "--data.source", source, "--data.task", "detection",
        "--model.name", "centernet", "--model.width", "4", "--epochs", "24", "--batch-size", "8",
        "--method", "pgd", "--eps", "1/255", "--attack-steps", "1", "--val-attack.num-steps", "3",
        "--optimizer.name", "adam", "--optimizer.learning-rate", "0.02",
        "--augment.flip-horizontal", "True", "--checkpoint-every", "4",
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


@pytest.fixture(scope="module")
def judged(run):
    """What the model says of the test images, and the true boxes."""
    model, variables, _, _ = training.restore_model(run[0], "best")
    split = data.load(DataConfig(source=run[1], task="detection")).test
    images = np.asarray(split.images, np.float32) / np.float32(255)
    return jax.jit(model.apply)(variables, images), split.targets


def sorted_rows(out, attack):
    rows = store.Store(out).read(attack=attack)
    order = np.lexsort((rows["example_id"], rows["eps"]))
    return {name: column[order] for name, column in rows.items()}


@pytest.mark.slow
def test_the_validation_scores_are_those_of_boxes(run):
    records = [json.loads(line) for line in Path(run[0], "metrics.jsonl").read_text().splitlines()]
    for name in ("val_map", "val_recall", "robust_map", "robust_recall"):
        assert all(0 <= record[name] <= 1 for record in records), name
    # it learns, and the score that selects is the robust one
    assert records[-1]["val_recall"] > 0.5 > records[0]["val_recall"]
    _, _, _, info = training.restore_model(run[0], "best")
    saved = [record["robust_map"] for record in records[3::4]]
    assert records[info["epoch"] - 1]["robust_map"] == max(saved)


@pytest.mark.slow
def test_clean_rows_hold_what_the_model_finds(judged, evaluated):
    output, true = judged
    rows = sorted_rows(evaluated, "none")
    matched = tasks.split_boxes(rows["probabilities"])
    recall = np.asarray(jax.vmap(criteria.recall)(output, true))
    np.testing.assert_allclose(matched.recall, recall, rtol=1e-6)
    np.testing.assert_array_equal(rows["success"], recall < 0.5)
    np.testing.assert_array_equal(rows["target"], [[(t[:, 0] == k).sum() for k in (0, 1)]
                                                   for t in true])  # fmt: skip
    found = [tuple(part) for part in zip(*jax.vmap(boxes.decode)(output), strict=True)]
    expected = metrics.mean_average_precision(found, true, 2)
    np.testing.assert_allclose(matched.average_precision()[0], expected.values, rtol=1e-6)


@pytest.mark.slow
def test_rows_of_all_attacks_agree_with_their_criterion(evaluated):
    for label in LABELS:
        rows = sorted_rows(evaluated, label)
        assert len(rows["eps"]) == 2 * COUNT["test"]
        recall = tasks.split_boxes(rows["probabilities"]).recall
        np.testing.assert_array_equal(rows["success"], recall < 0.5)
    assert sorted_rows(evaluated, "pgd-3")["success"][COUNT["test"] :].any()


def test_the_report_speaks_of_boxes(judged, evaluated):
    page = Path(evaluated, "report.html").read_text()
    for words in (
        "Average precision per class", "Mean average precision", "Recall", "true boxes",
        "smia-2", "dag-2", "at least one half of its true boxes", "> bright",
    ):  # fmt: skip
        assert words in page, words
    for words in ("AUROC", "Dice"):
        assert words not in page, words
    figures = {
        (entry["attack"], round(entry["eps"] * 255)): entry["robust_accuracy"]
        for entry in report.summary(evaluated)
    }
    right = np.asarray(jax.vmap(tasks.get_task("detection").right)(*judged))
    assert figures["pgd-3", 0] == right.mean()
    assert figures["pgd-3", 32] <= figures["pgd-3", 8] <= figures["pgd-3", 0]


def test_panels_keep_boxes_and_draw_them(judged, evaluated):
    panels = store.read_panels(evaluated)
    assert {panel.attack for panel in panels} == set(LABELS)
    output, true = judged
    for panel in panels:
        place = np.searchsorted(sorted_rows(evaluated, "none")["example_id"], panel.example_id)
        np.testing.assert_array_equal(panel.true_boxes, true[place])
        found = jax.vmap(boxes.decode)(jax.tree.map(lambda leaf, p=place: leaf[p], output))
        told = panel.clean_boxes[..., 0] >= 0
        np.testing.assert_array_equal(told, found.scores >= boxes.SCORE)
        np.testing.assert_allclose(panel.clean_boxes[..., 1:], found.boxes, atol=1e-4)


@pytest.mark.slow
def test_a_sweep_says_the_same_as_the_brute_force(run, evaluated, tmp_path):
    out = str(tmp_path / "sweep")
    words = ["sweep", "--runs", run[0], "--out", out, "--attacks", "pgd:num_steps=3"]
    words += ["--epsilons", "8/255", "32/255", "--bootstrap", "50", "--order", "exhaustive"]
    assert main([*words, "--diagnose", "False"]) == 0
    mine, brute = sorted_rows(out, "pgd-3"), sorted_rows(evaluated, "pgd-3")
    np.testing.assert_array_equal(mine["success"], brute["success"])
    # the engine does not attack what is wrong already
    right = ~mine["wrong_when_clean"]
    assert right.sum() >= 6
    np.testing.assert_allclose(
        mine["probabilities"][right], brute["probabilities"][right], atol=1e-5
    )


def test_what_boxes_cannot_do_is_said(run, tmp_path, capsys):
    out = str(tmp_path / "none")
    for attack, words in (
        ("autoattack", "compares the logits of classes; net has boxes"),
        ("cw_linf", "compares the logits of labels, which boxes do not have; use pgd"),
        ("pgd:loss=dice", "unknown 'dice' for this data; use centernet, ce"),
        ("pgd:criterion=dice50", "use missed25, missed50"),
        ("pgd:goal=erase", "attacks on detection lead away only"),
    ):
        assert main(["evaluate", "--runs", run[0], "--out", out, "--attacks", attack]) == 1
        assert words in capsys.readouterr().err
    words = ["train", "--out", out, "--data.source", run[1], "--model.width", "4"]
    boxed = ["--data.task", "detection", "--model.name", "centernet", "--batch-size", "8"]
    for more, said in (
        ([*boxed, "--method", "trades"], "trades compares probabilities of classes"),
        ([*boxed, "--augment.rotate-degrees", "5"], "augment.rotate_degrees: boxes follow flips"),
        ([*boxed, "--model.name", "small_cnn"], "small_cnn finds no boxes; use centernet"),
        ([*boxed, "--val-attack.name", "cw_linf"], "val_attack.name: cw_linf compares the logits"),
    ):
        assert main([*words, *more]) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "none" / "checkpoints").exists()
