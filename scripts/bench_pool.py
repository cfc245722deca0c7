"""A million result rows without a model: what pool and store cost beside it, in time and memory.

    python scripts/bench_pool.py [--examples 62500] [--slots 32 128] [--out FILE.json]

Images of one pixel, and an attack whose step adds a number to it: what is left of a tick is
planning, admission, retirement and the host's side. `kept` says what becomes of finished runs:
nothing, taken off the device, or stored as `advjax sweep` does, all million rows. Every case runs
in a process of its own, for its peak memory (of which JAX alone is the first line). A tick of a
real model takes 5 ms and more; 5 % of that are 250 us.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from types import SimpleNamespace

import _timing
import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, engine, losses, threat
from advjax.cli._cell import Cell, Clean
from advjax.config import SweepConfig
from advjax.store import Store

STEPS = 12
LIMIT = {"us per tick": 250.0, "peak MiB": 2048.0}
PIXEL = 0.5  # brighter is broken: an example x breaks at a budget of PIXEL - x


def make_attack(params):
    """PGD, but for its step, which differentiates nothing."""
    objective = attacks.from_logits(
        lambda x: jnp.concatenate([params - x, x - params], -1)[:, 0, 0], loss=losses.cross_entropy
    )
    pgd = attacks.pgd(objective, threat.linf(), num_steps=STEPS, step_size=0.25)

    def step(state, x0, target, eps, freeze=False):
        del target
        won = state.x[:, 0, 0, 0] > params
        active = ~(state.success & freeze)
        best = jnp.where((won & active)[:, None, None, None], state.x, state.best_x)
        eps = eps[:, None, None, None]
        return state._replace(
            x=jnp.minimum(state.x + eps / 4, x0 + eps),
            best_x=best,
            success=state.success | won,
            step=state.step + 1,
            num_grads=state.num_grads + 1,
            num_queries=state.num_queries + 1,
        )

    return pgd._replace(step=step)


def budgets(case):
    return np.arange(1, case["budgets"] + 1) / case["budgets"] * PIXEL


def sweep(case, x, y, **options):
    return engine.sweep(
        make_attack, np.float32(PIXEL), x, y, epsilons=budgets(case), key=jax.random.key(0),
        slots=case["slots"], order=case["order"], restarts=case["restarts"],
        memory_limit=case["limit MiB"] * 2**20, **options,
    )  # fmt: skip


def keeping(case, x, y, folder):
    """Return what is done with finished runs and decided examples."""
    if case["kept"] == "nothing":
        return {}
    if case["kept"] == "taken":
        return {"take": lambda attack, finished, examples: None}
    count = len(x)
    split = SimpleNamespace(ids=np.arange(count), targets=y, images=x)
    dataset = SimpleNamespace(name="data", task="single", num_classes=2)
    job = SimpleNamespace(
        subject=SimpleNamespace(name="model", dataset=dataset, split=split),
        spec=SimpleNamespace(cost=None),
    )
    half = np.full((count, 2), 0.5, np.float32)
    clean = Clean(np.zeros(count, bool), half, half[:, 0], np.zeros(count, np.float32))
    config = SweepConfig(epsilons=tuple(budgets(case)), restarts=case["restarts"])
    cell = Cell(Store(folder, identity={}), job, "pgd", config, clean)
    return {
        "take": lambda attack, finished, examples: cell.take(finished, examples),
        "done": lambda attack, examples, tables: cell.write(examples, tables),
    }


def measure(case):
    """Run one case, and return its row of the table."""
    x = np.random.default_rng(0).random((case["examples"], 1, 1, 1), np.float32) * PIXEL
    y = np.zeros(len(x), np.int32)
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as folder:
        # examples that are wrong when clean compile the same program and need no tick
        start = time.perf_counter()
        sweep(case, x, 1 - y, **keeping(case, x, 1 - y, warm))
        compiled = time.perf_counter()
        result = sweep(case, x, y, **keeping(case, x, y, folder))
        seconds = time.perf_counter() - compiled
        if case["kept"] == "stored":
            assert Store(folder).num_rows() == x.size * case["budgets"] * case["restarts"]
    # the clean gradients, from which a search starts, are batches of slots too
    ticks = result.rows_computed / case["slots"]
    expected = np.ceil((PIXEL - x.ravel()) / PIXEL * case["budgets"]) / case["budgets"] * PIXEL
    assert np.mean(np.abs(result.min_eps - expected) < 1e-6) > 0.99
    return {
        **case,
        "ticks": int(ticks),
        "seconds": seconds,
        "us per tick": 1e6 * seconds / ticks,
        "first s": compiled - start,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def cases(examples, slots):
    base = {
        "order": "search", "examples": examples, "budgets": 16, "restarts": 1, "slots": slots,
        "limit MiB": 1024, "kept": "nothing",
    }  # fmt: skip
    rows = 16 * examples
    return [
        base,
        base | {"order": "ascending"},
        base | {"order": "exhaustive"},
        base | {"examples": examples // 4, "restarts": 4},
        base | {"kept": "taken"},
        base | {"kept": "stored"},
        base | {"examples": rows, "budgets": 1},
        base | {"examples": rows, "budgets": 1, "limit MiB": 8},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=62500, help="at 16 budgets each")
    parser.add_argument("--slots", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--out", default=None, help="write the table as JSON here")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for slots in args.slots:
        for case in cases(args.examples, slots):
            with context.Pool(1) as process:
                rows.append(process.apply(measure, (case,)))
            print(_timing.table(rows[-1:]), flush=True)
    print(f"\n{16 * args.examples} result rows a case\n\n{_timing.table(rows)}")
    over = [row for row in rows if any(row[name] > most for name, most in LIMIT.items())]
    print(f"\n{len(over)} of {len(rows)} cases above {LIMIT}")
    if args.out:
        _timing.save(args.out, "bench_pool", rows, {"steps": STEPS, "limits": LIMIT})


if __name__ == "__main__":
    main()
