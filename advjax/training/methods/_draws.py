"""Budgets that each row, or each batch, draws anew."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.random import example_keys, stable_id, typed
from advjax.types import Array, Batch, PyTree

PER = ("example", "batch")


class Draws(NamedTuple):
    """What is drawn for an inner attack: whether, how far and how long.

    Attributes:
      eps: `(low, high)`, the budget is uniform in between.
      steps: `(low, high)`, the number of steps is uniform on the integers from low to high.
      share: probability that there is an attack at all.
      per: `"example"` or `"batch"`, what shares a draw.
    """

    eps: tuple[float, float]
    steps: tuple[int, int]
    share: float = 1.0
    per: str = "example"


def check_draws(draws: Draws) -> None:
    """Check ranges.

    Raises:
      ValueError: a range is empty or impossible, a share is no probability.
    """
    low, high = draws.eps
    if not 0 <= low <= high or high <= 0:
        raise ValueError(f"eps_range: expected 0 <= low <= high and high > 0, got {draws.eps}")
    if not 1 <= draws.steps[0] <= draws.steps[1]:
        raise ValueError(f"steps_range: expected 1 <= low <= high, got {draws.steps}")
    if not 0 < draws.share <= 1:
        raise ValueError(f"adversarial_share: must be in (0, 1], got {draws.share}")
    if draws.per not in PER:
        raise ValueError(f"draw_per: unknown {draws.per!r}; use one of {', '.join(PER)}")


def ranges(draws: Draws) -> dict[str, Array]:
    """Return the ranges as arrays, for the state of a method."""
    return {
        "eps": jnp.asarray(draws.eps, jnp.float32),
        "steps": jnp.asarray(draws.steps, jnp.int32),
        "share": jnp.asarray(draws.share, jnp.float32),
    }


def draw(draws: Draws, state: PyTree, key: Array, batch: Batch, name: str) -> tuple[Array, Array]:
    """Draw the budget and the steps of every row.

    Args:
      draws: says who shares a draw.
      state: `ranges(draws)`, possibly others of the same shapes; traced.
      key: one key or `[B]` keys, see `rows_of`.
      batch: `[B, ...]`.
      name: of the attack.

    Returns:
      eps `[B]` and steps `[B]`, both zero in the rows that stay clean.
    """
    keys = rows_of(key, batch, f"{name}/draw")
    if draws.per == "batch":
        keys = jnp.broadcast_to(batch_key(key, f"{name}/draw"), keys.shape)

    def one(key: Array) -> tuple[Array, Array]:
        whether, budget, count = jax.random.split(key, 3)
        attacked = jax.random.uniform(whether) < state["share"]
        low, high = state["eps"]
        eps = low + (high - low) * jax.random.uniform(budget)
        fewest, most = state["steps"]
        steps = jax.random.randint(count, (), fewest, most + 1)
        return jnp.where(attacked, eps, 0), jnp.where(attacked, steps, 0)

    return jax.vmap(one)(keys)


def rows_of(key: Array, batch: Batch, name: str) -> Array:
    """Return `[B]` keys of an attack: from the ids of the examples, or folded from `[B]` keys."""
    key = typed(key)
    if key.ndim == 0:
        return example_keys(key, batch.id, attack_id=name)
    return jax.vmap(lambda k: jax.random.fold_in(k, stable_id(name)))(key)


def batch_key(key: Array, name: str) -> Array:
    """Return one key for the whole batch."""
    key = typed(key)
    return jax.random.fold_in(key if key.ndim == 0 else key[0], stable_id(name))
