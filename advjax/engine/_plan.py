"""Which budget an example meets next. Pure integer logic for ONE example; the pool `vmap`s it.

The table of verdicts is the only memory of a search: a budget is tried, its verdict is written,
and the next budget follows from the table. So an example whose success does not survive its
second judgement is simply planned again, and nothing that is known is ever computed twice.
"""

import enum

import jax.numpy as jnp

from advjax.types import Array

ORDERS = ("search", "ascending", "exhaustive")
# of an attack for the minimal norm: one run, whose distance tells the budget
NEAREST = "nearest"


# The smallest budget that PGD needs is 0.9 to 1.3 times the first-order estimate (medians on a
# PGD-trained and a plain ResNet); this much above it, most searches meet one failure only.
MARGIN = 1.4
# steps of one budget before a descent begins to double
PATIENCE = 4


class Verdict(enum.IntEnum):
    """What is known of (example, restart, budget)."""

    UNKNOWN = 0
    FAILED = 1
    CLAIMED = 2  # by the attack, not judged again yet
    VERIFIED = 3
    REJECTED = 4  # claimed, but it did not survive the judgement outside of the attack


def next_budget(order: str, verdicts: Array, best: Array, first: Array) -> Array:
    """Return the index of the budget to try next, or -1 where nothing is left.

    Args:
      order: `"exhaustive"` tries every budget; `"ascending"` climbs from the smallest;
        `"search"` starts at `first`, gallops to a bracket and bisects it. The last two never
        look at budgets from `best` on: what is solved at a budget is solved above. `"nearest"`
        takes the largest radius that is of interest, until a run succeeds.
      verdicts: `[E]` int8 of one example and one restart.
      best: `[]` int32, the smallest budget solved so far, by any restart or attack; E: none.
      first: `[]` int32 in [0, E), where a search starts that knows nothing.
    """
    num_budgets = verdicts.shape[0]
    index = jnp.arange(num_budgets, dtype=jnp.int32)
    unknown = verdicts == Verdict.UNKNOWN
    if order != "exhaustive":
        unknown = unknown & (index < best)
    lowest = jnp.where(jnp.any(unknown), jnp.argmax(unknown).astype(jnp.int32), -1)
    if order in ("ascending", "exhaustive"):
        return lowest
    failed = (verdicts == Verdict.FAILED) | (verdicts == Verdict.REJECTED)
    low = jnp.max(jnp.where(failed & (index < best), index, -1))
    solved = (verdicts == Verdict.CLAIMED) | (verdicts == Verdict.VERIFIED)
    if order == NEAREST:
        return jnp.where(jnp.any(solved) | (low + 1 >= best), -1, best - 1).astype(jnp.int32)
    # a success takes a few steps, a failure dozens: come from above, in small steps at first
    down = best - _doubled(jnp.sum(solved) - PATIENCE)
    up = low + _doubled(jnp.sum(failed) - 1)
    between = best - jnp.maximum((best - low) // 3, 1)
    wanted = jnp.where(low < 0, jnp.where(best < num_budgets, down, first), between)
    wanted = jnp.where((low >= 0) & (best >= num_budgets), up, wanted)
    wanted = jnp.clip(wanted, low + 1, best - 1).astype(jnp.int32)
    return jnp.where(low + 1 < best, wanted, -1)


def _doubled(times: Array) -> Array:
    return jnp.left_shift(jnp.int32(1), jnp.clip(times, 0, 20).astype(jnp.int32))


def next_run(order: str, verdicts: Array, best: Array, first: Array) -> tuple[Array, Array]:
    """Return the restart and the budget to try next; a budget of -1 where nothing is left.

    Args:
      order: as `next_budget`.
      verdicts: `[R, E]` int8 of one example.
      best: `[]` int32, as `next_budget`.
      first: `[]` int32; a restart after the first begins at the largest budget not yet solved,
        since a budget that stood one restart is likely to stand the next.
    """
    restarts, num_budgets = verdicts.shape
    rows = []
    for restart in range(restarts):
        start = first if restart == 0 else jnp.int32(num_budgets - 1)
        rows.append(next_budget(order, verdicts[restart], best, start))
    budgets = jnp.stack(rows)
    left = budgets >= 0
    which = jnp.argmax(left).astype(jnp.int32)
    return which, jnp.where(jnp.any(left), budgets[which], -1)


def claimed_index(verdicts: Array, budget: Array, distance: Array, epsilons: Array) -> Array:
    """Return the index `[]` of the budget that a success of a minimal norm is claimed at.

    It is the smallest budget that holds the point, above those at which one was rejected.

    Args:
      verdicts: `[E]` int8 of its example and restart.
      budget: `[]` int32, the radius of the run.
      distance: `[]`, of the point.
      epsilons: `[E]`.
    """
    refused = (verdicts == Verdict.FAILED) | (verdicts == Verdict.REJECTED)
    index = jnp.arange(verdicts.shape[0], dtype=jnp.int32)
    low = jnp.max(jnp.where(refused & (index < budget), index, -1))
    found = jnp.searchsorted(epsilons, distance).astype(jnp.int32)
    return jnp.clip(found, low + 1, budget)


def first_index(estimate: Array, epsilons: Array) -> Array:
    """Return where a search with an estimate `[]` of the minimal budget starts."""
    found = jnp.searchsorted(epsilons, MARGIN * estimate).astype(jnp.int32)
    return jnp.clip(found, 0, epsilons.shape[0] - 1)


def length(order: str, first: Array, num_budgets: int) -> Array:
    """Return how long an example will probably keep its slot: the longest are dealt first.

    A climb is long where the estimate is high. A search is longest in the middle of the budgets,
    where it needs a failure and a success at least; at the upper end one failure may be all.
    """
    if order != "search":
        return first
    inside = first < num_budgets - 1
    return jnp.where(inside, first + num_budgets, first)
