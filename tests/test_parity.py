"""The parity table and the bench of AutoAttack: their smallest settings, and their judgements."""

import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from advjax import losses

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture
def made(script, tmp_path, monkeypatch):
    """A golden of our own: FGSM and the cross entropy of a tiny net, by their formulas."""
    nets = script("_golden_nets")
    rng = np.random.default_rng(0)
    golden = {
        "w1": rng.normal(size=(3, 3, 1, 2)), "b1": rng.normal(size=2),
        "w2": rng.normal(size=(3, 3, 2, 3)), "b2": rng.normal(size=3),
        "w3": rng.normal(size=(3, 2)), "b3": rng.normal(size=2),
        "x": rng.uniform(size=(3, 6, 5, 1)), "y": np.array([0, 1, 1]), "fgsm/eps": 0.01,
    }  # fmt: skip
    with jax.enable_x64(True):

        def total(x):
            logits = nets.forward(golden, x, (2, 2))
            return jax.vmap(losses.cross_entropy)(logits, golden["y"]).sum()

        moved = golden["x"] + 0.01 * np.sign(jax.grad(total)(golden["x"]))
        logits = np.asarray(nets.forward(golden, golden["x"], (2, 2)))
    golden["fgsm/x_adv"] = np.clip(moved, 0, 1)
    golden["loss/logits"], golden["loss/y"] = logits, golden["y"]
    golden["loss/ce"] = np.log(np.exp(logits).sum(1)) - logits[range(3), golden["y"]]
    monkeypatch.setenv(nets.GOLDEN, str(tmp_path))

    def save(**changed):
        np.savez(tmp_path / "net_gray_2class.npz", **(golden | changed))
        return golden

    return save


WORDS = ["--no-peers", "--nets", "net_gray_2class", "--only", "fgsm", "loss"]


def test_a_table_that_holds(made, script, tmp_path, capsys):
    made()
    script("parity").main([*WORDS, "--out", str(tmp_path / "parity.json")])
    said = capsys.readouterr().out
    assert "2 of 2 bounds held" in said
    assert "golden, loss dlr net_gray_2class: no golden" in said
    told = json.loads((tmp_path / "parity.json").read_text())
    assert told["missed"] == 0
    assert [row["attack"] for row in told["rows"]] == ["loss", "loss", "fgsm"]
    assert str(tmp_path) not in (tmp_path / "parity.json").read_text()


def test_a_bound_that_is_missed_is_the_exit_status(made, script, capsys):
    golden = made()
    made(**{"fgsm/x_adv": golden["fgsm/x_adv"] + 1e-6})
    with pytest.raises(SystemExit) as end:
        script("parity").main(WORDS)
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert "1 of 2 bounds held" in said
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("fgsm")] == ["NO"]


@pytest.mark.golden
def test_projections_hold(script, golden_dir, capsys):
    script("parity").main([*WORDS[:4], "projection"])
    assert "4 of 4 bounds held" in capsys.readouterr().out


def test_an_unknown_attack_or_no_folder_is_said(made, script, monkeypatch):
    made()
    with pytest.raises(SystemExit, match="nothing-like-it: no attack of the table"):
        script("parity").main([*WORDS[:4], "nothing-like-it"])
    monkeypatch.delenv(script("_golden_nets").GOLDEN)
    with pytest.raises(SystemExit, match="ADVJAX_GOLDEN_DIR: set it to the folder"):
        script("parity").main(WORDS)


def test_distances_are_judged_where_the_golden_succeeded(script):
    goldens = script("_parity_goldens")
    golden = [1.0, 2.0, 4.0, np.inf]

    def held(found):
        return [goldens.judged(m)["held"] for m in goldens.distances(found, golden)]

    assert held([0.5, 2.0, 4.3, np.inf]) == [True, True, True]
    # median, worst, missed
    assert held([1.05, 2.05, 4.0, 3.0]) == [False, True, True]
    assert held([1.2, 2.0, 4.0, 3.0]) == [True, False, True]
    assert held([1.0, 2.0, np.inf, 3.0]) == [True, True, False]
    assert held([np.inf] * 4) == [False]
    assert not goldens.judged(goldens.Measured("points", np.nan, 1.0))["held"]


def test_defects_of_the_peers_are_named(script):
    peers = script("_parity_peers")
    rows = list(peers.defects(["foolbox", "torchattacks", "art"], lambda attack: True))
    named = {(row["against"], row["attack"]) for row in rows}
    assert {("torchattacks", "cw_l2"), ("foolbox", "mifgsm"), ("art", "autoattack")} <= named
    # what is not compared is in no row that compares
    compared = {(peer, attack) for peer, attack, *_ in peers.ATTACKS}
    assert not compared & {(row[0], name) for row in named for name in row[1].split(", ")}


@pytest.mark.slow
def test_a_tiny_autoattack_prints_its_table(script, tmp_path, monkeypatch, capsys):
    bench = script("bench_autoattack")
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 0.8, size=(8, 4, 4, 1)).astype(np.float32)
    weights = rng.normal(size=(16, 2)).astype(np.float32)

    def logits_fn(params, x):
        return (x - 0.5).reshape(len(x), -1) @ params

    labels = np.asarray(logits_fn(weights, images)).argmax(1)
    work = bench.Work("linear", logits_fn, weights, images, labels, 2, None)
    monkeypatch.setattr(bench, "load_golden", lambda examples: work)
    out = tmp_path / "bench.json"
    bench.main([
        "--no-peers", "--norms", "linf", "--budgets", "8", "--steps", "3", "--queries", "4",
        "--out", str(out),
    ])  # fmt: skip
    assert "linear: 8 images, 2 classes, 3 steps, 4 queries" in capsys.readouterr().out
    told = json.loads(out.read_text())
    (row,) = told["rows"]
    # a linear model falls where the budget reaches its margin, and to the first attack
    logits = logits_fn(weights, images)
    margin = np.abs(logits[:, 0] - logits[:, 1]) / np.abs(weights[:, 0] - weights[:, 1]).sum()
    assert row["robust accuracy"] == [(margin > 8 / 255).mean()]
    broken = int((margin <= 8 / 255).sum())
    assert row["broken by"] == {"apgd-ce": broken, "": 8 - broken}
    assert row["compile s"] > 0
    assert 0 < row["useful"] <= row["rows"]
    assert len(told["load"]) == 3


def test_every_shape_is_compiled_apart_and_budgets_go_together_last(script, monkeypatch):
    bench = script("bench_autoattack")
    called = []

    def ours(work, norm, epsilons, args, *, cold):
        called.append((epsilons, cold))
        return {"program": "advjax", "eps": str(epsilons), "seconds": sum(epsilons), "norm": norm,
                "budgets": len(epsilons)}  # fmt: skip

    monkeypatch.setattr(bench, "_ours", ours)
    args = bench._parse(["--no-peers"])
    rows = bench._measure(None, "linf", (1.0, 2.0), args)
    assert called == [((1.0,), True), ((2.0,), False), ((1.0, 2.0), True)]
    assert rows[-1]["/ dearest"] == 1.5


def test_all_budgets_together_are_bounded_by_the_dearest(script):
    bench = script("bench_autoattack")

    def ours(eps, seconds, budgets=1, robust="3"):
        return {
            "program": "advjax", "norm": "linf", "eps": eps, "seconds": seconds,
            "budgets": budgets, "robust": robust,
        }  # fmt: skip

    peers = [
        {"program": f"torchattacks, {n} steps", "norm": "linf", "eps": "1", "seconds": s,
         "robust": "2", "steps": n}
        for n, s in ((10, 2.0), (100, 20.0))
    ]  # fmt: skip
    rows = bench.compare([ours("1", 10.0), *peers, ours("2", 4.0), ours("1/2", 17.0, 2, "3/1")])
    assert rows[0]["/ as shipped"] == 5
    assert rows[0]["/ our steps"] == 0.5
    assert rows[0]["above, 100 steps"] == 1
    (bound,) = bench.check_bounds(rows)
    assert bound["value"] == 1.7
    assert not bound["held"]
