"""When in a run of APGD a step is: the phases of shrinking radius, and their checkpoints."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from advjax.types import Array

RADII = (3.0, 2.0, 1.0)  # of the large-eps schedule, in units of eps
SHARES = (0.3, 0.3)  # of the steps; the last phase has the rest
SPARSE_WINDOW = 0.04  # share of the steps between two checks in l1


class When(NamedTuple):
    """What a step counter says; one entry per step in the tables, scalars after `at`.

    Attributes:
      phase: int32.
      since: int32, moves made since the phase began.
      radius: of the phase, in units of eps.
      window: int32, moves since the last checkpoint where one stands, else 0.
      check: bool, whether one stands.
      turn: bool, whether the next phase begins with the next step.
    """

    phase: Any
    since: Any
    radius: Any
    window: Any
    check: Any
    turn: Any


class Schedule(NamedTuple):
    """The phases of a run.

    Attributes:
      table: one entry per step, and one for the point after the last move.
      first_radius: of the phase of the first step.
      several: whether there is more than one phase.
    """

    table: When
    first_radius: float
    several: bool


def checkpoints(num_steps: int) -> np.ndarray:
    """Return `[num_steps + 1]` int32: moves since the last checkpoint where one stands, else 0.

    A checkpoint after k moves stands at k. Its windows shrink from 22 % of the steps to 6 %, by
    3 % each.
    """
    windows = np.zeros(num_steps + 1, np.int32)
    window, place = max(int(0.22 * num_steps), 1), 0
    least, less = max(int(0.06 * num_steps), 1), max(int(0.03 * num_steps), 1)
    while place + window <= num_steps:
        place += window
        windows[place] = window
        window = max(window - less, least)
    return windows


def sparse_checkpoints(num_steps: int) -> np.ndarray:
    """Return the same for l1, where all windows are 4 % of the steps."""
    window = max(int(SPARSE_WINDOW * num_steps), 1)
    moves = np.arange(num_steps + 1)
    return np.where((moves > 0) & (moves % window == 0), window, 0).astype(np.int32)


def schedule(num_steps: int, *, large_eps: bool, sparse: bool) -> Schedule:
    """Return the schedule of a run: one phase, or those of shrinking radius.

    A phase that is not the last one spends its last step on the turn: that step evaluates, and
    proposes the start of the next phase. Phases without a step are left out.
    """
    lengths, radii = [num_steps], [1.0]
    if large_eps:
        early = [int(share * num_steps) for share in SHARES]
        lengths, radii = [*early, num_steps - sum(early)], list(RADII)
    kept = [(n, radius) for n, radius in zip(lengths, radii, strict=True) if n > 0]
    last = len(kept) - 1
    columns = []
    for phase, (n, radius) in enumerate(kept):
        entries = n + (phase == last)
        windows = (sparse_checkpoints if sparse else checkpoints)(n)[:entries]
        moves = np.arange(entries)
        turn = (moves == n - 1) & (phase < last)
        columns.append(
            When(moves * 0 + phase, moves, np.full(entries, radius), windows, windows > 0, turn)
        )
    table = When(*(np.concatenate(column) for column in zip(*columns, strict=True)))
    return Schedule(table, kept[0][1], last > 0)


def at(table: When, step: Array) -> When:
    """Return the entry of one step; beyond the last one a run goes on without checkpoints."""
    last = len(table.since) - 1
    place = jnp.minimum(step, last)
    entry = When(*(jnp.asarray(column)[place] for column in table))
    over = step - place
    return entry._replace(since=entry.since + over, check=entry.check & (over == 0))
