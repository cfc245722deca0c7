"""Every attack against what official code produced: what is compared, and what is allowed."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import _golden_nets
import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, criteria, losses, threat
from advjax.attacks._hyperplane import step_to_hyperplane
from advjax.types import Attack, AttackResult, Objective

LOSSES = {"ce": losses.cross_entropy, "dlr": losses.dlr}
NORMS = ("linf", "l2", "l1")
STRIDES = (2, 2)
EXACT = 1e-9  # of plain attacks and losses, in float64
PROJECTED = 1e-5
# the denominator of the ratio of logits vanishes beyond
STEEP = 5.0
# of distances: relative to the golden, where that succeeded; nearer is welcome
MEDIAN, WORST = 0.02, 0.1


class Net(NamedTuple):
    """A fixed net, its images, and what official code made of them."""

    name: str
    golden: dict[str, np.ndarray]
    x: jax.Array
    y: jax.Array

    def logits(self, x: jax.Array) -> jax.Array:
        return _golden_nets.forward(_golden_nets.weights(self.golden), x, STRIDES)

    def objective(self, loss: Callable[..., Any] = losses.cross_entropy) -> Objective:
        return attacks.from_logits(self.logits, loss=loss)


class Measured(NamedTuple):
    """One quantity: its deviation, and the most that it may be."""

    what: str
    deviation: float
    bound: float


class Check(NamedTuple):
    """One row: an attack, the prefix of its golden, and how to compare."""

    attack: str
    norm: str
    loss: str
    prefix: str
    compare: Callable[[Net, str], list[Measured]]


def load(name: str) -> Net:
    golden = dict(np.load(_golden_nets.folder() / f"{name}.npz"))
    return Net(name, golden, jnp.asarray(golden["x"]), jnp.asarray(golden["y"]))


def run(
    build: Callable[[Objective], Attack], objective: Objective, x: Any, target: Any, eps: Any,
    start: Any = None,
) -> AttackResult:  # fmt: skip
    """Attack with every step of the budget, compiled."""

    @jax.jit
    def call(x: jax.Array, target: Any, eps: Any, start: Any) -> AttackResult:
        key = jax.random.key(0)
        return attacks.run(build(objective), key, x, target, eps, x_start=start, stop="budget")

    return call(x, target, eps, start)


def distances(found: Any, golden: Any) -> list[Measured]:
    """Compare smallest distances `[N]`, inf where an attack failed."""
    found, golden = np.asarray(found, np.float64), np.asarray(golden, np.float64)
    there = np.isfinite(golden)
    both = there & np.isfinite(found)
    if not both.any():
        return [Measured("successes missed", int(there.sum()), 0)]
    return [
        Measured("median distance", float(np.median(found[there]) / np.median(golden[there]) - 1),
                 MEDIAN),
        Measured("worst distance", float((found[both] / golden[both]).max() - 1), WORST),
        Measured("successes missed", int((there & ~both).sum()), 0),
    ]  # fmt: skip


def _largest(difference: Any) -> float:
    return float(np.abs(np.asarray(difference)).max())


# plain attacks: the same points


def _points(
    build: Callable[[Objective, dict[str, np.ndarray]], Attack], eps: str | None = None
) -> Callable[[Net, str], list[Measured]]:
    def compare(net: Net, prefix: str) -> list[Measured]:
        golden = net.golden
        result = run(
            lambda objective: build(objective, golden), net.objective(), net.x, net.y,
            golden[eps or f"{prefix}/eps"], golden.get(f"{prefix}/x_start"),
        )  # fmt: skip
        return [Measured("points", _largest(result.x_adv - golden[f"{prefix}/x_adv"]), EXACT)]

    return compare


def fgsm(objective: Objective, golden: dict[str, np.ndarray]) -> Attack:
    return attacks.fgsm(objective, threat.linf())


def pgd(objective: Objective, golden: dict[str, np.ndarray]) -> Attack:
    return attacks.pgd(
        objective, threat.linf(), num_steps=int(golden["pgd/num_steps"]),
        step_size_abs=golden["pgd/step_size"], keep="last",
    )  # fmt: skip


def pgd_l2(objective: Objective, golden: dict[str, np.ndarray]) -> Attack:
    return attacks.pgd(
        objective, threat.l2(), num_steps=int(golden["pgd_l2/num_steps"]), random_start=False,
        step_size_abs=golden["pgd_l2/step_size"], keep="last",
    )  # fmt: skip


def mifgsm(objective: Objective, golden: dict[str, np.ndarray]) -> Attack:
    return attacks.mifgsm(
        objective, threat.linf(), num_steps=int(golden["mifgsm/num_steps"]),
        decay=float(golden["mifgsm/mu"]), keep="last",
    )  # fmt: skip


# APGD: points, losses and flags


def _apgd(norm: str, loss: str, steps: int) -> Callable[[Net, str], list[Measured]]:
    def compare(net: Net, prefix: str) -> list[Measured]:
        result = run(
            lambda objective: attacks.apgd(objective, threat.by_name(norm), num_steps=steps),
            net.objective(LOSSES[loss]), net.x, net.y,
            net.golden[f"{prefix}/eps"], net.golden[f"{prefix}/x_start"],
        )  # fmt: skip
        return _ascent(result, net.golden, prefix, norm, loss, steps)

    return compare


def _apgd_t(steps: int) -> Callable[[Net, str], list[Measured]]:
    def compare(net: Net, prefix: str) -> list[Measured]:
        result = run(
            lambda objective: attacks.apgd(objective, threat.linf(), num_steps=steps),
            _about_pairs(net), net.x, (net.y, jnp.asarray(net.golden[f"{prefix}/target"])),
            net.golden[f"{prefix}/eps"], net.golden[f"{prefix}/x_start"],
        )  # fmt: skip
        return _ascent(result, net.golden, prefix, "linf", "dlr", steps)

    return compare


def _about_pairs(net: Net) -> Objective:
    """Return the objective of targets `(y, t)`: led to t, judged by leaving y."""
    return attacks.from_logits(
        net.logits, loss=losses.dlr_targeted,
        criterion=lambda output, target: criteria.misclassified(output, target[0]),
    )  # fmt: skip


def _ascent(
    result: AttackResult, golden: dict[str, np.ndarray], prefix: str, norm: str, loss: str,
    steps: int,
) -> list[Measured]:  # fmt: skip
    """Compare one run of APGD.

    A check looks at one step where there are 20: a tie in the last bit decides a halving there.
    """
    best = golden[f"{prefix}/loss_best"]
    flags = int((np.asarray(~result.success) != golden[f"{prefix}/robust"]).sum())
    wrong = np.abs(np.asarray(result.loss) - best)
    if norm == "l1":
        # the official projection is in float32 and counts what rounding leaves: last bits decide
        return [
            Measured("share of losses off by 1e-3", float((wrong > 1e-3).mean()), 0.1),
            Measured("median loss", float(np.median(wrong)), 1e-9),
            Measured("flags that differ", flags, 1),
        ]  # fmt: skip
    apart = np.abs(np.asarray(result.x_adv) - golden[f"{prefix}/x_best"])
    apart = apart.reshape(len(best), -1).max(1)
    kept = (np.abs(best) <= STEEP) | (loss != "dlr")
    relative = wrong / (1 + np.abs(best))
    off = (apart > 1e-6) | (relative > 1e-8)
    flagged = Measured("flags that differ", flags, 0)
    if steps == 20:
        return [
            Measured("share of rows not exact", float(off[kept].mean()), 0.2),
            Measured("points", float(apart[kept].max()), 1e-4),
            Measured("losses", float(wrong[kept].max()), 1e-5),
            flagged,
        ]
    return [
        Measured("points", float(apart[kept].max()), 1e-6),
        Measured("losses", float(relative[kept].max()), 1e-8),
        flagged,
    ]


# the minimal norm: distances


def _minimal(
    build: Callable[[Objective, threat.Ball], Attack], norm: str
) -> Callable[[Net, str], list[Measured]]:
    def compare(net: Net, prefix: str) -> list[Measured]:
        rows = net.golden["correct_index"]
        result = run(
            lambda objective: build(objective, threat.by_name(norm)), net.objective(),
            net.x[rows], net.y[rows], jnp.inf,
        )  # fmt: skip
        return distances(result.distance, net.golden[f"{prefix}/distance"])

    return compare


def _fab(norm: str, targeted: bool) -> Callable[[Net, str], list[Measured]]:
    def compare(net: Net, prefix: str) -> list[Measured]:
        rows = net.golden[f"{prefix}/correct_index"]
        y = net.y[rows]
        second = jnp.argsort(-jnp.asarray(net.golden["logits"])[rows], 1)[:, 1]
        result = run(
            lambda objective: attacks.fab(objective, threat.by_name(norm)),
            _about_pairs(net) if targeted else net.objective(),
            net.x[rows], (y, second) if targeted else y, jnp.inf,
        )  # fmt: skip
        return distances(result.distance, net.golden[f"{prefix}/distance"])

    return compare


# losses and projections


def _loss(name: str) -> Callable[[Net, str], list[Measured]]:
    def compare(net: Net, prefix: str) -> list[Measured]:
        found = jax.vmap(LOSSES[name])(net.golden["loss/logits"], net.golden["loss/y"])
        return [Measured("values", _largest(found - net.golden[prefix]), EXACT)]

    return compare


def _box_projection(net: Net, prefix: str) -> list[Measured]:
    golden = {k: jnp.asarray(net.golden[f"{prefix}/{k}"]) for k in ("x", "delta", "eps")}
    project = jax.vmap(threat.l1().project, (0, 0, None))
    found = project(golden["x"] + golden["delta"], golden["x"], golden["eps"]) - golden["x"]
    apart = _largest(found - net.golden[f"{prefix}/projected_delta"])
    return [Measured("points", apart, PROJECTED)]


def _hyperplane(norm: str) -> Callable[[Net, str], list[Measured]]:
    def compare(net: Net, prefix: str) -> list[Measured]:
        x, w, b = (
            jnp.asarray(net.golden[f"fab_projection/{name}"]) for name in ("points", "w", "b")
        )

        @jax.jit
        @jax.vmap
        def step(x: jax.Array, w: jax.Array, residual: jax.Array) -> jax.Array:
            return step_to_hyperplane(norm, x, w, residual, 0.0, 1.0)

        apart = _largest(step(x, w, (w * x).sum(1) - b) - net.golden[prefix])
        return [Measured("points", apart, PROJECTED)]

    return compare


def checks() -> Iterator[Check]:
    """Return all rows, in the order of the table."""
    for name in LOSSES:
        yield Check("loss", "-", name, f"loss/{name}", _loss(name))
    yield Check("projection", "l1", "-", "l1_box_projection", _box_projection)
    for norm in NORMS:
        prefix = f"fab_projection/{norm.capitalize()}"
        yield Check("projection-fab", norm, "-", prefix, _hyperplane(norm))
    yield Check("fgsm", "linf", "ce", "fgsm", _points(fgsm))
    yield Check("pgd", "linf", "ce", "pgd", _points(pgd))
    yield Check("pgd", "l2", "ce", "pgd_l2", _points(pgd_l2))
    yield Check("mifgsm", "linf", "ce", "mifgsm", _points(mifgsm, "fgsm/eps"))
    for steps in (20, 100):
        for norm in NORMS:
            for loss in LOSSES:
                prefix = f"apgd/{norm.capitalize()}/{loss}/{steps}"
                yield Check(f"apgd-{steps}", norm, loss, prefix, _apgd(norm, loss, steps))
        prefix = f"apgd_t/Linf/{steps}"
        yield Check(f"apgd-t-{steps}", "linf", "dlr", prefix, _apgd_t(steps))
    for kind in ("untargeted", "targeted2"):
        for norm in NORMS:
            name = "fab-t" if kind == "targeted2" else "fab"
            prefix = f"fab/{norm.capitalize()}/{kind}"
            yield Check(name, norm, "-", prefix, _fab(norm, kind == "targeted2"))
    minimal = {
        "ddn": (attacks.ddn, ("l2",)),
        "fmn": (attacks.fmn, ("linf", "l2", "l1", "l0")),
        "deepfool": (attacks.deepfool, ("linf", "l2")),
    }
    for name, (build, norms) in minimal.items():
        for norm in norms:
            prefix = f"{name}/{norm.capitalize()}"
            yield Check(name, norm, "-", prefix, _minimal(build, norm))


def rows(net: Net, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one net; a golden that does not exist is a row that says so."""
    for check in checks():
        if not wanted(check.attack):
            continue
        named = {
            "attack": check.attack, "norm": check.norm, "loss": check.loss, "net": net.name,
            "against": "golden",
        }  # fmt: skip
        if not any(key == check.prefix or key.startswith(f"{check.prefix}/") for key in net.golden):
            yield {**named, "note": "no golden: the official code does not take two classes"}
            continue
        for measured in check.compare(net, check.prefix):
            yield {**named, **judged(measured)}


def judged(measured: Measured) -> dict[str, Any]:
    """Return the columns of one quantity; NaN is not held."""
    return {**measured._asdict(), "held": bool(measured.deviation <= measured.bound)}


@functools.cache
def autoattack_net() -> dict[str, np.ndarray]:
    return dict(np.load(_golden_nets.folder() / "autoattack_ham10000_32.npz"))


def autoattack_rows() -> Iterator[dict[str, Any]]:
    """Yield AutoAttack against the robust flags of the official one, at every budget."""
    from advjax import engine

    golden = autoattack_net()
    forward = functools.partial(_golden_nets.forward, strides=(1, 2, 2))
    for norm in ("linf", "l2"):
        prefix = f"autoattack/{norm.capitalize()}/"
        names = sorted(key for key in golden if key.startswith(prefix))
        result = engine.autoattack(
            forward, _golden_nets.weights(golden), golden["x"], golden["y"], norm=norm,
            epsilons=[float(name.split("/")[2]) for name in names], num_targets=6,
            key=jax.random.key(0),
        )  # fmt: skip
        for robust, name in zip(result.robust, names, strict=True):
            official = golden[name]
            named = {
                "attack": "autoattack", "norm": norm, "loss": "-", "net": "ham10000_32",
                "against": f"golden, eps {name.split('/')[2]}",
            }  # fmt: skip
            above = int(robust.sum() - official.sum(1).min())
            stands = int((robust & ~official.any(0)).sum())
            yield {**named, **judged(Measured("robust images above worst seed", above, 1))}
            yield {**named, **judged(Measured("robust here, broken by all seeds", stands, 1))}
