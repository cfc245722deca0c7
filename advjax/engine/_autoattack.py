"""AutoAttack (Croce and Hein 2020): the published cascade, as one sweep over all budgets."""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from advjax import attacks, criteria, losses, threat
from advjax.engine import _processes, _sweep
from advjax.engine._inputs import (
    check_epsilons,
    check_examples,
    check_labels,
    check_resources,
    check_settings,
    one_label_each,
)
from advjax.engine._plan import Verdict
from advjax.engine._reference import MakeAttack, evaluate_clean
from advjax.engine._results import SweepResult
from advjax.engine._stage import Progress
from advjax.engine._trust import Trust
from advjax.types import Array, Attack, Ball, CriterionFn, LossFn, Objective, PyTree

VERSIONS = ("standard", "plus", "rand")
NORMS = ("linf", "l2", "l1")
DRAWS = 20  # of "rand", per gradient
TARGETED = ("apgd-t", "fab-t")  # each run is about a class of its own
LOSSES = {"apgd-dlr": losses.dlr, "square": losses.cw_margin}
TARGETS = 9  # classes that the targeted attacks lead to


class Member(NamedTuple):
    """One attack of the cascade.

    Attributes:
      name: as published.
      make_attack: `params -> Attack`, about targets `(y, t)`.
      runs: restarts, or target classes.
    """

    name: str
    make_attack: MakeAttack
    runs: int


class AutoAttackResult(NamedTuple):
    """What AutoAttack found; NumPy, in the order of the examples.

    Attributes:
      robust: `[N]` bool, right and not broken by any attack; `[E, N]` for several budgets.
      robust_accuracy: share of all examples that are robust; `[E]` for several budgets.
      clean_accuracy: share of examples that are right before any attack.
      epsilons: `[E]`, the budgets.
      min_eps: `[N]`, the smallest budget at which an example was broken: 0 if it is wrong when
        clean, inf if nothing broke it.
      x_adv: `[N, H, W, C]`, what broke an example at `min_eps`; the clean image where nothing did.
      broken_by: `[N]` names of attacks; `"clean"` where wrong when clean, `""` where robust.
      num_steps: `[N]` int, moves of the run that broke it; 0 where none did.
      num_grads: `[N]` int, backward passes that all attacks spent on it.
      num_queries: `[N]` int, forward passes, those of the gradients included.
      attacks: the names of the cascade, in its order.
      notes: what was changed for few classes, or left out, in words.
      trust: the signs of masked gradients; see `SweepResult`.
      sweep: all of it.
    """

    robust: np.ndarray
    robust_accuracy: Any
    clean_accuracy: float
    epsilons: np.ndarray
    min_eps: np.ndarray
    x_adv: np.ndarray
    broken_by: np.ndarray
    num_steps: np.ndarray
    num_grads: np.ndarray
    num_queries: np.ndarray
    attacks: tuple[str, ...]
    notes: tuple[str, ...]
    trust: Trust
    sweep: SweepResult


def autoattack(
    logits_fn: Callable[..., Array],
    params: PyTree,
    x: Any,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | None = None,
    epsilons: Sequence[float] | np.ndarray | None = None,
    version: str = "standard",
    key: Array,
    num_targets: int = TARGETS,
    num_steps: int = 100,
    num_queries: int = 5000,
    bounds: tuple[float, float] = (0.0, 1.0),
    slots: int | None = None,
    mesh: Mesh | None = None,
    ids: Any = None,
    quantise: int | None = None,
    memory_limit: int = _sweep.MEMORY,
    resume: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> AutoAttackResult:
    """Evaluate a classifier by AutoAttack.

    `"standard"` is APGD on cross entropy, targeted APGD on the difference of logits ratio, targeted
    FAB and Square; `"plus"` adds APGD on the untargeted ratio, FAB and more restarts; `"rand"`, for
    models that draw random numbers, is APGD on both losses with gradients and verdicts of 20 draws.
    Later attacks see what earlier ones left standing. With several budgets, an example that falls
    at one falls at all larger ones, and is attacked at those that this leaves open; a run that
    fails at one is not made at smaller ones. Where gradients are masked, a small budget may be
    easier than a large one: then give each `eps` by itself.

    Fewer classes than the ratios need are met as follows, and said in `notes`: two classes have one
    target, and plain margins take the place of ratios; with three, targets are led by margins and
    the untargeted ratio is an attack of its own. There are no more targets than other classes.

    Args:
      logits_fn: `(params, x [B, H, W, C]) -> [B, C]`, C >= 2. For `"rand"`:
        `(params, x, keys [B])`. Keep the callable: it is the key of the compiled programs.
      params: its first argument.
      x: `[N, H, W, C]`, uint8, or floats within `bounds`.
      y: `[N]` labels.
      norm: `"linf"`, `"l2"` or `"l1"` (without Square, which is published for the first two).
      eps: one budget in pixel units; or
      epsilons: `[E]` budgets, strictly increasing.
      version: see above.
      key: one key. What happens to an example depends on it and on the example's id only.
      num_targets: target classes of the targeted attacks, at most; 9 as published (5 for APGD in
        l1).
      num_steps: of APGD and FAB; num_queries: of Square; both as published.
      bounds: of the pixels.
      slots, mesh, ids, quantise, memory_limit, resume, progress: as in `sweep`. `resume`
        names a folder: a killed evaluation goes on from there, in the middle of an attack.

    Returns:
      `AutoAttackResult`.

    Raises:
      ValueError: an option is unknown, both or none of `eps` and `epsilons` are given, the model
        has one class, labels are none of its classes, or as in `sweep`.
    """
    counts = {"num_targets": num_targets, "num_steps": num_steps, "num_queries": num_queries}
    _check_options(norm, version, counts, eps, epsilons)
    budgets = check_epsilons([eps] if eps is not None else epsilons)  # type: ignore[arg-type]  # one is given
    labels = one_label_each(y)
    check_settings("search", 1, slots, quantise, warm_start=False)
    check_resources(key, mesh, memory_limit)
    model = _model(logits_fn, norm, bounds, num_steps, num_queries)
    check_examples(x, labels, ids, bounds)
    params = _processes.local(params)
    if model.draws and version != "rand":
        raise ValueError(
            f'version: logits_fn takes keys, so that it draws random numbers, which "{version}" '
            'cannot attack; use "rand"'
        )
    outputs = _outputs(_maker(model, "apgd-ce"), params, x, labels, key, ids)
    classes = outputs.shape[1]
    members, notes = _members(model, version, min(num_targets, classes - 1), classes)
    options = _sweep.Options(
        epsilons=budgets, key=key, restarts=[member.runs for member in members], slots=slots,
        mesh=mesh, ids=ids, quantise=quantise, memory_limit=memory_limit,
        return_x_adv=True, diagnose=False, resume=resume, progress=progress,
        per_restart=[member.name in TARGETED for member in members],
    )  # fmt: skip
    found = _sweep.run(
        [member.make_attack for member in members], params, x,
        (labels, _targets(outputs, labels, num_targets)), options,
    )[0]  # fmt: skip
    return _result(found, members, notes, several=epsilons is not None)


def _model(
    logits_fn: Callable[..., Array], norm: str, bounds: Any, num_steps: int, num_queries: int
) -> "_Model":
    """Return the key of the programs; it must have a hash."""
    numbers = np.ndim(bounds) == 1 and len(bounds) == 2 and np.asarray(bounds).dtype.kind in "iuf"
    if not numbers or not bounds[0] < bounds[1]:
        raise ValueError(f"bounds: expected two numbers, the lower one first, got {bounds!r}")
    low, high = bounds
    if not callable(logits_fn):
        raise ValueError(f"logits_fn: expected (params, x) -> logits, got {logits_fn!r:.80}")
    try:
        hash(logits_fn)
    except TypeError:
        raise ValueError(
            "logits_fn: has no hash, which its compiled programs are kept by; pass a function"
        ) from None
    return _Model(logits_fn, norm, (float(low), float(high)), num_steps, num_queries)


def _check_options(
    norm: str, version: str, counts: dict[str, int], eps: Any, epsilons: Any
) -> None:
    for name, value, known in (("norm", norm, NORMS), ("version", version, VERSIONS)):
        if value not in known:
            raise ValueError(f"{name}: {value!r} is unknown; known: {', '.join(known)}")
    if (eps is None) == (epsilons is None):
        raise ValueError("eps and epsilons: give one of them, eps=8/255 or epsilons=[2/255, ...]")
    for name, count in counts.items():
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not whole or count < 1:
            raise ValueError(f"{name}: must be an integer, at least 1, got {count!r}")


def _outputs(
    make_attack: MakeAttack, params: PyTree, x: Any, labels: np.ndarray, key: Array, ids: Any
) -> np.ndarray:
    """Return the logits `[N, C]` of the clean images, which rank the target classes."""
    pairs = labels, np.zeros_like(labels)
    shape = jax.eval_shape(
        lambda params, images, keys: make_attack(params).spec.objective.apply(images, keys),
        params, np.zeros((2, *np.shape(x)[1:]), np.float32), jax.random.split(key, 2),
    )  # fmt: skip
    if getattr(shape, "ndim", 0) != 2 or shape.shape[0] != 2:
        raise ValueError(
            "logits_fn: must return one array of logits [B, C]; of two images it returns "
            f"{jax.tree.map(lambda leaf: leaf.shape, shape)}"
        )
    if shape.shape[1] < 2:
        raise ValueError(
            "logits_fn: returns one logit an image; AutoAttack compares logits of classes: return "
            "two, jnp.concatenate([-z, z], -1) / 2 for a binary model with logit z"
        )
    check_labels(jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype), labels)
    output, _, _ = evaluate_clean(make_attack, params, np.asarray(x), pairs, key=key, ids=ids)
    return np.asarray(output)


def _targets(outputs: np.ndarray, labels: np.ndarray, num_targets: int) -> np.ndarray:
    """Return `[N, T]`, the other classes, the most likely ones first."""
    others = outputs.astype(np.float64)
    others[np.arange(len(labels)), labels] = -np.inf
    ranked = np.argsort(-others, axis=1, kind="stable")
    return ranked[:, : min(num_targets, outputs.shape[1] - 1)].astype(np.int32)


def _members(
    model: "_Model", version: str, targets: int, classes: int
) -> tuple[list[Member], tuple[str, ...]]:
    """Return the cascade, and what was changed in it."""
    notes = []
    runs = {"apgd-t": min(5 if model.norm == "l1" else targets, targets), "fab-t": targets}
    if version == "rand":
        names = ["apgd-ce", "apgd-dlr"]
        if not model.draws:
            notes.append(
                "logits_fn takes no keys, hence draws no random numbers: one draw instead of "
                f"{DRAWS}"
            )
    elif version == "plus":
        names = ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
        runs |= {"apgd-ce": 5, "apgd-dlr": 5, "fab": 5}
    else:
        names = ["apgd-ce", "apgd-t", "fab-t", "square"]
        if model.norm == "l1":
            runs["apgd-ce"] = 5
    if classes == 2:
        notes.append("two classes: margins instead of ratios of logits")
    if classes == 3 and version != "rand":
        notes.append(
            "three classes: targets are led by margins, since their ratio needs four logits"
        )
        if version == "standard":
            names.insert(1, "apgd-dlr")
            notes.append("the untargeted ratio of logits is an attack of its own")
    if model.norm == "l1" and "square" in names:
        names.remove("square")
        notes.append("l1: without Square, whose windows are made for linf and l2")
    if "fab-t" in names and targets < TARGETS:
        notes.append(f"{targets} target class{'es' if targets > 1 else ''} instead of {TARGETS}")
    members = [Member(name, _maker(model, name), runs.get(name, 1)) for name in names]
    return members, tuple(notes)


class _Model(NamedTuple):
    """What the programs of a cascade are about, by identity and value."""

    logits_fn: Callable[..., Array]
    norm: str
    bounds: tuple[float, float]
    num_steps: int
    num_queries: int

    @property
    def draws(self) -> bool:
        """Whether the model takes keys as its third argument."""
        try:
            parameters = inspect.signature(self.logits_fn).parameters.values()
        except (TypeError, ValueError):
            return False
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = [p for p in parameters if p.kind in by_place and p.default is p.empty]
        return len(needed) > 2


@functools.lru_cache(maxsize=256)
def _maker(model: _Model, name: str) -> MakeAttack:
    """Return one attack as a function of the parameters; the same callable for the same model."""
    ball = threat.by_name(model.norm, model.bounds)

    def make_attack(params: PyTree) -> Attack:
        if name in TARGETED:
            objective = _objective(model, params, losses.dlr_targeted, _leaves_first)
            attack = _build(model, name, objective, ball)
        else:
            loss = LOSSES.get(name, losses.cross_entropy)
            inner = _objective(model, params, loss, criteria.misclassified)
            outer = _objective(model, params, lambda o, target: loss(o, target[0]), _leaves_first)
            attack = attacks.with_view(
                _build(model, name, inner, ball), lambda target: target[0], outer
            )
        return attack._replace(spec=attack.spec._replace(name=name))

    return make_attack


def _leaves_first(output: Array, target: tuple[Array, Array]) -> Array:
    """Success of an attack on `(y, t)`: leaving y, by whatever way."""
    return criteria.misclassified(output, target[0])


def _objective(model: _Model, params: PyTree, loss: LossFn, criterion: CriterionFn) -> Objective:
    objective = attacks.from_logits(
        functools.partial(model.logits_fn, params), loss=loss, criterion=criterion,
        randomised=model.draws,
    )  # fmt: skip
    return attacks.with_eot(objective, DRAWS) if model.draws else objective


def _build(model: _Model, name: str, objective: Objective, ball: Ball) -> Attack:
    if name.startswith("apgd"):
        # as published: in l1 from larger balls inwards
        large = model.norm == "l1"
        return attacks.apgd(objective, ball, num_steps=model.num_steps, large_eps=large)
    if name.startswith("fab"):
        random = name == "fab"
        return attacks.fab(objective, ball, num_steps=model.num_steps, random_start=random)
    return attacks.square(objective, ball, num_steps=model.num_queries)


def _result(
    found: SweepResult, members: list[Member], notes: tuple[str, ...], several: bool
) -> AutoAttackResult:
    """Say who broke what, and what it took."""
    names = tuple(member.name for member in members)
    wrong = found.min_eps == 0
    broken_by = np.array([*names, ""])[found.solved_by]
    robust = found.min_eps > found.epsilons[:, None]
    accuracy = found.robust_accuracy
    return AutoAttackResult(
        robust=robust if several else robust[0],
        robust_accuracy=accuracy if several else float(accuracy[0]),
        clean_accuracy=found.clean_accuracy,
        epsilons=found.epsilons,
        min_eps=found.min_eps,
        x_adv=np.asarray(found.x_adv),
        broken_by=np.where(wrong, "clean", broken_by),
        num_steps=_steps(found),
        num_grads=np.sum([t.grads.sum((1, 2)) for t in found.tables], axis=0),
        num_queries=np.sum([t.queries.sum((1, 2)) for t in found.tables], axis=0),
        attacks=names,
        notes=notes,
        trust=found.trust,
        sweep=found,
    )


def _steps(found: SweepResult) -> np.ndarray:
    """Return `[N]`, the moves of the run that broke each example."""
    steps = np.zeros(len(found.min_eps), int)
    for example in np.flatnonzero(found.solved_by >= 0):
        table = found.tables[found.solved_by[example]]
        budget = int(np.searchsorted(found.epsilons, found.min_eps[example]))
        won = table.verdict[example, :, budget] == Verdict.VERIFIED
        steps[example] = table.steps[example, np.argmax(won), budget]
    return steps
