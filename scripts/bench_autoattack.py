"""What AutoAttack costs: `engine.autoattack`, and torchattacks' on the same weights and images.

    python scripts/bench_autoattack.py [--run FOLDER] [--norms linf l2] [--budgets 1 2 4]
                                       [--examples 84] [--no-peers] [--out FILE.json]

Default weights: the net of autoattack_ham10000_32.npz in ADVJAX_GOLDEN_DIR with its 84 images;
`--run`: a run of `advjax train` and its first test images. Rows: every budget alone, all budgets
of a norm together, torchattacks at every budget. Its AutoAttack makes 10 steps where the published
one makes 100, so that it has two rows: as it comes, and its attacks with our steps and queries.
Both lead to every other class; it attacks the images that are right when clean only. Seconds are
those of warm calls, compile time stands apart: the first call of a shape, less a second one.
"""

import argparse
import collections
import functools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import _golden_nets
import _peers
import _timing
import jax
import numpy as np

from advjax import engine

Row = dict[str, Any]

UNIT = 255
EUCLIDEAN = (0.25,)
TOGETHER = 1.6  # all budgets in one call over the dearest one alone
SHIPPED = 10  # steps of torchattacks' AutoAttack
SHOWN = (
    "program", "norm", "eps", "seconds", "compile s", "robust", "of", "rows", "useful", "queries",
    "/ as shipped", "/ our steps", "/ dearest",
)  # fmt: skip
LEGEND = """
robust: images that stand, at every budget; rows, useful: backward passes computed, those that
served a live image; queries: forward passes, those of the gradients included; /: seconds over those
of torchattacks with 10 and with our steps at the same budget, or over the dearest budget alone.
"""


class Work(NamedTuple):
    """A model, images in [0, 1] and labels, and the same model in torch."""

    name: str
    logits_fn: Callable[..., jax.Array]
    params: Any
    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    torch_net: Callable[[], Any]


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    work = load_run(args.run, args.examples) if args.run else load_golden(args.examples)
    rows: list[Row] = []
    for norm in args.norms:
        units = UNIT if norm == "linf" else 1
        rows += _measure(work, norm, tuple(b / units for b in args.budgets[norm]), args)
    print(
        f"\n{work.name}: {len(work.images)} images, {work.num_classes} classes, {args.steps} "
        f"steps, {args.queries} queries\n"
    )
    names = [n for n in SHOWN if any(row.get(n) is not None for row in rows)]
    print(_timing.table([{n: row.get(n) for n in names} for row in rows]))
    print(LEGEND)
    for row in rows:
        if "broken by" in row:
            counts = ", ".join(f"{k or 'nothing'} {v}" for k, v in row["broken by"].items())
            print(f"{row['norm']}, eps {row['eps']}: {counts}")
    bounds = check_bounds(rows)
    for bound in bounds:
        print(
            f"{bound['norm']}, {bound['what']}: {bound['value']:.3g} (wanted {bound['wanted']})"
            f"  {'held' if bound['held'] else 'MISSED'}"
        )
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k not in ("out", "run")}
        _timing.save(
            args.out, "bench_autoattack", rows, settings, load=os.getloadavg(), bounds=bounds,
            model=work.name,
            # compile time is then that of loading programs
            compilation_cache=jax.config.jax_compilation_cache_dir is not None,
        )  # fmt: skip


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", metavar="FOLDER", help="a run of advjax train")
    parser.add_argument("--examples", type=int, help="so many images; all of the golden, 84")
    parser.add_argument("--norms", nargs="+", choices=("linf", "l2"), default=["linf", "l2"])
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[1, 2, 4], help="linf, in 255ths"
    )
    parser.add_argument("--l2-budgets", nargs="+", type=float, default=list(EUCLIDEAN))
    parser.add_argument("--steps", type=int, default=100, help="of APGD and FAB")
    parser.add_argument("--queries", type=int, default=5000, help="of Square")
    parser.add_argument("--calls", type=int, default=1, help="warm calls; the median counts")
    parser.add_argument(
        "--torch-threads", type=int,
        help="on a machine that is shared, torch's threads wait for each other: 1 may be fastest",
    )  # fmt: skip
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--out", default=None, help="write the table as JSON here")
    args = parser.parse_args(argv)
    args.budgets = {"linf": sorted(args.budgets), "l2": sorted(args.l2_budgets)}
    del args.l2_budgets
    gone = _peers.missing("torchattacks") if args.peers else None
    if gone:
        print(f"left out: torchattacks (no {gone}); it is in the bench extra\n")
        args.peers = False
    return args


def load_golden(examples: int | None) -> Work:
    """Return the trained net of the golden folder, and its images."""
    strides = (1, 2, 2)
    golden = dict(np.load(_golden_nets.folder() / "autoattack_ham10000_32.npz"))
    params = _golden_nets.weights(golden)
    return Work(
        "autoattack_ham10000_32", functools.partial(_golden_nets.forward, strides=strides), params,
        golden["x"][:examples], golden["y"][:examples], golden["logits"].shape[1],
        lambda: _golden_nets.torch_twin(params, strides),
    )  # fmt: skip


def load_run(folder: str, examples: int | None) -> Work:
    """Return the model of a run and its first test images, 84 by default."""
    from advjax import data, training

    model, variables, config, info = training.restore_model(folder)
    split = data.load(config.data).test.select(slice(examples or 84))
    images = np.asarray(split.images)
    pixels = images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images

    def torch_net() -> Any:
        from _torch_peer import from_variables

        return from_variables(
            jax.device_get(variables), info["num_classes"], config.model.width, images.shape[-1],
            config.model.stem,
        )  # fmt: skip

    return Work(
        os.path.basename(os.path.normpath(folder)), model.apply, variables, pixels,
        np.asarray(split.targets), info["num_classes"], torch_net,
    )  # fmt: skip


def _measure(
    work: Work, norm: str, epsilons: tuple[float, ...], args: argparse.Namespace
) -> list[Row]:
    """Return the rows of one norm: alone and in torchattacks in turn, then together."""
    rows = []
    for i, eps in enumerate(epsilons):
        rows.append(_ours(work, norm, (eps,), args, cold=i == 0))
        if args.peers:
            each = dict.fromkeys((SHIPPED, args.steps))
            rows += [_theirs(work, norm, eps, steps, args) for steps in each]
    if len(epsilons) > 1:
        rows.append(_ours(work, norm, epsilons, args, cold=True))
    return compare(rows)


def _ours(
    work: Work, norm: str, epsilons: tuple[float, ...], args: argparse.Namespace, *, cold: bool
) -> Row:
    """Time `engine.autoattack`; a cold call compiles, and is made apart."""

    def call() -> engine.AutoAttackResult:
        return engine.autoattack(
            work.logits_fn, work.params, work.images, work.labels, norm=norm, epsilons=epsilons,
            key=jax.random.key(0), num_targets=max(work.num_classes - 1, 1), num_steps=args.steps,
            num_queries=args.queries,
        )  # fmt: skip

    first = _seconds(call)[0] if cold else None
    timed = [_seconds(call) for _ in range(args.calls)]
    seconds, result = float(np.median([t for t, _ in timed])), timed[-1][1]
    counts = collections.Counter(result.broken_by.tolist())
    row = {
        "program": "advjax", "norm": norm, "eps": _told(norm, epsilons), "seconds": seconds,
        "compile s": None if first is None else first - seconds,
        "robust": "/".join(str(int(n)) for n in result.robust.sum(1)),
        "of": len(work.images), "robust accuracy": result.robust_accuracy.tolist(),
        "rows": result.sweep.rows_computed, "useful": result.sweep.rows_useful,
        "queries": int(result.num_queries.sum()), "broken by": dict(counts),
        "budgets": len(epsilons),
    }  # fmt: skip
    print(f"advjax, {norm}, {row['eps']}: {seconds:.1f} s", flush=True)
    return row


def _theirs(work: Work, norm: str, eps: float, steps: int, args: argparse.Namespace) -> Row:
    """Time torchattacks on the images that are right when clean, all of them at once."""
    import torch

    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)
    net, images, labels, right = torch_side(work)
    attack = torchattacks_autoattack(net, norm, eps, steps, args.queries, work.num_classes)
    if steps == SHIPPED:
        # what only a first call does, before the clock starts
        attack(images[:2], labels[:2])
    seconds, adversarial = _seconds(lambda: attack(images, labels))
    with torch.no_grad():
        robust = int((net(adversarial).argmax(1) == labels).sum())
    row = {
        "program": f"torchattacks, {steps} steps", "norm": norm, "eps": _told(norm, (eps,)),
        "seconds": seconds, "robust": str(robust), "of": len(work.images),
        "robust accuracy": [robust / len(work.images)], "steps": steps,
        "right": int(right.sum()), "torch threads": torch.get_num_threads(),
    }  # fmt: skip
    print(f"{row['program']}, {norm}, {row['eps']}: {seconds:.1f} s", flush=True)
    return row


def torch_side(work: Work) -> tuple[Any, Any, Any, np.ndarray]:
    """Return the torch net, the images and labels that it has right, and which they are."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = work.torch_net().to(device)
    images = _golden_nets.to_torch(work.images).to(device)
    labels = torch.tensor(np.asarray(work.labels, np.int64), device=device)
    with torch.no_grad():
        logits = net(images)
    ours = np.asarray(jax.jit(work.logits_fn)(work.params, work.images))
    apart = float((np.abs(logits.cpu().numpy() - ours) / (1 + np.abs(ours))).max())
    if apart > 1e-3:
        raise SystemExit(f"the torch net is not ours: its logits differ by {apart:.3g}")
    right = logits.argmax(1) == labels
    return net, images[right], labels[right], right.cpu().numpy()


def torchattacks_autoattack(
    net: Any, norm: str, eps: float, steps: int, queries: int, num_classes: int
) -> Callable[[Any, Any], Any]:
    """Return the standard cascade of torchattacks, with so many steps and queries."""
    import torchattacks as peer

    shared = {"eps": eps, "norm": norm.capitalize(), "seed": 0, "n_restarts": 1}
    classes = {"n_classes": num_classes}
    return peer.MultiAttack([
        peer.APGD(net, loss="ce", steps=steps, **shared),
        peer.APGDT(net, steps=steps, **classes, **shared),
        peer.FAB(net, multi_targeted=True, steps=steps, **classes, **shared),
        peer.Square(net, n_queries=queries, **shared),
    ])  # fmt: skip


def compare(rows: list[Row]) -> list[Row]:
    """Add the ratios to the rows of one norm."""
    ours = [row for row in rows if row["program"] == "advjax"]
    alone = [row["seconds"] for row in ours if row["budgets"] == 1]
    for row in ours:
        if row["budgets"] > 1:
            row["/ dearest"] = row["seconds"] / max(alone)
        for other in rows:
            if other is row or other["program"] == "advjax" or other["eps"] != row["eps"]:
                continue
            name = "/ as shipped" if other["steps"] == SHIPPED else "/ our steps"
            row[name] = row["seconds"] / other["seconds"]
            least = f"above, {other['steps']} steps"
            row[least] = int(row["robust"]) - int(other["robust"])
    return rows


def check_bounds(rows: list[Row]) -> list[Row]:
    """Return what must hold of the rows, the value measured, and whether it does."""
    return [
        {
            "norm": row["norm"], "what": f"budgets {row['eps']} together / dearest alone",
            "value": row["/ dearest"], "wanted": f"<= {TOGETHER}",
            "held": bool(row["/ dearest"] <= TOGETHER),
        }
        for row in rows
        if row.get("/ dearest") is not None
    ]  # fmt: skip


def _seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of one call and what it returns; its results are NumPy or torch's."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _told(norm: str, epsilons: tuple[float, ...]) -> str:
    if norm == "linf":
        return "/".join(f"{eps * UNIT:g}" for eps in epsilons) + " of 255"
    return "/".join(f"{eps:g}" for eps in epsilons)


if __name__ == "__main__":
    main()
