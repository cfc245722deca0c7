"""The benches run: a tiny workload in this process, and what they say of their rows."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from advjax import attacks, engine, losses, threat

pytestmark = pytest.mark.unoptimised

ROOT = Path(__file__).parent.parent
TINY = ["--no-peers", "--examples", "12", "--budgets", "2", "--steps", "3", "--slots", "4"]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("bench_engine")
    # a process of its own per row takes seconds to start
    monkeypatch.setattr(module, "_apart", lambda function, *arguments: function(*arguments))
    return module


def _load(task):
    """A linear model of random images, in place of a run: it compiles at once."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (task.examples, 4, 4, 1)).astype(np.float32)
    weights = rng.normal(0, 1, (16, 2)).astype(np.float32)

    def apply(params, x):
        return (x - 0.5).reshape(len(x), -1) @ params

    def make_attack(params):
        objective = attacks.from_logits(lambda x: apply(params, x), loss=losses.cross_entropy)
        return attacks.pgd(objective, threat.linf(), num_steps=task.steps, step_size=0.25)

    logits = np.asarray(apply(weights, images))
    targets = logits.argmax(-1).astype(np.int32)
    right = np.ones(task.examples, bool)
    return sys.modules["_workload"].Loaded(
        make_attack, weights, None, 2, images, targets, logits, right
    )


@pytest.mark.slow
def test_a_tiny_workload_prints_its_table_and_keeps_no_path(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["_workload"], "load", _load)
    folder, out = tmp_path / "run", tmp_path / "bench.json"
    folder.mkdir()
    (folder / "config.json").touch()
    words = ["--orders", "search", "ascending", "--rounds", "1", "--run", f"tiny={folder}"]
    bench.main([*TINY, *words, "--out", str(out)])
    said = capsys.readouterr().out
    assert "12 images, 2 budgets, PGD-3, 4 slots" in said
    assert "points between search and ascending" in said
    told = json.loads(out.read_text())
    rows = {row["program"]: row for row in told["rows"]}
    assert list(rows) == ["search", "search, 2 starts", "ascending"]
    assert all(row["model"] == "tiny" and len(row["robust"]) == 2 for row in told["rows"])
    assert 0 < rows["search"]["useful"] <= rows["search"]["rows"]
    assert rows["ascending"]["tick / step"] > 0
    assert str(tmp_path) not in out.read_text()


def test_a_run_that_is_not_there_is_made_by_a_command(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"advjax train .*pneumonia_standard\.py"):
        bench.main(["--no-peers"])


def test_bounds_say_what_was_missed(bench):
    rows = [
        {
            "model": "m",
            "program": "search",
            "fewer rows": 12.0,
            "share": 0.85,
            "/ search": 1.0,
            "above alike": 2,
        },
        {"model": "m", "program": "torchattacks", "fewer rows": 1.0, "/ search": None},
    ]
    bounds = {bound["what"]: bound["held"] for bound in bench.check_bounds(rows)}
    assert bounds == {
        "exhaustive rows / rows of search": True, "useful share of search": False,
        "the same, both from our starts": False,
    }  # fmt: skip


def test_a_peer_is_given_the_starts_of_the_sweep(bench):
    peers, workload = (sys.modules[name] for name in ("_peers", "_workload"))
    work = _load(workload.Task("", 6, (0.1,), 1, 0.25, 4))
    work = work._replace(right=np.arange(6) % 2 == 0)

    def stays(params):
        # one step of next to nothing: what comes back is the start
        objective = work.make_attack(params).spec.objective
        return attacks.pgd(objective, threat.linf(), num_steps=1, step_size_abs=1e-9, keep="last")

    started = engine.reference(
        stays, work.variables, work.images, work.targets, 0.1, key=jax.random.key(workload.SEED)
    ).x_adv
    moves = peers._our_starts(work, 0.1).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(work.images[::2] + moves, started[::2], atol=1e-7)
    assert (np.abs(moves) > 0.01).any()


def test_budgets_of_the_peers_are_spread(bench):
    assert bench._spread(16, None) == tuple(range(16))
    assert bench._spread(16, 2) == (4, 12)
    assert bench._spread(2, 5) == (0, 1)


@pytest.mark.slow
def test_a_bench_of_training_names_its_passes(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("bench_training")
    out = tmp_path / "bench.json"
    words = ["--width", "1", "--size", "8", "--batch", "2", "--steps", "1", "--rounds", "1"]
    module.main([*words, "--no-peers", "--methods", "trades", "--out", str(out)])
    assert "ResNet-18 width 1, batch (2, 8, 8, 1), PGD-1" in capsys.readouterr().out
    rows = {row["program"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["bare"]["per pass"] == 1
    assert rows["trades"]["passes"] == 3
    found = {name: module.passes(name, 5, 9) for name in ("standard", "pgd", "mart", "mpadvt")}
    assert found == {"standard": 1, "pgd": 6, "mart": 7, "mpadvt": 10}


BENCHES = ["bench_step", "bench_engine", "bench_autoattack", "bench_training", "parity"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", BENCHES)
def test_benches_explain_themselves(name):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{name}.py", "--help"], cwd=ROOT, text=True,
        capture_output=True, env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}, check=True,
    )  # fmt: skip
    assert "--out" in done.stdout
