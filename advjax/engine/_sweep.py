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
)
from advjax.engine._plan import Verdict
from advjax.engine._reference import MakeAttack
from advjax.engine._stage import Progress, Stage, Tables
from advjax.engine._state import Finished, Settings
from advjax.random import typed
from advjax.status import Status
from advjax.types import Array, Attack, PyTree

MEMORY = 2**30
# a queue is looked through in every call of the program: a longer one is streamed all the same
LONGEST = 2**17


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
        those who store rows. With several processes each hears of its own runs only.
      done: called as `done(attack, examples, tables)` every few seconds with the examples `[m]`
        that were decided since and their tables `[m, ...]`; with several processes as `take`.
      progress: called about once a second with a `Progress`, of this process's share.

    Returns:
      `SweepResult`.

    Raises:
      ValueError: budgets, sizes, pixels or options make no sense; said before any compute.
    """
    budgets = check_epsilons(epsilons)
    check_settings(order, restarts, slots, quantise, warm_start)
    params = _processes.local(params)
    makers, attacks = _build(make_attack, params)
    examples = check_examples(x, y, ids, attacks[0].spec.ball.bounds)
    total = len(examples.images)
    mine, mesh, alone = _processes.share(total, mesh)
    # where there are more processes than examples, the last ones hold one and do nothing
    held = mine if len(mine) else np.zeros(1, int)
    part = examples if alone else jax.tree.map(lambda leaf: leaf[held], examples)
    fixed = Settings(order, 0, 0, restarts, warm_start, quantise, take is not None)
    settings = _sized(fixed, part, len(budgets), mesh, slots, memory_limit)
    kept = _Images(part, len(budgets)) if return_x_adv else None
    tables, computed, useful, probed = [], 0, 0, 0
    signs: _trust.Counts = {}
    best, first = np.full(len(held), len(budgets), np.int32), np.full(len(held), -1, np.int32)
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
            best, first = tables[-1].best, np.full(len(held), len(budgets) - 1, np.int32)
            todo = todo[~tables[0].wrong[todo] & (best[todo] > 0)]
    if diagnose and attacks[-1].spec.num_steps > 1:
        found, probed = _trust.probe(
            lambda levels: Stage(makers[-1], attacks[-1], params, part, levels, settings, mesh),
            tables[-1], budgets, typed(key),
        )  # fmt: skip
        signs = _trust.merge(signs, found)
    images = None if kept is None else kept.images
    share = _Share(budgets, tables, computed, useful, images, signs, probed)
    return _curve(share if alone else _across_processes(share, len(mine), total))


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


def _curve(share: _Share) -> SweepResult:
    """Compute the curve from the tables of all examples."""
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


def _across_processes(share: _Share, mine: int, total: int) -> _Share:
    """Exchange results: the only communication of a sweep of several processes."""
    tables, x_adv = _processes.exchange((share.tables, share.x_adv), mine, total)
    names = list(_trust.SIGNS)
    # -1: nobody looked
    signs = [share.signs.get(name, (-1, -1)) for name in names]
    work = np.array([[share.computed, share.useful, share.probed, *np.ravel(signs)]], np.int64)
    everybody = _processes.exchange(work, 1, jax.process_count())
    counts = [
        {
            name: (int(shown), int(looked))
            for name, (shown, looked) in zip(names, row[3:].reshape(-1, 2), strict=True)
            if looked >= 0
        }
        for row in everybody
    ]
    computed, useful, probed = map(int, everybody[:, :3].sum(0))
    merged = _trust.merge(*counts)
    return _Share(share.epsilons, tables, computed, useful, x_adv, merged, probed)
