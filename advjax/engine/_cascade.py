"""A cascade of attacks over one set of examples: later ones see what earlier ones left standing."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from advjax.engine import _state
from advjax.engine._inputs import Examples
from advjax.engine._reference import MakeAttack
from advjax.engine._results import Share
from advjax.engine._resume import Ledger
from advjax.engine._stage import Progress, Stage, Tables
from advjax.engine._state import Finished, Settings
from advjax.types import Array, Attack, PyTree

# a queue is looked through in every call of the program: a longer one is streamed all the same
LONGEST = 2**17


class Work(NamedTuple):
    """What this process sweeps; image i under model m has the number m * len(part.images) + i.

    `chosen` says of each attack whether its restarts are about choices of their own.
    """

    makers: list[MakeAttack]
    attacks: list[Attack]
    params: PyTree
    part: Examples
    budgets: np.ndarray
    settings: list[Settings]
    mesh: Mesh | None
    mine: np.ndarray
    chosen: list[bool]

    def stage(self, number: int, levels: np.ndarray) -> Stage:
        """Return an empty pool of one attack, for these budgets."""
        return Stage(
            self.makers[number], self.attacks[number], self.params, self.part, levels,
            self.settings[number], self.mesh,
        )  # fmt: skip


class Images:
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


def cascade(
    work: Work,
    key: Array,
    images: Images | None,
    take: Callable[[int, int, Finished, np.ndarray], None] | None,
    done: Callable[[int, int, np.ndarray, Tables], None] | None,
    progress: Callable[[Progress], None] | None,
    ledger: Ledger | None,
) -> tuple[list[Share], Tables]:
    """Run the attacks one after the other; return what each model got, and the last tables."""
    held, models, num_budgets = len(work.part.images), work.settings[0].models, len(work.budgets)
    shares = [Share(work.budgets, [], 0, 0, None, {}, 0) for _ in range(models)]
    size = models * held
    best, first = np.full(size, num_budgets, np.int32), np.full(size, -1, np.int32)
    todo = np.flatnonzero(np.arange(size) % held < len(work.mine))
    for number in range(len(work.makers)):
        stage = work.stage(number, work.budgets)
        hooks = _hooks(number, work.mine, held, images, take, done)
        left, known = todo, None
        if ledger is not None:
            known = ledger.read(number, images)
            left = np.setdiff1d(todo, known.examples)
            if "done" in hooks and known.tables is not None:
                hooks["done"](known.examples, known.tables)
            hooks["done"] = ledger.writer(number, stage, images, hooks.get("done"))
        tables = stage.run(left, key, ceiling=best, first=first, progress=progress, **hooks)
        if known is not None:
            known.restore(tables, stage)
        shares = [
            share.add(
                found, int(stage.computed[m]), int(stage.useful[m]),
                rounded=work.settings[number].quantise is not None,
                rises=_rises(work, number),
            )
            for m, (share, found) in enumerate(zip(shares, tables.split(models), strict=True))
        ]  # fmt: skip
        if work.settings[number].order != "exhaustive":
            # what stood the attack before is likely to stand this one: begin at the top
            best, first = tables.best, np.full(size, num_budgets - 1, np.int32)
            wrong = np.concatenate([share.tables[0].wrong for share in shares])
            todo = todo[~wrong[todo] & (best[todo] > 0)]
    return shares, tables


def _rises(work: Work, number: int) -> bool:
    """Whether the loss of a failed run can be held against that of the clean image.

    Not where a run keeps successes only, and not where every run is about a target of its own.
    """
    targets = work.chosen[number] and work.settings[number].restarts > 1
    return not work.attacks[number].spec.minimal and not targets


def _hooks(
    number: int,
    mine: np.ndarray,
    held: int,
    kept: Images | None,
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


def build(
    make_attack: MakeAttack | Sequence[MakeAttack], params: PyTree
) -> tuple[list[MakeAttack], list[Attack]]:
    """Return the attacks of a cascade, built once outside of the program to read their specs."""
    several = isinstance(make_attack, list | tuple) and not isinstance(make_attack, Attack)
    # `several` says which of the two it is, which the type check does not follow
    makers: list[Any] = [*make_attack] if several else [make_attack]  # type: ignore[misc]
    if not makers:
        raise ValueError("make_attack: name at least one attack")
    if isinstance(make_attack, Attack) or any(isinstance(make, Attack) for make in makers):
        raise ValueError(
            "make_attack: pass the function that builds the attack from the parameters, "
            "`lambda params: attacks.pgd(...)`, not an attack"
        )
    strange = [make for make in makers if not callable(make)]
    if strange:
        raise ValueError(
            "make_attack: expected `lambda params: attacks.pgd(...)` or a list of such functions, "
            f"got {strange[0]!r:.80}"
        )
    attacks = [make(params) for make in makers]
    other = [attack for attack in attacks if not isinstance(attack, Attack)]
    if other:
        raise ValueError(f"make_attack: must return an attack, got {other[0]!r:.80}")
    if any(attack.spec.ball.rows is not None for attack in attacks):
        raise ValueError(
            "make_attack: the ball has a mask per row, but the rows of a pool change; sweep the "
            "examples of one mask at a time, or put the mask into the objective"
        )
    return makers, attacks


def check_balls(attacks: list[Attack]) -> None:
    """Check that the attacks of a cascade mean the same by a budget.

    Raises:
      ValueError: their balls have other norms or bounds.
    """
    first, *rest = (attack.spec.ball for attack in attacks)
    for ball in rest:
        same = all(map(np.array_equal, ball.bounds, first.bounds))
        if ball.name != first.name or not same:
            raise ValueError(
                f"make_attack: one budget cannot mean {first.name} within {first.bounds} and "
                f"{ball.name} within {ball.bounds}; sweep such attacks one by one"
            )


def restarts_of(restarts: Any, number: int) -> list[Any]:
    """Return the restarts of each of so many attacks.

    Raises:
      ValueError: there are others than attacks.
    """
    each = list(restarts) if isinstance(restarts, list | tuple) else [restarts] * number
    if len(each) != number:
        raise ValueError(f"restarts: expected one number, or {number}, got {restarts}")
    return each


def sized(
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
