"""What a whole robustness curve costs: `engine.sweep`, and loops over budgets elsewhere.

    python scripts/bench_engine.py --workload A [--run NAME=FOLDER ...] [--peer-budgets 2]
                                   [--out FILE.json]

Workload A: ResNet-18 of width 16 on pneumoniamnist_28.npz, trained by the two recipes in
experiments/configs; 256 test images, linf, 16 budgets 0.5/255 .. 8/255, PGD-100, step eps/4.
Gradient rows are backward passes of single images; the unit of the ratios is what every step of
every budget takes for the images that are right without an attack. Peers (torchattacks, Foolbox,
ART; the bench extra) attack those images only. Every row runs in a process of its own; seconds
are those of warm calls, compile time stands apart.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _peers
import _timing
import _workload
import numpy as np

from advjax.engine import ORDERS

Row = dict[str, Any]


class Workload(NamedTuple):
    """Recipes by name, and how they are attacked."""

    recipes: tuple[str, ...]
    examples: int
    budgets: tuple[float, ...]
    steps: int
    step_size: float


WORKLOADS = {
    "A": Workload(
        recipes=("pneumonia_standard", "pneumonia_pgd"),
        examples=256,
        budgets=tuple(k / 510 for k in range(1, 17)),
        steps=100,
        step_size=0.25,
    )
}
TWICE = "search, 2 starts"
OUR_STARTS = "torchattacks, our starts"
# columns of the table; JSON has more
SHOWN = (
    "model", "program", "rows", "useful", "share", "fewer rows", "seconds", "compile s",
    "peak MiB", "device MiB", "/ search", "points", "differ", "above", "above alike", "above best",
    "tick / step", "budgets",
)  # fmt: skip
LEGEND = """
rows, useful, share: gradient rows computed, those that served a live image, their share;
fewer rows: exhaustive rows / rows; / search: seconds over those of search, for peers of searches
timed between their budgets; peak MiB: of the process, JAX included; points, differ: largest
difference from ascending over the budgets, in points of robust accuracy, and share of images with
another minimal budget; above: by how many images the curve is above torchattacks' at the most, also
that of torchattacks with another seed;
above alike: the same where torchattacks starts at the points that ours draws, so that both differ
by no chance;
above best: above what torchattacks breaks at this or any smaller budget, each from its own start;
tick / step: cost of a tick of ascending over a bare jitted PGD step (paired, median).
"""


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    load = WORKLOADS[args.workload]
    folders = _folders(args.run, load)
    chosen = _spread(len(load.budgets), args.budgets)
    rows: list[Row] = []
    for model, folder in folders.items():
        task = _workload.Task(
            folder, args.examples or load.examples, tuple(load.budgets[i] for i in chosen),
            args.steps or load.steps, load.step_size, args.slots,
        )  # fmt: skip
        rows += _measure(model, task, args)
    print(
        f"\nworkload {args.workload}: {task.examples} images, {len(chosen)} budgets, "
        f"PGD-{task.steps}, {args.slots} slots\n"
    )
    # a column that nothing fills is not shown
    names = [n for n in SHOWN if any(row.get(n) is not None for row in rows)]
    print(_timing.table([{n: row.get(n) for n in names} for row in rows]))
    print(LEGEND)
    bounds = check_bounds(rows)
    for bound in bounds:
        print(
            f"{bound['model']}, {bound['what']}: {bound['value']:.4g} (wanted {bound['wanted']})"
            f"  {'held' if bound['held'] else 'MISSED'}"
        )
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k not in ("out", "run")}
        kept = [{k: v for k, v in row.items() if k != "min_eps"} for row in rows]
        _timing.save(args.out, "bench_engine", kept, settings, load=os.getloadavg(), bounds=bounds)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, default="A")
    parser.add_argument(
        "--run", nargs="+", metavar="[NAME=]FOLDER", help="runs of advjax train; NAME is printed"
    )
    parser.add_argument("--orders", nargs="*", choices=ORDERS, default=list(ORDERS[::-1]))
    parser.add_argument("--examples", type=int, help="other than the workload's")
    parser.add_argument("--budgets", type=int, help="so many of them, evenly spread")
    parser.add_argument("--steps", type=int, help="of PGD, other than the workload's")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of tick and step; 0: none")
    parser.add_argument("--peers", nargs="*", choices=_peers.PEERS, default=list(_peers.PEERS))
    parser.add_argument("--no-peers", dest="peers", action="store_const", const=[])
    parser.add_argument(
        "--peer-budgets", type=int,
        help="time Foolbox and ART on so many budgets and scale; torchattacks has its curve "
        "compared and runs on all",
    )  # fmt: skip
    parser.add_argument(
        "--peer-seeds", type=int, default=2, help="curves of torchattacks, to compare with itself"
    )
    parser.add_argument(
        "--peer-batch", type=int, default=256,
        help="images that the peers attack at once; torch is fastest with all of them",
    )  # fmt: skip
    parser.add_argument("--out", default=None, help="write the table as JSON here")
    args = parser.parse_args(argv)
    lacking = {name: _peers.missing(name) for name in args.peers}
    if any(lacking.values()):
        gone = ", ".join(f"{k} (no {v})" for k, v in lacking.items() if v)
        print(f"left out: {gone}; they are in the bench extra\n")
    args.peers = [name for name in args.peers if not lacking[name]]
    return args


def _folders(named: list[str] | None, load: Workload) -> dict[str, str]:
    """Return folders by the name to print, and say how to make those that are not there."""
    words = named or [f"{name}=runs/{name}" for name in load.recipes]
    pairs = [word.split("=", 1) if "=" in word else (Path(word).name, word) for word in words]
    for name, folder in pairs:
        if not (Path(folder) / "config.json").exists():
            recipe = name if name in load.recipes else load.recipes[0]
            raise SystemExit(
                f"{folder} holds no run; make one: advjax train experiments/configs/{recipe}.py "
                f"--out {folder}"
            )
    return dict(pairs)


def _spread(total: int, wanted: int | None) -> tuple[int, ...]:
    """Return so many of `total` indices, the middles of equal parts; all of them for None."""
    count = min(wanted or total, total)
    return tuple(int(total * (2 * i + 1) / (2 * count)) for i in range(count))


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, which ends with it."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _measure(model: str, task: _workload.Task, args: argparse.Namespace) -> list[Row]:
    """Return the rows of one model."""
    rows: list[Row] = []

    def add(program: str, row: Row) -> None:
        print(f"{model}, {program}: {row['seconds']:.1f} s", flush=True)
        rows.append({"program": program, **row})

    for order in args.orders:
        add(order, _apart(_workload.measure_order, task, order))
        if order == "ascending" and args.rounds:
            low, middle, high = _apart(_workload.measure_tick, task, args.rounds)
            print(f"{model}, a tick over a bare step: {middle:.3f} ({low:.3f} to {high:.3f})")
            rows[-1] |= {"tick / step": middle, "tick min": low, "tick max": high}
        if order == "search":
            # a second start only where the first one failed, next to what it solved
            add(TWICE, _apart(_workload.measure_order, task, order, 2))
    for peer in args.peers:
        timed = _spread(len(task.epsilons), None if peer == "torchattacks" else args.peer_budgets)
        # by how much the curve of one peer changes with its starts
        for seed in range(args.peer_seeds if peer == "torchattacks" else 1):
            name = f"{peer}, seed {seed}" if seed else peer
            add(name, _apart(_peers.measure_peer, task, peer, timed, args.peer_batch, seed))
        if peer == "torchattacks":
            ours = (task, peer, timed, args.peer_batch, 0, True)
            add(OUR_STARTS, _apart(_peers.measure_peer, *ours))
    return [{"model": model, **row} for row in _compare(rows, task)]


def _compare(rows: list[Row], task: _workload.Task) -> list[Row]:
    """Add the ratios to the rows of one model."""
    by_name = {row["program"]: row for row in rows}
    peer, climb = by_name.get("torchattacks"), by_name.get("ascending")
    alike, search = by_name.get(OUR_STARTS), by_name.get("search")
    for row in rows:
        ours = "min_eps" in row
        row["share"] = row["useful"] / max(row["rows"], 1)
        row["fewer rows"] = row["right"] * len(task.epsilons) * task.steps / max(row["rows"], 1)
        between = row.get("search s") or (search and search["seconds"])
        row["/ search"] = row["seconds"] / between if between else None
        if ours and climb is not None:
            gap = np.subtract(row["robust"], climb["robust"])
            row["points"] = float(100 * np.abs(gap).max())
            row["below ascending"] = float(100 * np.maximum(-gap, 0).max())
            row["differ"] = float(np.not_equal(row["min_eps"], climb["min_eps"]).mean())
        if peer is not None and row is not peer and (ours or "seed" in row["program"]):
            row["above"] = _above(row, peer["robust"], task)
            row["above best"] = _above(row, peer["best of starts"], task)
        if alike is not None and ours:
            row["above alike"] = _above(row, alike["robust"], task)
    return rows


def _above(row: Row, curve: list[float], task: _workload.Task) -> int:
    """Return by how many images a row's curve is above another at the most."""
    return round(float(np.subtract(row["robust"], curve).max()) * task.examples)


def check_bounds(rows: list[Row]) -> list[Row]:
    """Return what was promised of the rows, the value measured, and whether it holds."""
    # program, column, what it is, at least (True) or at most, the bound
    promises = [
        ("search", "fewer rows", "exhaustive rows / rows of search", True, 10),
        ("ascending", "fewer rows", "exhaustive rows / rows of ascending", True, 1.8),
        ("search", "share", "useful share of search", True, 0.9),
        ("search", "points", "points between search and ascending", False, 0.8),
        ("exhaustive", "below ascending", "points of exhaustive below ascending", False, 0),
        ("torchattacks", "/ search", "seconds of torchattacks / seconds of search", True, 8),
        ("search", "above", "images by which search is above torchattacks", False, 1),
        ("search", "above alike", "the same, both from our starts", False, 1),
        ("ascending", "tick / step", "cost of a tick / bare PGD step", False, 1.08),
    ]
    bounds = []
    for row in rows:
        for program, column, what, least, bound in promises:
            value = row.get(column)
            if row["program"] != program or value is None:
                continue
            held = value >= bound if least else value <= bound
            wanted = f"{'>=' if least else '<='} {bound:g}"
            bounds.append({
                "model": row["model"], "what": what, "value": value, "wanted": wanted,
                "held": bool(held),
            })  # fmt: skip
    return bounds


if __name__ == "__main__":
    main()
