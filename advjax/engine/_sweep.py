"""Whole robustness curves in one program: the smallest budget that breaks each example."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from advjax.engine import _state, _trust
from advjax.engine._inputs import (
    Examples,
    check_epsilons,
    check_examples,
    check_settings,
)
from advjax.engine._plan import Verdict
from advjax.engine._reference import MakeAttack
from advjax.engine._stage import Progress, Stage, Tables
from advjax.engine._state import Finished, Settings
from advjax.random import typed
from advjax.status import Status
from advjax.types import Array, Attack, PyTree

MEMORY = 2**30


class SweepResult(NamedTuple):
    """A robustness curve and all that stands behind it; NumPy, in the order of the examples.

    Attributes:
      epsilons: `[E]`, the budgets.
      min_eps: `[N]`, the smallest budget that breaks an example: 0 if it is wrong when clean, inf
        if nothing broke it.
      clean_accuracy: share of examples right before any attack.
      robust_accuracy: `[E]`, share of all examples with `min_eps > epsilons[e]`.
      rows_computed: backward passes of single examples, all slots of all ticks.
      rows_useful: those that served a live example.
      status: `[N]` int8, `advjax.Status`: of the run that broke the example, or of the last one
        at the largest budget that failed.
      solved_by: `[N]`, which attack gave `min_eps`; -1 for none.
      float_only: `[N]`, how many successes an attack claimed that did not survive the judgement
        outside of it (see `quantise`). They are not counted.
      trust: signs of masked gradients, counted, and their verdict: `"ok"`, `"suspicious"` or
        `"unreliable"`.
      rows_probed: backward passes of the two probes of `trust`, not in `rows_computed`.
      tables: one `Tables` an attack: verdict, loss, steps, gradients and status by restart and
        budget. A verdict of `Verdict.UNKNOWN` was never computed: it follows from another.
      x_adv: `[N, H, W, C]` images at `min_eps`, where asked for; the clean image if nothing broke
        it.
    """

    epsilons: np.ndarray
    min_eps: np.ndarray
    clean_accuracy: float
    robust_accuracy: np.ndarray
    rows_computed: int
    rows_useful: int
    status: np.ndarray
    solved_by: np.ndarray
    float_only: np.ndarray
    trust: _trust.Trust
    rows_probed: int
    tables: list[Tables]
    x_adv: np.ndarray | None


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
        those who store rows.
      done: called as `done(attack, examples, tables)` every few seconds with the examples `[m]`
        that were decided since and their tables `[m, ...]`. In a program of several processes
        each gets its own.
      progress: called about once a second with a `Progress`.

    Returns:
      `SweepResult`.

    Raises:
      ValueError: budgets, sizes, pixels or options make no sense; said before any compute.
    """
    makers = [make_attack] if callable(make_attack) else list(make_attack)
    if not makers:
        raise ValueError("make_attack: name at least one attack")
    budgets = check_epsilons(epsilons)
    check_settings(order, restarts, slots, quantise, warm_start)
    attacks = [make(params) for make in makers]
    for attack in attacks:
        _check_attack(attack)
    examples = check_examples(x, y, ids, attacks[0].spec.ball.bounds)
    mine, mesh = _share(len(examples.images), mesh)
    part = Examples(*jax.tree.map(lambda leaf: leaf[mine], tuple(examples)))
    settings = _settings(part, len(budgets), mesh, slots, memory_limit)._replace(
        order=order, restarts=restarts, warm_start=warm_start, quantise=quantise,
        record=take is not None,
    )  # fmt: skip
    kept = _Images(part, len(budgets)) if return_x_adv else None
    tables, computed, useful, probed = [], 0, 0, 0
    signs: _trust.Counts = {}
    best = np.full(len(mine), len(budgets), np.int32)
    first = np.full(len(mine), -1, np.int32)
    todo = np.arange(len(mine))
    for number, (make, attack) in enumerate(zip(makers, attacks, strict=True)):
        stage = Stage(make, attack, params, part, budgets, settings, mesh)
        hooks = _hooks(number, mine, kept, take, done)
        tables.append(
            stage.run(todo, typed(key), ceiling=best, first=first, progress=progress, **hooks)
        )
        computed, useful = computed + stage.computed, useful + stage.useful
        signs = _trust.merge(signs, _trust.counted(tables[-1]))
        if order != "exhaustive":
            # what stood the attack before is likely to stand this one: begin at the top
            best, first = tables[-1].best, np.full(len(mine), len(budgets) - 1, np.int32)
            todo = np.flatnonzero(~tables[0].wrong & (best > 0))
    if diagnose and attacks[-1].spec.num_steps > 1:

        def again(levels: np.ndarray) -> Stage:
            return Stage(makers[-1], attacks[-1], params, part, levels, settings, mesh)

        found, probed = _trust.probe(again, tables[-1], budgets, typed(key))
        signs = _trust.merge(signs, found)
    images = None if kept is None else kept.images
    share = _Share(budgets, tables, computed, useful, images, signs, probed)
    return _gather(share, mine, len(examples.images))


class _Share(NamedTuple):
    """What one process found."""

    epsilons: np.ndarray
    tables: list[Tables]
    computed: int
    useful: int
    x_adv: np.ndarray | None
    signs: _trust.Counts
    probed: int


class _Images:
    """Keeps, of every example, the verified image at its smallest budget."""

    def __init__(self, examples: Examples, num_budgets: int) -> None:
        self.images = np.array(examples.images)
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
    kept: _Images | None,
    take: Callable[[int, Finished, np.ndarray], None] | None,
    done: Callable[[int, np.ndarray, Tables], None] | None,
) -> dict[str, Any]:
    """Return what a stage calls: our own collector and the caller's, who counts all examples."""
    hooks: dict[str, Any] = {}
    if kept is not None or take is not None:

        def both(finished: Finished, examples: np.ndarray) -> None:
            if kept is not None:
                kept.take(finished, examples)
            if take is not None:
                take(number, finished, mine[examples])

        hooks["take"] = both
    if done is not None:
        hooks["done"] = lambda examples, tables: done(number, mine[examples], tables)
    return hooks


def _check_attack(attack: Attack) -> None:
    if attack.spec.ball.rows is not None:
        raise ValueError(
            "make_attack: the ball has a mask per row, but the rows of a pool change; sweep the "
            "examples of one mask at a time, or put the mask into the objective"
        )


def _share(total: int, mesh: Mesh | None) -> tuple[np.ndarray, Mesh | None]:
    """Return the examples of this process and the mesh of its own devices."""
    processes = jax.process_count()
    if mesh is None or processes == 1:
        return np.arange(total), mesh
    return np.arange(jax.process_index(), total, processes), mesh.local_mesh


def _settings(
    examples: Examples, num_budgets: int, mesh: Mesh | None, slots: int | None, limit: int
) -> Settings:
    devices = 1 if mesh is None else mesh.size
    share = max(math.ceil(len(examples.images) / devices), 1)
    if slots is None:
        most = 32 if jax.default_backend() == "cpu" else 256
        slots = int(np.clip(share // 4, 16, most))
    slots = min(slots, share)
    one = np.asarray(examples.images[0])
    room = limit // _state.bytes_per_row(one, 1, num_budgets)
    capacity = int(np.clip(room, min(2 * slots, share), share))
    return Settings(order="search", slots=slots, capacity=capacity, restarts=1)


def _gather(share: _Share, mine: np.ndarray, total: int) -> SweepResult:
    """Put the shares of all processes together and compute the curve."""
    if len(mine) < total:
        share = _across_processes(share, mine, total)
    first, epsilons = share.tables[0], share.epsilons
    num_budgets = len(epsilons)
    levels = np.append(epsilons, np.inf)
    # an attack's best includes that of the attacks before it, but for exhaustive orders
    bests = np.stack([t.best for t in share.tables])
    best = bests.min(0)
    min_eps = np.where(first.wrong, 0.0, levels[best])
    solved_by = np.where(~first.wrong & (best < num_budgets), np.argmin(bests, axis=0), -1)
    rejected = [(t.verdict == Verdict.REJECTED).sum((1, 2)) for t in share.tables]
    return SweepResult(
        epsilons=epsilons,
        min_eps=min_eps,
        clean_accuracy=float(1 - first.wrong.mean()),
        robust_accuracy=(min_eps[:, None] > epsilons).mean(0),
        rows_computed=share.computed,
        rows_useful=share.useful,
        status=_status(share.tables, first.wrong, best, num_budgets),
        solved_by=solved_by,
        float_only=np.sum(rejected, axis=0),
        trust=_trust.judge(share.signs),
        rows_probed=share.probed,
        tables=share.tables,
        x_adv=share.x_adv,
    )


def _status(
    tables: list[Tables], wrong: np.ndarray, best: np.ndarray, num_budgets: int
) -> np.ndarray:
    """Return the status of the run that broke each example, or of the last failure at the top."""
    rows = np.arange(len(best))
    status = np.zeros(len(best), np.int8)
    at = np.minimum(best, num_budgets - 1)
    for table in tables:
        for restart in range(table.verdict.shape[1]):
            verdict = table.verdict[rows, restart, at]
            broke = (best < num_budgets) & (verdict == Verdict.VERIFIED)
            stood = (best == num_budgets) & (verdict != Verdict.UNKNOWN)
            status = np.where(broke | stood, table.status[rows, restart, at], status)
    return np.where(wrong, np.int8(Status.WRONG_WHEN_CLEAN), status)


def _across_processes(share: _Share, mine: np.ndarray, total: int) -> _Share:
    """Exchange results: the only communication of a sweep of several processes."""
    from jax.experimental import multihost_utils

    longest = math.ceil(total / jax.process_count())

    def gather(leaf: np.ndarray) -> np.ndarray:
        padded = np.zeros((longest, *leaf.shape[1:]), leaf.dtype)
        padded[: len(leaf)] = leaf
        parts = np.asarray(multihost_utils.process_allgather(padded))
        whole = np.zeros((total, *leaf.shape[1:]), leaf.dtype)
        for process, part in enumerate(parts):
            rows = np.arange(process, total, len(parts))
            whole[rows] = part[: len(rows)]
        return whole

    names = list(_trust.SIGNS)
    # -1: nobody looked
    signs = [share.signs.get(name, (-1, -1)) for name in names]
    numbers = [share.computed, share.useful, share.probed, *np.ravel(signs)]
    # int64 does not cross without x64; these stay exact in pairs of 32 bits
    halves = np.array([divmod(int(n), 2**24) for n in numbers], np.int32)
    parts = np.asarray(multihost_utils.process_allgather(halves)).astype(np.int64)
    total_work = (parts[..., 0] * 2**24 + parts[..., 1]).reshape(len(parts), -1)
    counts = [
        {
            n: (int(c), int(t))
            for n, (c, t) in zip(names, row[3:].reshape(-1, 2), strict=True)
            if t >= 0
        }
        for row in total_work
    ]
    computed, useful, probed = map(int, total_work[:, :3].sum(0))
    return _Share(
        share.epsilons,
        [Tables(*(gather(column) for column in table)) for table in share.tables],
        computed,
        useful,
        None if share.x_adv is None else gather(share.x_adv),
        _trust.merge(*counts),
        probed,
    )
