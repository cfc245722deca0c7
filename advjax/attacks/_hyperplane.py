"""Shortest steps of one point to a hyperplane that do not leave a box.

Every coordinate `i` that has a weight can bring the point nearer to the hyperplane, by at most the
room between it and its bound. The shortest step fills these rooms like vessels: to one level
(l-infinity), to a level in proportion to the weight (Euclidean), or the heaviest coordinates first
(l1). The level is found exactly and without sorting, by a search that ends after finitely many
sums: on a CPU they take a small part of the time of a sort.
"""

import jax
import jax.numpy as jnp

from advjax.types import Array

NORMS = ("linf", "l2", "l1")


def step_to_hyperplane(
    norm: str, x: Array, w: Array, residual: Array, low: Array, high: Array
) -> Array:
    """Return the shortest `d` with `<w, x + d> = b` and `low <= x + d <= high`.

    Where the hyperplane does not meet the box, `d` goes to the point of the box that is nearest to
    it: every coordinate that has a weight goes to its bound.

    Args:
      norm: in which `d` is short, one of `NORMS`.
      x: `[...]` one point within the box.
      w: `[...]` the normal of the hyperplane; zero: no step.
      residual: `[]`, `<w, x> - b`. It is asked for instead of b because it is the difference of
        two large numbers, which the caller often knows exactly.
      low: lower bounds, which broadcast against `x`; infinite: none.
      high: upper bounds.

    Returns:
      `d` `[...]`, in float32 at least.

    Raises:
      ValueError: `norm` is unknown.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is unknown; known: {', '.join(NORMS)}")
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x, w, residual = x.astype(dtype), w.astype(dtype), residual.astype(dtype)
    # the hyperplane of w / c is that of w; squares of tiny weights would vanish
    largest = jnp.max(jnp.abs(w))
    scale = jnp.where(largest > 0, largest, 1)
    missing = jnp.abs(residual) / scale
    weight = jnp.abs(w) / scale
    direction = jnp.where(residual >= 0, -jnp.sign(w), jnp.sign(w))
    room = jnp.maximum(jnp.where(direction > 0, high - x, x - low), 0)
    # a coordinate that goes all the way alone needs no more, so that every room is finite
    enough = missing / jnp.where(weight > 0, weight, 1)
    room = jnp.where(weight > 0, jnp.minimum(room, enough), 0)
    if norm == "l1":
        return direction * _heaviest_first(weight, room, missing)
    # a coordinate moves by level * pace
    pace = weight if norm == "l2" else jnp.where(weight > 0, 1, 0).astype(dtype)
    return direction * _to_one_level(weight, room, pace, missing)


def _to_one_level(weight: Array, room: Array, pace: Array, missing: Array) -> Array:
    """Return `min(room, level * pace)` for the level at which weight times it sums to `missing`.

    The sum is concave in the level: Newton's method climbs from below and stands still as soon as
    the set of full coordinates does, which can only grow.
    """
    full_at = jnp.where(pace > 0, room / jnp.where(pace > 0, pace, 1), jnp.inf)
    gain, slope = weight * room, weight * pace

    def next_level(level: Array) -> Array:
        full = full_at <= level
        left = missing - jnp.sum(jnp.where(full, gain, 0))
        rate = jnp.sum(jnp.where(full, 0, slope))
        # nothing is left to move: the hyperplane is out of reach
        return jnp.where(rate > 0, left / jnp.where(rate > 0, rate, 1), jnp.inf)

    def climb(levels: tuple[Array, Array]) -> tuple[Array, Array]:
        return levels[1], next_level(levels[1])

    first = missing / jnp.where(jnp.sum(slope) > 0, jnp.sum(slope), 1)
    level, _ = jax.lax.while_loop(lambda levels: levels[1] > levels[0], climb, (-1 - first, first))
    return jnp.where(full_at <= level, room, level * pace)


def _heaviest_first(weight: Array, room: Array, missing: Array) -> Array:
    """Return steps that use the whole room of the heaviest coordinates, as far as needed.

    Coordinates of the weight at which it is enough share what is left, in proportion to their
    rooms. That weight is found by bisection over the floating numbers themselves: those that are
    not negative are ordered as the integers of the same bits.
    """
    integer = jnp.int64 if weight.dtype == jnp.float64 else jnp.int32
    bits = jax.lax.bitcast_convert_type(weight, integer)
    gain = weight * room

    def halve(between: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = between
        middle = low + (high - low) // 2
        enough = jnp.sum(jnp.where(bits >= middle, gain, 0)) >= missing
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    heaviest = jnp.max(bits)
    # no weight is negative: out of reach, the search ends at 0, above which all are full; where
    # nothing is missing there is nothing to search
    low = jnp.where(missing > 0, 0, heaviest)
    last, _ = jax.lax.while_loop(lambda ends: ends[1] - ends[0] > 1, halve, (low, heaviest + 1))
    left = missing - jnp.sum(jnp.where(bits > last, gain, 0))
    shared = jnp.sum(jnp.where(bits == last, gain, 0))
    share = jnp.clip(left / jnp.where(shared > 0, shared, 1), 0, 1)
    return jnp.where(bits > last, room, jnp.where(bits == last, share * room, 0))
