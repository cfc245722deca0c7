"""Train, evaluate, report: the main job in small, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from advjax import metrics, store
from advjax.cli import main

TRAIN = [
    "--data.source", "phantom:ct", "--data.size", "16", "--data.num-train", "64",
    "--data.num-val", "16", "--data.num-test", "12", "--model.name", "small_cnn",
    "--model.width", "4", "--epochs", "1", "--batch-size", "16",
]  # fmt: skip
EVALUATE = [
    "--attacks", "fgsm", "pgd:num_steps=3", "--epsilons", "2/255", "8/255", "--batch-size", "8",
    "--bootstrap", "50", "--panels", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    names = [str(folder / "standard"), str(folder / "pgd")]
    assert main(["train", "--out", names[0], *TRAIN]) == 0
    pgd = ["--method", "pgd", "--eps", "8/255", "--attack-steps", "2", "--val-examples", "8"]
    assert main(["train", "--out", names[1], *TRAIN, *pgd]) == 0
    return names


@pytest.fixture(scope="module")
def evaluated(runs, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("robustness") / "out")
    assert main(["evaluate", "--runs", *runs, "--out", out, *EVALUATE]) == 0
    return out


def test_rows_are_one_per_model_attack_budget_and_example(evaluated):
    rows = store.Store(evaluated).read()
    assert len(rows["eps"]) == 2 * 12 * (1 + 2 * 2)
    keys = set(zip(rows["model"], rows["attack"], rows["eps"], rows["example_id"], strict=True))
    assert len(keys) == len(rows["eps"])
    assert set(rows["attack"]) == {"none", "fgsm", "pgd-3"}
    attacked = rows["attack"] != "none"
    assert (rows["linf"][attacked] <= rows["eps"][attacked] + 1e-6).all()
    assert (rows["linf"][~attacked] == 0).all()
    assert (rows["num_grads"][rows["attack"] == "pgd-3"] == 3).all()
    np.testing.assert_allclose(rows["probabilities"].sum(1), 1, atol=1e-5)


def test_the_success_of_a_row_is_what_its_probabilities_say(evaluated):
    rows = store.Store(evaluated).read()
    wrong = rows["probabilities"].argmax(1) != rows["target"][:, 0]
    np.testing.assert_array_equal(rows["success"], wrong)
    clean = rows["attack"] == "none"
    np.testing.assert_array_equal(rows["wrong_when_clean"][clean], wrong[clean])


def test_files_and_manifest(evaluated):
    for name in ("report.html", "curves.png", "config.json", "manifest.json", "rows", "panels"):
        assert os.path.exists(os.path.join(evaluated, name)), name
    with open(os.path.join(evaluated, "manifest.json")) as file:
        manifest = json.load(file)
    assert manifest["extra"]["cost"]["pgd"]["pgd-3"]["backwards"] == 3 * 12 * 2
    assert manifest["config"]["epsilons"] == [2 / 255, 8 / 255]
    assert len(manifest["inputs"]) == 3  # two models, one data set


def test_a_second_evaluation_has_nothing_to_do(evaluated, runs, capsys):
    before = os.stat(os.path.join(evaluated, "report.html")).st_mtime_ns
    assert main(["evaluate", "--runs", *runs, "--out", evaluated, *EVALUATE]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert os.stat(os.path.join(evaluated, "report.html")).st_mtime_ns == before


def test_other_settings_are_refused_and_nothing_is_lost(evaluated, runs, capsys):
    before = sorted(os.listdir(os.path.join(evaluated, "rows")))
    assert main(["evaluate", "--runs", *runs, "--out", evaluated, *EVALUATE, "--seed", "9"]) == 1
    assert "out folder" in capsys.readouterr().err
    assert sorted(os.listdir(os.path.join(evaluated, "rows"))) == before


def test_report_needs_rows_only(evaluated, capsys):
    os.remove(os.path.join(evaluated, "report.html"))
    assert main(["report", evaluated]) == 0
    assert "report.html" in capsys.readouterr().out
    assert os.path.exists(os.path.join(evaluated, "report.html"))


def test_a_killed_evaluation_goes_on_and_ends_the_same(evaluated, runs, tmp_path):
    out = str(tmp_path / "killed")
    words = [sys.executable, "-m", "advjax", "evaluate", "--runs", *runs, "--out", out, *EVALUATE]
    parts = os.path.join(out, "rows")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if os.path.isdir(parts) and len(os.listdir(parts)) >= 4:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    stored = store.Store(out).keys()
    assert 1 <= len(stored) < 10
    assert main(words[3:]) == 0
    a, b = store.Store(out).read(), store.Store(evaluated).read()
    for rows in (a, b):
        order = np.lexsort((rows["example_id"], rows["eps"], rows["attack"], rows["model"]))
        rows.update({name: column[order] for name, column in rows.items()})
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_training_again_has_nothing_to_do(runs, capsys):
    assert main(["train", "--out", runs[0], *TRAIN]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_metrics_of_the_rows_are_those_of_the_summary(evaluated):
    from advjax import report

    rows = store.Store(evaluated).read(model="pgd", attack="pgd-3")
    order = np.lexsort((rows["example_id"], rows["eps"]))
    success = rows["success"][order].reshape(2, 12)
    wrong = rows["wrong_when_clean"][order].reshape(2, 12)[0]
    expected = metrics.robust_accuracy(success, wrong)
    found = [
        entry for entry in report.summary(evaluated)
        if entry["model"] == "pgd" and entry["attack"] == "pgd-3"
    ]  # fmt: skip
    assert found
    assert any(np.isclose(e["robust_accuracy"], expected[-1]) for e in found)
