"""Train, evaluate, report: the main job in small, killed and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from advjax import metrics, report, store
from advjax.cli import _cell, main
from tests.xla_flags import as_here

pytestmark = pytest.mark.unoptimised

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


def _start(words):
    return subprocess.Popen(
        words, env=as_here(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_the_same(evaluated, runs, tmp_path):
    out = str(tmp_path / "killed")
    words = [sys.executable, "-m", "advjax", "evaluate", "--runs", *runs, "--out", out, *EVALUATE]
    parts = os.path.join(out, "rows")
    process = _start(words)
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


SWEEP = [
    "--attacks", "fgsm", "pgd:num_steps=3", "--epsilons", "2/255", "8/255", "--bootstrap", "50",
    "--panels", "3", "--slots", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def swept(runs, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("sweep") / "out")
    assert main(["sweep", "--runs", *runs, "--out", out, *SWEEP]) == 0
    return out


def ordered(folder):
    rows = store.Store(folder).read()
    names = ("example_id", "eps", "attack", "model")
    order = np.lexsort([rows[name] for name in names])
    return {name: column[order] for name, column in rows.items()}


def assert_same(rows, wanted):
    """The same rows, but for last bits of what is measured (seen once: 2 of 120 by 3e-8)."""
    assert rows.keys() == wanted.keys()
    for name, column in wanted.items():
        if column.dtype.kind == "f" and name != "eps":
            np.testing.assert_allclose(rows[name], column, rtol=1e-6, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(rows[name], column, err_msg=name)


@pytest.mark.slow
def test_an_exhaustive_sweep_has_the_rows_of_the_evaluation(evaluated, runs, tmp_path):
    out = str(tmp_path / "exhaustive")
    assert main(["sweep", "--runs", *runs, "--out", out, *SWEEP, "--order", "exhaustive"]) == 0
    a, b = ordered(out), ordered(evaluated)
    attacked = ~a["wrong_when_clean"] | (a["attack"] == "none")
    for name in ("model", "attack", "example_id", "eps", "success", "wrong_when_clean", "target"):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert a["evaluated"][attacked].all()
    for name in ("num_steps", "num_grads", "status"):
        np.testing.assert_array_equal(a[name][attacked], b[name][attacked], err_msg=name)
    for name in ("loss", "linf", "l2", "probabilities", "confidence"):
        np.testing.assert_allclose(a[name][attacked], b[name][attacked], atol=1e-5, err_msg=name)


def test_a_swept_row_says_what_is_known(swept, evaluated):
    rows, brute = ordered(swept), ordered(evaluated)
    assert len(rows["eps"]) == len(brute["eps"])
    assert (rows["success"] == brute["success"]).mean() > 0.97
    attacked = rows["attack"] != "none"
    assert (rows["linf"][attacked] <= rows["eps"][attacked] + 1e-6).all() or (
        # a failure at a larger budget stands for a smaller one that was not computed
        ~rows["evaluated"][attacked & (rows["linf"] > rows["eps"] + 1e-6)]
    ).all()
    shown = rows["probabilities"].argmax(1) != rows["target"][:, 0]
    np.testing.assert_array_equal(rows["success"], shown)
    wrong = attacked & rows["wrong_when_clean"]
    assert not rows["evaluated"][wrong].any()
    assert (rows["num_grads"][wrong] == 0).all()
    text = (store.Store(swept).folder / "report.html").read_text()
    assert "Robust accuracy" in text
    manifest = store.Store(swept).manifest
    assert set(manifest["extra"]["cost"]) == {"standard", "pgd"}


def test_a_second_sweep_has_nothing_to_do(swept, runs, capsys):
    before = store.Store(swept).keys()
    capsys.readouterr()
    assert main(["sweep", "--runs", *runs, "--out", swept, *SWEEP]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert store.Store(swept).keys() == before
    assert main(["sweep", "--runs", *runs, "--out", swept, *SWEEP, "--restarts", "2"]) == 1


@pytest.mark.slow
def test_rows_that_are_gone_are_computed_again_to_the_same_table(swept, runs, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(swept, again)
    parts = sorted((again / "rows").iterdir())
    for part in parts[1::2]:
        part.unlink()
    assert main(["sweep", "--runs", *runs, "--out", str(again), *SWEEP]) == 0
    a, b = ordered(again), ordered(swept)
    for name in a:
        if a[name].dtype.kind == "f":
            # another batch of neighbours may round otherwise
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.slow
def test_shards_are_one_sweep(swept, runs, tmp_path, capsys):
    out = str(tmp_path / "shards")
    for i in range(2):
        words = ["--shard", f"{i}/2", "--diagnose", "False"]
        assert main(["sweep", "--runs", *runs, "--out", out, *SWEEP, *words]) == 0
        assert f"advjax report {out}" in capsys.readouterr().out
        if i == 0:
            assert main(["report", out]) == 0
            assert "shard-1-of-2 missing" in capsys.readouterr().err
            page = (tmp_path / "shards" / "report.html").read_text()
            assert "shards are missing" in page
    assert main(["report", out]) == 0
    a, b = ordered(out), ordered(swept)
    for name in ("example_id", "eps", "attack", "model", "success", "evaluated", "num_steps"):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_the_same(swept, runs, tmp_path):
    out = str(tmp_path / "killed")
    words = [sys.executable, "-m", "advjax", "sweep", "--runs", *runs, "--out", out, *SWEEP]
    kills = 0
    for wanted in (2, 4):
        process = _start(words)
        deadline = time.monotonic() + 240
        parts = os.path.join(out, "rows")
        while process.poll() is None and time.monotonic() < deadline:
            if os.path.isdir(parts) and len(os.listdir(parts)) >= wanted:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 2
    assert main(words[3:]) == 0
    assert_same(ordered(out), ordered(swept))


def test_a_sweep_killed_after_its_last_row_still_has_its_doubts(runs, tmp_path, monkeypatch):
    words = ["--runs", runs[0], "--attacks", "pgd:num_steps=2,step_size=0.01", "--panels", "2"]
    words += ["--epsilons", "2/255", "8/255", "--bootstrap", "50"]
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    assert main(["sweep", "--out", whole, *words]) == 0

    class Kill(BaseException):
        pass

    def kill(*_):
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(_cell.Cell, "conclude", kill)
        with pytest.raises(Kill):
            main(["sweep", "--out", killed, *words])
    assert main(["sweep", "--out", killed, *words]) == 0
    assert_same(ordered(killed), ordered(whole))
    extra, wanted = (store.Store(folder).manifest["extra"] for folder in (killed, whole))
    assert extra["trust"] == wanted["trust"] != []
    assert extra["cost"].keys() == wanted["cost"].keys()
    assert len(os.listdir(f"{killed}/panels")) == len(os.listdir(f"{whole}/panels")) > 0


@pytest.mark.slow
def test_a_sweep_killed_twenty_times_loses_and_doubles_nothing(runs, tmp_path):
    script = os.path.join(os.path.dirname(__file__), "kill.py")
    words = ["sweep", "--runs", *runs, "--out", "{out}", *SWEEP, "--seeds", "0", "1"]
    # what is traced by every child is kept small
    words += ["--attacks", "pgd:num_steps=3", "--diagnose", "False", "--panels", "0"]
    found = subprocess.run(
        [sys.executable, script, "7", "20", str(tmp_path), *words],
        capture_output=True, text=True, timeout=900, check=False,
        # a killed process may leave half a program in the cache
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    folders, kills = map(int, found.stdout.split()[-2:])
    assert kills == 20
    whole = ordered(str(tmp_path / "whole0"))
    assert len(whole["eps"]) == 2 * 12 * (1 + 2 * 2)
    table = report.summary_table(str(tmp_path / "whole0"))
    for folder in range(folders):
        assert_same(ordered(str(tmp_path / str(folder))), whole)
        assert report.summary_table(str(tmp_path / str(folder))) == table


@pytest.mark.slow
def test_models_that_are_swept_together_have_the_same_rows(swept, runs, tmp_path):
    out = str(tmp_path / "stacked")
    words = [*SWEEP, "--attacks", "pgd:num_steps=3", "--stack", "vmap"]
    assert main(["sweep", "--runs", *runs, "--out", out, *words]) == 0
    a, b = ordered(out), ordered(swept)
    b = {name: column[b["attack"] != "fgsm"] for name, column in b.items()}
    for name in ("example_id", "eps", "attack", "model", "success", "evaluated", "num_steps"):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    np.testing.assert_allclose(a["loss"], b["loss"], atol=1e-4)
    # one model lacks rows that the other has: nothing is stored twice
    os.unlink(sorted((tmp_path / "stacked" / "rows").iterdir())[-1])
    assert main(["sweep", "--runs", *runs, "--out", out, *words]) == 0
    assert len(ordered(out)["eps"]) == len(b["eps"])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "sweep"])
def test_gradients_in_bfloat16_give_rows_judged_in_float32(command, runs, tmp_path, capsys):
    out = str(tmp_path / "out")
    words = [command, "--runs", runs[1], "--out", out, "--attacks", "bim:num_steps=3"]
    words += ["--epsilons", "2/255", "8/255", "--bootstrap", "50", "--panels", "0"]
    low = ["--gradient-dtype", "bfloat16"]
    assert main([*words, *low]) == 0
    rows = ordered(out)
    shown = rows["probabilities"].argmax(1) != rows["target"][:, 0]
    np.testing.assert_array_equal(rows["success"], shown)
    assert 0 < rows["success"].sum() < len(shown)
    assert "followed bfloat16 gradients" in (store.Store(out).folder / "report.html").read_text()
    assert main(words) == 1  # the rows of another precision
    assert main([*words, *low]) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--stack", "sideways"], "stack"),
        (["--shard", "2/2"], "0 <= i < n"),
        (["--shard", "half"], "0 <= i < n"),
        (["--order", "upwards"], "order"),
        (["--quantise", "7"], "quantise"),
        (["--seeds", "1", "1"], "seeds"),
        (["--slots", "0"], "slots"),
    ],
)
def test_impossible_sweeps_are_refused(words, match, capsys, tmp_path):
    out = ["--runs", "x", "--out", str(tmp_path / "o")]
    assert main(["sweep", *out, *words]) == 1
    assert match in capsys.readouterr().err
