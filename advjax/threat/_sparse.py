"""The l1 ball and the l0 ball, which favour few changed values, each intersected with a box."""

import jax
import jax.numpy as jnp

from advjax.threat._balls import Bounds, check_bounds, clip
from advjax.types import Array, Ball


def l1(bounds: Bounds = (0.0, 1.0)) -> Ball:
    """The l1 ball: the absolute changes of all pixels and channels add up to eps at most.

    `project` returns the nearest point (Euclidean) of ball and bounds together, exactly (Croce and
    Hein 2021, "Mind the box"); a point that is inside is not touched. `steepest` changes the one
    value whose gradient is the largest, the first of several.

    Args:
      bounds: `(low, high)` of valid pixels, scalars or arrays that broadcast against one example.

    Returns:
      A `Ball`; eps is a sum of pixel units, inf leaves only the bounds.

    Raises:
      ValueError: low is not below high.
    """
    bounds = check_bounds(bounds)

    def project(x: Array, x0: Array, eps: Array) -> Array:
        low, high = (jnp.asarray(b, x.dtype) for b in bounds)
        clipped = jnp.clip(x, low, high)
        away = jnp.where(x > x0, 1, -1).astype(x.dtype)
        size = jnp.abs(x - x0)
        room = jnp.maximum(jnp.where(x > x0, high - x0, x0 - low), 0)
        kept = jnp.clip(size - threshold(size, room, eps), 0, room)
        moved = x0 + away * kept
        # what rounds outwards takes the next number: the roundings of many values add up
        moved = jnp.where(jnp.abs(moved - x0) > kept, jnp.nextafter(moved, x0), moved)
        inside = distance(clipped, x0) <= eps
        return jnp.where(inside, clipped, jnp.clip(moved, low, high))

    def sample(key: Array, x0: Array, eps: Array) -> Array:
        key_size, key_rest, key_sign = jax.random.split(key, 3)
        # shares of exponentials, one more than there are values, are uniform on a simplex
        sizes = jax.random.exponential(key_size, x0.shape, x0.dtype)
        total = jnp.sum(sizes) + jax.random.exponential(key_rest, (), x0.dtype)
        signs = jax.random.rademacher(key_sign, x0.shape, x0.dtype)
        # an infinite ball has no uniform point: those that fill the bounds
        radius = jnp.minimum(eps, x0.size * _width(x0, bounds))
        return project(x0 + radius * signs * sizes / total, x0, eps)

    def steepest(g: Array) -> Array:
        flat = g.ravel()
        largest = jnp.argmax(jnp.abs(flat))
        unit = jnp.where(jnp.arange(flat.size) == largest, jnp.sign(flat), 0)
        return unit.reshape(g.shape)

    def distance(x: Array, x0: Array) -> Array:
        return jnp.sum(jnp.abs(x - x0))

    return Ball("l1", project, sample, steepest, distance, _largest, bounds)


def l0(bounds: Bounds = (0.0, 1.0)) -> Ball:
    """The l0 ball: at most eps values may change, each as far as the bounds allow.

    Values are counted, not pixels: a pixel of three channels counts up to 3. `project` returns a
    nearest point (Euclidean): it keeps the floor(eps) changes whose loss would cost the most, which
    within the bounds are the largest ones, the first of equal ones. There is no direction of
    steepest ascent, so that attacks that step along one refuse this ball; `dual_norm` is that of
    one changed value, the largest absolute gradient.

    Args:
      bounds: `(low, high)` of valid pixels, scalars or arrays that broadcast against one example.

    Returns:
      A `Ball`; eps is a number of values, inf leaves only the bounds.

    Raises:
      ValueError: low is not below high; or `steepest` is called.
    """
    bounds = check_bounds(bounds)

    def project(x: Array, x0: Array, eps: Array) -> Array:
        clipped = clip(x, bounds)
        change, beyond = jnp.abs(clipped - x0), jnp.abs(x - clipped)
        # (change + beyond)^2 - beyond^2, without the difference of two large squares
        cost = change * (change + 2 * beyond)
        return jnp.where(_rank(-cost) < jnp.floor(eps), clipped, x0)

    def sample(key: Array, x0: Array, eps: Array) -> Array:
        key_place, key_value = jax.random.split(key)
        low, high = (jnp.broadcast_to(jnp.asarray(b, x0.dtype), x0.shape) for b in bounds)
        value = low + (high - low) * jax.random.uniform(key_value, x0.shape, x0.dtype)
        chosen = _rank(jax.random.uniform(key_place, x0.shape)) < jnp.floor(eps)
        return jnp.where(chosen, jnp.clip(value, low, high), x0)

    def steepest(g: Array) -> Array:
        raise ValueError(
            "l0: the number of changed values has no direction of steepest ascent; use an attack "
            "for the minimal norm, or the l1 ball"
        )

    def distance(x: Array, x0: Array) -> Array:
        return jnp.sum(x != x0).astype(x.dtype)

    return Ball("l0", project, sample, steepest, distance, _largest, bounds)


def _largest(g: Array) -> Array:
    return jnp.max(jnp.abs(g))


def _width(x0: Array, bounds: Bounds) -> Array:
    low, high = (jnp.asarray(b, x0.dtype) for b in bounds)
    return jnp.max(high - low)


def _rank(values: Array) -> Array:
    """Return the place of each value in ascending order; of equal ones the first comes first."""
    order = jnp.argsort(values.ravel(), stable=True)
    return jnp.argsort(order).reshape(values.shape)


def threshold(size: Array, room: Array, eps: Array) -> Array:
    """Return the t at which `sum(clip(size - t, 0, room))` is eps, for a sum above eps at t = 0.

    Coming from above, a value starts to count at t = size and is full at t = size - room. Between
    two such points the sum grows by the number of values under way for each unit of t: those points
    sorted, one pass finds the piece that holds eps, and the piece is a straight line. Only
    non-negative numbers are added, so that nothing cancels.

    Args:
      size: `[...]`, the unprojected changes, non-negative.
      room: `[...]`, how far each value may go, non-negative.
      eps: `[]`.
    """
    size, room = size.ravel(), room.ravel()
    points = jnp.maximum(jnp.concatenate([size, size - room]), 0)
    starts = jnp.concatenate([jnp.ones(size.size, jnp.int32), -jnp.ones(size.size, jnp.int32)])
    falling, starts = jax.lax.sort((-points, starts), num_keys=1, is_stable=True)
    points = -falling
    under_way = jnp.cumsum(starts)
    gaps = points[:-1] - points[1:]
    sums = jnp.cumsum(under_way[:-1] * gaps)
    # the last point at which the sum is not above eps yet
    piece = jnp.sum(sums <= eps)
    reached = jnp.where(piece > 0, sums[jnp.maximum(piece - 1, 0)], 0)
    slope = jnp.maximum(under_way[piece], 1)
    return jnp.maximum(points[piece] - (eps - reached) / slope, 0)
