"""What walks for the minimal norm see from the image: the nearest boundary among several.

A walk follows the most likely other class and stays with it, while another boundary may be nearer.
The first steps therefore stay at the image, differentiate one decision each, and remember the
point, on any of their boundaries and within the bounds, that is nearest to first order.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import criteria
from advjax.attacks._hyperplane import step_to_hyperplane
from advjax.attacks._minimal import gaps, margin
from advjax.attacks._wrappers import with_ascent
from advjax.threat import over_rows
from advjax.types import Array, AttackState, Ball, Objective, Target

# most decisions that are looked at, as many as AutoAttack has targets, and the share of the steps
# that this may take
MOST, SHARE = 9, 0.1
_PAST = 2**20  # a step after all looks
_FAR = 1e12  # times a distance: beyond every point of the bounds
_BEYOND = 0.001  # a point on the boundary itself may be a rounding short of it


class Seen(NamedTuple):
    """What ONE row has seen.

    Attributes:
      missing: `[]`, distance to first order of the nearest boundary; inf before the first look.
      toward: `[...]`, the way there.
    """

    missing: Array
    toward: Array

    @classmethod
    def nothing(cls, x0: Array) -> "Seen":
        """Return what rows `[B, ...]` have seen before they look."""
        return cls(jnp.full(x0.shape[:1], jnp.inf, x0.dtype), jnp.zeros_like(x0))


def with_looks(objective: Objective, num_steps: int) -> Objective:
    """Return the objective that ascends one decision after the other, then the margin for good.

    One that is wrapped or that has a target, for which every boundary must be passed, ascends the
    margin alone.
    """
    objective = objective.with_loss(margin)
    if not _several(objective):
        return objective
    return with_ascent(
        objective, functools.partial(_ranked, num_steps=num_steps), num_steps=num_steps
    )


def count_looks(plain: Objective, x0: Array, target: Target, keys: Array, num_steps: int) -> int:
    """Return how many steps look: one for each other class or finding, the last at the margin.

    Args:
      plain: the objective that `with_looks` was given.
      x0: images `[B, ...]`.
      target: of the objective.
      keys: `[B]`.
      num_steps: of the attack.
    """
    if not _several(plain):
        return 1
    outputs = jax.eval_shape(plain.apply, x0, keys).shape[1]
    return _count(outputs, jnp.ndim(target) == 1, num_steps)


def skip_looks(plain: Objective, ball: Ball, state: AttackState, x0: Array) -> AttackState:
    """Return the state with rows that start at a point of the caller's past their looks."""
    if not _several(plain):
        return state
    elsewhere = (state.step == 0) & (over_rows(ball).distance(state.x, x0) > 0)
    return state._replace(
        objective_state=jnp.where(elsewhere, _PAST, state.objective_state).astype(jnp.int32)
    )


def look(
    norm: str, ball: Ball, g: Array, value: Array, x0: Array, seen: Seen, looking: Array
) -> Seen:
    """Return what ONE row has seen after a decision with gradient `g` and gap `value` at `x0`.

    One that is not `looking` has seen nothing new, and with nothing missing its way ends at once.
    """
    counts = looking & jnp.isfinite(value)
    missing = jnp.where(counts, jnp.abs(value), 0).astype(g.dtype) * (1 + _BEYOND)
    way, length = way_to_boundary(norm, ball, x0, g, -missing)
    nearer = looking & (length < seen.missing)
    return Seen(
        missing=jnp.where(nearer, length, seen.missing).astype(seen.missing.dtype),
        toward=jnp.where(nearer, way.astype(x0.dtype), seen.toward),
    )


def way_to_boundary(
    norm: str, ball: Ball, x: Array, w: Array, residual: Array
) -> tuple[Array, Array]:
    """Return the shortest way of ONE point to a hyperplane within the bounds, and its length.

    A hyperplane that does not meet the bounds is farther than all that do, by what is missing at
    the rate of the way to the corner; one without a normal is farther still.
    """
    low, high = (jnp.asarray(b, x.dtype) for b in ball.bounds)
    way = step_to_hyperplane(norm, x, w, residual, low, high)
    missing, gain = jnp.abs(residual), jnp.abs(jnp.sum(w * way))
    length = ball.distance(way, jnp.zeros_like(way))
    rate = jnp.where(gain > 0, length / jnp.where(gain > 0, gain, 1), _FAR)
    out_of_reach = gain < missing * (1 - 1e-4)
    return way, jnp.where(out_of_reach, _FAR * missing * rate, length)


def _several(objective: Objective) -> bool:
    towards = objective.targeted or objective.criterion is criteria.reached
    return objective.plain and not towards


def _count(outputs: int, single: bool, num_steps: int) -> int:
    return max(min(outputs - single, MOST, int(SHARE * num_steps)), 1)


def _ranked(output: Array, target: tuple[Target, Array], *, num_steps: int) -> Array:
    """Return the gap of the decision whose turn it is, the largest one last and from then on."""
    labels, share = target
    falling = -jnp.sort(-gaps(output, labels))
    turn = jnp.round(share * num_steps).astype(jnp.int32)
    looks = _count(falling.size, jnp.ndim(labels) == 0, num_steps)
    value = falling[jnp.maximum(looks - 1 - turn, 0)]
    return jnp.where(jnp.isneginf(value), falling[0], value)
