"""`advjax evaluate --attack autoattack` and the same under `sweep`."""

import numpy as np
import pytest

from advjax import report, store
from advjax.cli import main

pytestmark = pytest.mark.unoptimised

TRAIN = [
    "--data.source", "phantom:ct", "--data.size", "16", "--data.num-train", "64",
    "--data.num-val", "16", "--data.num-test", "12", "--model.name", "small_cnn",
    "--model.width", "4", "--epochs", "1", "--batch-size", "16",
]  # fmt: skip
ATTACK = ["--attack", "autoattack", "--epsilons", "2/255", "16/255", "--bootstrap", "50"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs") / "standard")
    assert main(["train", "--out", folder, *TRAIN]) == 0
    return folder


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("robustness") / "out")
    assert main(["evaluate", "--runs", run, "--out", out, *ATTACK]) == 0
    return out


@pytest.mark.slow
def test_rows_say_what_happened(evaluated):
    rows = store.Store(evaluated).read()
    assert set(rows["attack"]) == {"none", "autoattack"}
    attacked = {name: column[rows["attack"] == "autoattack"] for name, column in rows.items()}
    assert len(attacked["eps"]) == 2 * 12
    # the image that broke it is shown; where nothing did, the cascade kept none
    broken = attacked["success"]
    assert 0 < broken.sum() < len(broken)
    said = np.stack(list(attacked["probabilities"][broken])).argmax(1)
    assert (said != attacked["target"][broken, 0]).all()
    assert all(len(row) == 0 for row in attacked["probabilities"][~broken])
    assert (attacked["linf"] <= attacked["eps"] + 1e-6).all()
    wrong = attacked["wrong_when_clean"]
    assert (attacked["num_grads"][wrong] == 0).all()
    # what stands has been through all of it
    stood = attacked["evaluated"] & ~attacked["success"]
    assert (attacked["num_queries"][stood] >= 5000).all()
    extra = store.Store(evaluated).manifest["extra"]
    told = extra["cascades"]["standard"]["autoattack"]["broken_by"]
    assert list(told) == ["clean", "apgd-ce", "apgd-t", "fab-t", "square", "robust"]
    assert sum(told.values()) == 12
    assert "two classes" in extra["cascades"]["standard"]["autoattack"]["notes"][0]
    assert "autoattack" in report.summary_table(evaluated)


@pytest.mark.slow
def test_it_is_not_computed_twice_and_a_sweep_says_the_same(evaluated, run, tmp_path, capsys):
    assert main(["evaluate", "--runs", run, "--out", evaluated, *ATTACK]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["evaluate", "--runs", run, "--out", evaluated, *ATTACK[:4], "24/255"]) == 0
    more = store.Store(evaluated).read(attack="autoattack")
    assert set(np.round(more["eps"] * 255)) == {2, 16, 24}
    assert not list((store.Store(evaluated).folder / "resume").iterdir())
    out = str(tmp_path / "swept")
    assert main(["sweep", "--runs", run, "--out", out, *ATTACK]) == 0
    a, b = (store.Store(folder).read() for folder in (out, evaluated))
    old = b["eps"] < 20 / 255
    b = {name: column[old] for name, column in b.items()}
    for name in ("example_id", "eps", "attack", "success", "num_steps", "num_queries", "status"):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("autoattack:num_steps=5", "the steps that were published"),
        ("autoattack:version=best", "unknown version; known: standard, plus, rand"),
        ("pgd:version=plus", "only autoattack, uap and gap have versions"),
        ("autoattack:norm=l3", "unknown norm"),
    ],
)
def test_mistakes_get_one_line(attack, words, tmp_path, capsys):
    out = ["--runs", "x", "--out", str(tmp_path / "o"), "--epsilons", "0.01"]
    assert main(["evaluate", *out, "--attack", attack]) == 1
    assert words in capsys.readouterr().err
