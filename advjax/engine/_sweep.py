"""Whole robustness curves in one program: the smallest budget that breaks each example."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from advjax.engine import _processes, _state, _trust
from advjax.engine._inputs import (
    Examples,
    check_epsilons,
    check_examples,
    check_settings,
    stacked,
)
from advjax.engine._reference import MakeAttack
from advjax.engine._results import Share, SweepResult, across_processes, curve
from advjax.engine._stage import Progress, Stage, Tables
from advjax.engine._state import Finished, Settings
from advjax.random import typed
from advjax.types import Array, Attack, PyTree

MEMORY = 2**30
# a queue is looked through in every call of the program: a longer one is streamed all the same
LONGEST = 2**17


def sweep(
    make_attack: MakeAttack | Sequence[MakeAttack],
    params: PyTree,
    x: Any,
    y: PyTree,
    *,
    epsilons: Sequence[float] | np.ndarray,
    key: Array,
    restarts: int = 1,
    slots: int | None = None,
    order: str = "search",
    mesh: Mesh | None = None,
    ids: Any = None,
    warm_start: bool = False,
    quantise: int | None = None,
    memory_limit: int = MEMORY,
    return_x_adv: bool = False,
    diagnose: bool = True,
    take: Callable[[int, Finished, np.ndarray], None] | None = None,
    done: Callable[[int, np.ndarray, Tables], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SweepResult:
    """Find the smallest budget at which each example breaks.

    Args:
      make_attack: `params -> Attack`, built inside the compiled program; several are a cascade,
        in which later attacks see only what earlier ones left standing. The program is cached by
        the identity of the callable and the shapes: keep the callable, and other parameters,
        images or budgets compile nothing.
      params: the argument of `make_attack`, typically the variables of a model.
      x: `[N, H, W, C]`, uint8, or floats within the bounds of the ball. They stay on the device
        as uint8 where they are k / 255.
      y: `[N]` labels, or a pytree with leading `[N]`.
      epsilons: `[E]` budgets in pixel units, strictly increasing and positive.
      key: one key. An example's randomness depends on it, on the example's id, the restart and
        the attack's name only: not on its place, the slots or the devices.
      restarts: runs from different starts; one restart's success ends the others.
      slots: examples attacked at once on each device; None: a quarter of the examples, at least
        16, at most 32 on a CPU and 256 on an accelerator. With eight times as many examples hardly
        a slot is ever idle.
      order: `"search"` estimates each example's minimal budget, gallops and bisects;
        `"ascending"` climbs from the smallest budget; `"exhaustive"` runs every budget and every
        step, as the reference evaluator does.
      mesh: from `advjax.mesh.data_mesh`; every device gets its own share and queue. In a program
        of several processes every process passes the same examples and a mesh of all devices, and
        gets the whole result.
      ids: `[N]` unique integers, identities of the examples; None: 0..N-1.
      warm_start: a climb (`order="ascending"`) goes on from its best failed perturbation,
        rescaled to the next budget, instead of from the start of the attack.
      quantise: 8, 12 or 16: a success must survive rounding of its pixels to so many bits.
      memory_limit: bytes that the examples may take on one device; what is beyond is streamed.
      return_x_adv: also return the adversarial images.
      diagnose: also probe a few examples with more steps from another start, and with a budget
        that allows every image (iterated attacks only); the other signs of `trust` cost nothing.
      take: called as `take(attack, finished, examples)` with every finished run, judged; for
        those who store rows. With several processes each hears of its own runs only.
      done: called as `done(attack, examples, tables)` every few seconds with the examples `[m]`
        that were decided since and their tables `[m, ...]`; with several processes as `take`.
      progress: called about once a second with a `Progress`, of this process's share.

    Returns:
      `SweepResult`.

    Raises:
      ValueError: budgets, sizes, pixels or options make no sense; said before any compute.
    """
    return _run(
        make_attack, params, x, y, models=1, stack="map", epsilons=epsilons, key=key,
        restarts=restarts, slots=slots, order=order, mesh=mesh, ids=ids, warm_start=warm_start,
        quantise=quantise, memory_limit=memory_limit, return_x_adv=return_x_adv,
        diagnose=diagnose, progress=progress,
        take=None if take is None else lambda _, *found: take(*found),
        done=None if done is None else lambda _, *found: done(*found),
    )[0]  # fmt: skip


def sweep_models(
    make_attack: MakeAttack | Sequence[MakeAttack],
    params: PyTree,
    x: Any,
    y: PyTree,
    *,
    epsilons: Sequence[float] | np.ndarray,
    key: Array,
    stack: str | None = None,
    take: Callable[[int, int, Finished, np.ndarray], None] | None = None,
    done: Callable[[int, int, np.ndarray, Tables], None] | None = None,
    **options: Any,
) -> list[SweepResult]:
    """Sweep several models of one architecture at once, on the same examples.

    Each model has queues and slots of its own; its verdicts are those of `sweep` with its
    parameters, up to the rounding of a batch of networks.

    Args:
      make_attack: as in `sweep`, for the parameters of one model.
      params: a list or tuple of parameters, one a model; or one tree of leaves `[models, ...]`.
      x: `[N, H, W, C]`; y: `[N]`; epsilons: `[E]`; key: all as in `sweep`, for all models.
      stack: `"vmap"`: all models tick together, as one batch of networks, which fills an
        accelerator; `"map"`: one after the other inside of the program, which is faster on a CPU;
        None: by the backend.
      take: called as `take(model, attack, finished, examples)`; see `sweep`.
      done: called as `done(model, attack, examples, tables)`; see `sweep`.
      **options: any other argument of `sweep`. `slots` and `memory_limit` are for each model, and
        `progress` counts every example once for each model.

    Returns:
      One `SweepResult` a model.

    Raises:
      ValueError: as `sweep`; the parameters of the models differ in structure or shapes, there is
        no model, or `stack` is unknown.
    """
    if stack not in (None, "vmap", "map"):
        raise ValueError(f'stack: expected "vmap", "map" or None, got {stack!r}')
    if stack is None:
        stack = "map" if jax.default_backend() == "cpu" else "vmap"
    models, params = stacked(_processes.local(params))
    return _run(
        make_attack, params, x, y, models=models, stack=stack, epsilons=epsilons, key=key,
        take=take, done=done, **options,
    )  # fmt: skip


def _run(
    make_attack: MakeAttack | Sequence[MakeAttack],
    params: PyTree,
    x: Any,
    y: PyTree,
    *,
    models: int,
    stack: str,
    epsilons: Sequence[float] | np.ndarray,
    key: Array,
    restarts: int = 1,
    slots: int | None = None,
    order: str = "search",
    mesh: Mesh | None = None,
    ids: Any = None,
    warm_start: bool = False,
    quantise: int | None = None,
    memory_limit: int = MEMORY,
    return_x_adv: bool = False,
    diagnose: bool = True,
    take: Callable[[int, int, Finished, np.ndarray], None] | None = None,
    done: Callable[[int, int, np.ndarray, Tables], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[SweepResult]:
    """Sweep `models` models, whose parameters are stacked if they are several."""
    budgets = check_epsilons(epsilons)
    check_settings(order, restarts, slots, quantise, warm_start)
    params = _processes.local(params)
    one = params if models == 1 else jax.tree.map(lambda leaf: leaf[0], params)
    makers, attacks = _build(make_attack, one)
    examples = check_examples(x, y, ids, attacks[0].spec.ball.bounds)
    total = len(examples.images)
    mine, mesh, alone = _processes.share(total, mesh)
    # where there are more processes than examples, the last ones hold one and do nothing
    held = mine if len(mine) else np.zeros(1, int)
    part = examples if alone else jax.tree.map(lambda leaf: leaf[held], examples)
    fixed = Settings(
        order, 0, 0, restarts, warm_start, quantise, take is not None, models, stack
    )  # fmt: skip
    settings = _sized(fixed, part, len(budgets), mesh, slots, memory_limit)
    work = _Work(makers, attacks, params, part, budgets, settings, mesh, mine)
    images = _Images(part, models, len(budgets)) if return_x_adv else None
    shares, last = _cascade(work, typed(key), images, take, done, progress)
    if diagnose and attacks[-1].spec.num_steps > 1 and not attacks[-1].spec.minimal:
        wrong = np.concatenate([share.tables[0].wrong for share in shares])
        counts, probed = _trust.probe(
            lambda levels: work.stage(len(makers) - 1, levels), last, wrong, budgets, typed(key)
        )
        shares = [
            share._replace(signs=_trust.merge(share.signs, found), probed=int(rows))
            for share, found, rows in zip(shares, counts, probed, strict=True)
        ]
    if images is not None:
        adversarial = np.split(images.images, models)
        shares = [s._replace(x_adv=x_adv) for s, x_adv in zip(shares, adversarial, strict=True)]
    return [curve(s if alone else across_processes(s, len(mine), total)) for s in shares]


class _Work(NamedTuple):
    """What this process sweeps; image i under model m has the number m * len(part.images) + i."""

    makers: list[MakeAttack]
    attacks: list[Attack]
    params: PyTree
    part: Examples
    budgets: np.ndarray
    settings: Settings
    mesh: Mesh | None
    mine: np.ndarray

    def stage(self, number: int, levels: np.ndarray) -> Stage:
        """Return an empty pool of one attack, for these budgets."""
        return Stage(
            self.makers[number], self.attacks[number], self.params, self.part, levels,
            self.settings, self.mesh,
        )  # fmt: skip


def _cascade(
    work: _Work,
    key: Array,
    images: "_Images | None",
    take: Callable[[int, int, Finished, np.ndarray], None] | None,
    done: Callable[[int, int, np.ndarray, Tables], None] | None,
    progress: Callable[[Progress], None] | None,
) -> tuple[list[Share], Tables]:
    """Run the attacks one after the other; return what each model got, and the last tables."""
    held, models, num_budgets = len(work.part.images), work.settings.models, len(work.budgets)
    shares = [Share(work.budgets, [], 0, 0, None, {}, 0) for _ in range(models)]
    size = models * held
    best, first = np.full(size, num_budgets, np.int32), np.full(size, -1, np.int32)
    todo = np.flatnonzero(np.arange(size) % held < len(work.mine))
    for number in range(len(work.makers)):
        stage = work.stage(number, work.budgets)
        hooks = _hooks(number, work.mine, held, images, take, done)
        tables = stage.run(todo, key, ceiling=best, first=first, progress=progress, **hooks)
        shares = [
            share.add(
                found, int(stage.computed[m]), int(stage.useful[m]),
                rounded=work.settings.quantise is not None,
                minimal=work.attacks[number].spec.minimal,
            )
            for m, (share, found) in enumerate(zip(shares, tables.split(models), strict=True))
        ]  # fmt: skip
        if work.settings.order != "exhaustive":
            # what stood the attack before is likely to stand this one: begin at the top
            best, first = tables.best, np.full(size, num_budgets - 1, np.int32)
            wrong = np.concatenate([share.tables[0].wrong for share in shares])
            todo = todo[~wrong[todo] & (best[todo] > 0)]
    return shares, tables


class _Images:
    """Keeps, of every example, the verified image at its smallest budget."""

    def __init__(self, examples: Examples, models: int, num_budgets: int) -> None:
        self.images = np.concatenate([examples.images] * models)
        if self.images.dtype == np.uint8:
            self.images = self.images.astype(np.float32) / np.float32(255)
        self.budget = np.full(len(self.images), num_budgets)

    def take(self, finished: Finished, examples: np.ndarray) -> None:
        for i in np.flatnonzero(finished.verified):
            example = examples[i]
            if finished.budget[i] < self.budget[example]:
                self.budget[example] = finished.budget[i]
                self.images[example] = finished.x[i]


def _hooks(
    number: int,
    mine: np.ndarray,
    held: int,
    kept: _Images | None,
    take: Callable[[int, int, Finished, np.ndarray], None] | None,
    done: Callable[[int, int, np.ndarray, Tables], None] | None,
) -> dict[str, Any]:
    """Return what a stage calls: our own collector and the caller's, who counts all examples."""
    hooks: dict[str, Any] = {}
    if kept is not None or take is not None:

        def both(finished: Finished, examples: np.ndarray) -> None:
            if kept is not None:
                kept.take(finished, examples)
            if take is not None:
                take(int(examples[0]) // held, number, finished, mine[examples % held])

        hooks["take"] = both
    if done is not None:

        def each(examples: np.ndarray, tables: Tables) -> None:
            models = examples // held
            for model in np.unique(models):
                its = models == model
                rows = Tables(*(column[its] for column in tables))
                done(int(model), number, mine[examples[its] % held], rows)

        hooks["done"] = each
    return hooks


def _build(
    make_attack: MakeAttack | Sequence[MakeAttack], params: PyTree
) -> tuple[list[MakeAttack], list[Attack]]:
    """Return the attacks of a cascade, built once outside of the program to read their specs."""
    makers = [make_attack] if callable(make_attack) else list(make_attack)
    if not makers:
        raise ValueError("make_attack: name at least one attack")
    attacks = [make(params) for make in makers]
    if any(attack.spec.ball.rows is not None for attack in attacks):
        raise ValueError(
            "make_attack: the ball has a mask per row, but the rows of a pool change; sweep the "
            "examples of one mask at a time, or put the mask into the objective"
        )
    return makers, attacks


def _sized(
    fixed: Settings,
    examples: Examples,
    num_budgets: int,
    mesh: Mesh | None,
    slots: int | None,
    limit: int,
) -> Settings:
    """Return the settings with their sizes: as many slots and rows as make sense."""
    devices = 1 if mesh is None else mesh.size
    share = max(math.ceil(len(examples.images) / devices), 1)
    if slots is None:
        most = 32 if jax.default_backend() == "cpu" else 256
        slots = int(np.clip(share // 4, 16, most))
    slots = min(slots, share)
    one = np.asarray(examples.images[0])
    room = min(limit // _state.bytes_per_row(one, fixed.restarts, num_budgets), LONGEST)
    capacity = int(np.clip(room, min(2 * slots, share), share))
    return fixed._replace(slots=slots, capacity=capacity)
