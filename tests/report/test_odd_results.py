"""Results that are small, many, unfinished, broken or hostile: the reports still say what is so."""

import re

import numpy as np
import pandas as pd
import pytest

from advjax import metrics, report
from advjax.report import _decisions, _format, _images, _statistics
from advjax.report._doubts import baseline
from advjax.report._results import load
from advjax.store import Store, write_panel
from tests.report.fake import write_results
from tests.report.page import Page
from tests.report.test_report import cells, small


def test_one_model_one_budget_no_panels_no_clean_rows(tmp_path):
    page = small(tmp_path, models=("only",), epsilons=(4 / 255,), clean_rows=False,
                 class_names=("normal", "pneumonia"))  # fmt: skip
    assert page.words.startswith("How robust is this model?", page.words.index("How", 20))
    assert "only gets" in page.words
    assert "Positive: pneumonia." in page.words
    assert page.images == []
    assert not any(t.get("data-metric") == "glance" for t in page.tables)


def test_multi_label(tmp_path):
    names = tuple(f"finding {i}" for i in range(4))
    page = small(tmp_path, task="multi", class_names=names, panels=2)
    rows = Store(tmp_path).read(model="standard", attack="none")
    expected = metrics.auroc(rows["probabilities"], rows["target"]).mean
    got = [
        float(c["data-value"])
        for m, _, c in cells(page, "auroc")
        if m == "standard" and float(c["data-eps"]) == 0
    ]
    assert got == [pytest.approx(expected, abs=1e-6)]
    assert "Mean over the findings." in page.words
    for words in ("What “right” means", "Which findings break first", "at once on",
                  "A decision is one finding on one image"):  # fmt: skip
        assert words in page.words.replace("\u00a0", " ")
    assert "of all decisions right" in report.summary_table(tmp_path).replace("\n", " ")


def test_decisions_agree_with_the_rows(tmp_path):
    names = ("effusion", "mass", "hernia")
    page = small(tmp_path, task="multi", class_names=names, attacks=("pgd", "bim"))
    frame = pd.read_parquet(tmp_path / "rows").sort_values("example_id")
    budgets = (0.0, 2 / 255, 4 / 255)
    for model in ("standard", "pgd-trained"):
        right = {}
        for attack in ("pgd", "bim"):
            for eps in budgets:
                name = attack if eps else "none"
                rows = frame[(frame.model == model) & (frame.attack == name)
                             & np.isclose(frame.eps, eps)]  # fmt: skip
                said, truth = (np.stack(rows[c].to_list()) for c in ("probabilities", "target"))
                right[attack, eps] = (said > 0.5) == (truth > 0)
        up_to = np.logical_and.accumulate(
            [right["pgd", eps] & right["bim", eps] for eps in budgets], axis=0
        )
        assert 0 < up_to[-1].mean() < up_to[0].mean()  # the attack did something, and not all
        shown = [
            c for m, a, c in cells(page, "decisions-robust") if (m, a) == (model, "all attacks")
        ]
        got = [float(c["data-value"]) for c in shown]
        np.testing.assert_allclose(got, up_to.mean((1, 2)), atol=1e-8)
        shown = [c for m, a, c in cells(page, "decisions-alone") if (m, a) == (model, "pgd")]
        alone = [(right["pgd", 0.0] & right["pgd", eps]).mean() for eps in budgets]
        np.testing.assert_allclose([float(c["data-value"]) for c in shown], alone, atol=1e-8)
        for k, name in enumerate(names):
            shown = [c for m, a, c in cells(page, "class") if m == model and a.startswith(name)]
            got = [float(c["data-value"]) for c in shown]
            np.testing.assert_allclose(got, up_to[:, :, k].mean(1), atol=1e-8)


def test_unknown_findings_do_not_count():
    target = np.array([[1, -1], [0, 1]])
    held = np.array([[[True, False], [False, True]]])
    share = _decisions.share(held, target)(np.array([[1.0, 1.0], [2.0, 1.0]]))
    np.testing.assert_allclose(share, [[2 / 3], [3 / 4]])


def test_a_tie_or_nan_is_no_right_decision():
    said = np.array([[0.5, 0.5, np.nan, 0.6, 0.4]])
    right = _decisions.right(said, np.array([[1, 0, 1, 1, 0]]))
    assert right.tolist() == [[False, False, False, True, True]]


@pytest.mark.parametrize("task", ["single", "multi"])
def test_a_model_at_chance_is_doubted(tmp_path, task):
    store = write_results(tmp_path, models=("good",), attacks=("pgd",), epsilons=(0.01,), task=task,
                          num_examples=60, panels=0, bootstrap=20, clean_rows=True)  # fmt: skip
    rows = store.read()
    lazy = np.full_like(rows["probabilities"], 0.01)
    if task == "single":
        lazy[:, np.bincount(rows["target"][:, 0]).argmax()] = 0.94
    wrong = rows["target"][:, 0] != lazy.argmax(1) if task == "single" else rows["target"].any(1)
    changed = {"model": "lazy", "probabilities": lazy, "wrong_when_clean": wrong, "success": wrong}
    store.write({**rows, **changed}, key="lazy")
    doubts = [line for found in _statistics.compute(load(tmp_path)) for line in baseline(found)]
    assert len(doubts) == 1
    assert doubts[0].startswith("lazy on phantom:dermoscopy: gets ")


def test_undefined_classes_are_named(tmp_path):
    page = small(tmp_path, class_names=("a", "b", "c", "hernia"), num_examples=3)
    assert "left out: hernia" in page.words
    assert "Without any image here: hernia" in page.words


def test_many_models_and_classes(tmp_path):
    page = small(tmp_path, models=tuple("abcdefghi"), num_examples=80,
                 class_names=tuple(f"class {i}" for i in range(40)))  # fmt: skip
    assert "The 30 weakest of 40 classes" in page.words
    (lead,) = [t for t in page.tables if t.get("data-metric") == "glance"]
    assert len(lead["rows"][1]["cells"]) == 1 + 9 + 1


def test_two_data_sets_and_two_norms_are_kept_apart(tmp_path):
    store = write_results(tmp_path, data="one", attacks=("pgd", "pgd-l2"), epsilons=(0.01, 0.02),
                          num_examples=30, panels=0, bootstrap=40,
                          norms={"pgd-l2": "l2"})  # fmt: skip
    write_results(tmp_path, data="two", attacks=("pgd", "pgd-l2"), epsilons=(0.01, 0.02),
                  num_examples=20, panels=0, bootstrap=40, store=store,
                  norms={"pgd-l2": "l2"})  # fmt: skip
    page = Page(report.build(tmp_path).read_text())
    for words in ("Curves: one, linf attacks", "Curves: two, l2 attacks", "budget ε (l2 norm)"):
        assert words in page.words or words in (tmp_path / "report.html").read_text()
    combined = {(r["data"], r["norm"], r["attack"]) for r in report.summary(tmp_path)}
    assert combined == {(d, n, a) for d in ("one", "two")
                        for n, a in (("linf", "pgd"), ("l2", "pgd-l2"))}  # fmt: skip


def test_each_data_set_has_its_own_class_names(tmp_path):
    settings = {"attacks": ("pgd",), "epsilons": (0.01,), "num_examples": 20, "panels": 0}
    store = write_results(tmp_path, data="one", class_names=("a", "b", "c"), **settings)
    write_results(tmp_path, data="two", class_names=("x", "y"), store=store, **settings)
    told = {name: {"task": "single", "class_names": list(words)}
            for name, words in (("one", "abc"), ("two", "xy"))}  # fmt: skip
    store.write_manifest(extra={"data": told})
    groups = {group.data: group.class_names for group in load(tmp_path).groups}
    assert groups == {"one": ("a", "b", "c"), "two": ("x", "y")}


def test_restarts_are_merged_into_the_worst(tmp_path):
    store = write_results(tmp_path, models=("m",), attacks=("pgd",), epsilons=(0.02,), panels=0,
                          num_examples=30, bootstrap=20)  # fmt: skip
    rows = store.read(attack="pgd")
    again = {**rows, "restart": 1, "success": ~rows["success"] & ~rows["wrong_when_clean"]}
    store.write(again, key="second restart")
    found = [r for r in report.summary(tmp_path) if r["eps"] > 0]
    assert [r["robust_accuracy"] for r in found] == [0.0]


def test_unfinished_evaluations_say_what_is_missing(tmp_path):
    store = write_results(tmp_path, num_examples=30, attacks=("pgd", "bim"), panels=0,
                          epsilons=(0.01, 0.02), bootstrap=20)  # fmt: skip
    first = store.read(model="pgd-trained", attack="bim", eps=0.01)
    store.write(first, key="phantom:dermoscopy pgd-trained bim", overwrite=True)
    half = store.read(model="standard", attack="pgd", eps=0.01)
    part = {name: values[:10] for name, values in half.items()}
    store.write({**part, "eps": 0.03}, key="half")
    page = Page(report.build(tmp_path).read_text())
    assert "eps 0.03 is incomplete (10 of 30 examples)" in page.words
    missing = [r for r in report.summary(tmp_path)
               if (r["model"], r["attack"], r["eps"]) == ("pgd-trained", "bim", 0.02)]  # fmt: skip
    assert np.isnan(missing[0]["robust_accuracy"])


def test_outputs_that_are_not_known_are_left_out_and_said(tmp_path):
    store = write_results(tmp_path, models=("m",), attacks=("pgd",), epsilons=(0.02,), panels=0,
                          num_examples=40, bootstrap=20)  # fmt: skip
    rows = store.read(attack="pgd")
    probabilities = [row if index % 2 else [] for index, row in enumerate(rows["probabilities"])]
    rows = {**rows, "probabilities": probabilities, "evaluated": np.arange(40) % 2 == 1}
    store.write(rows, key="phantom:dermoscopy m pgd", overwrite=True)
    page = Page(report.build(tmp_path).read_text())
    (value,) = [float(c["data-value"]) for _, _, c in cells(page, "confidence")
                if float(c["data-eps"]) > 0]  # fmt: skip
    assert value == pytest.approx(rows["confidence"][1::2].mean(), rel=1e-6)
    assert "columns cannot be compared" in page.words
    (table,) = (t for t in page.tables if t.get("data-metric") == "auroc")
    assert table["rows"][-1]["cells"][-1]["text"].strip() == _format.MISSING
    # attacked, but not stored
    store.write({**rows, "evaluated": True}, key="phantom:dermoscopy m pgd", overwrite=True)
    page = Page(report.build(tmp_path).read_text())
    assert "Only over images whose attacked output is stored." in page.words


def test_nan_outputs_and_flags_are_said(tmp_path):
    store = write_results(tmp_path, models=("m",), attacks=("pgd",), epsilons=(0.02, 0.04),
                          panels=0, num_examples=40, bootstrap=20)  # fmt: skip
    rows = store.read(attack="pgd")
    last = rows["eps"] == 0.04
    rows["probabilities"][np.flatnonzero(last)[:3]] = np.nan
    rows["success"][last] = False
    rows["status"][last] = 2
    store.write(rows, key="phantom:dermoscopy m pgd", overwrite=True)
    words = Page(report.build(tmp_path).read_text()).words
    assert "3 for m under pgd" in words
    assert "NaN or infinite" in words
    assert "the attack is too weak there" in words


HOSTILE = '<script>alert("x")</script>&\'"$^_{}'


def test_hostile_names_are_escaped(tmp_path):
    write_results(tmp_path, models=(HOSTILE, f"_{HOSTILE}"), attacks=(HOSTILE,), panels=2,
                  epsilons=(4 / 255,), class_names=(HOSTILE, "b"), data=HOSTILE, num_examples=20,
                  bootstrap=20)  # fmt: skip
    html = report.build(tmp_path).read_text()
    assert html.lower().count("<script") == 1  # ours, which the policy names by its hash
    assert Page(html).outside == []
    page = Page(html)
    assert page.outside == []
    assert page.open == []
    assert {m for m, _, _ in cells(page, "robust")} == {HOSTILE, f"_{HOSTILE}"}
    assert any(HOSTILE in image["alt"] for image in page.images)


def test_pages_stay_of_bearable_size(tmp_path, monkeypatch):
    monkeypatch.setattr(_images, "_MOST_BYTES", 400_000)
    write_results(tmp_path, models=("m",), attacks=("pgd",), epsilons=(4 / 255,), num_examples=20,
                  bootstrap=20, panels=0)  # fmt: skip
    before = report.build(tmp_path).stat().st_size
    clean = np.random.default_rng(0).random((12, 140, 140, 3)).astype(np.float32)
    write_panel(
        tmp_path, model="m", attack="pgd", eps=4 / 255, clean=clean, adv=clean,
        target=np.zeros(12, int), clean_probabilities=np.ones((12, 7)) / 7,
        adv_probabilities=np.ones((12, 7)) / 7, example_id=np.arange(12),
        class_names=[str(i) for i in range(7)],
    )  # fmt: skip
    path = report.build(tmp_path)
    assert path.stat().st_size - before < 450_000
    words = Page(path.read_text()).words
    assert re.search(r"(10|11) more are stored in panels/", words)
    assert re.search("Images are 140.140 and shown smaller.", words)
    assert "No pixel was changed." in words
