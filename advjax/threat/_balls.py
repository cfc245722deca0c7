"""The l-infinity and the Euclidean ball, each intersected with a box."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array, Ball

Bounds = tuple[Any, Any]


def check_bounds(bounds: Bounds) -> Bounds:
    if len(bounds) != 2:
        raise ValueError(f"bounds: expected (low, high), got {bounds!r}")
    low, high = bounds
    traced = isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer)
    if not traced and not np.all(np.asarray(low) < np.asarray(high)):
        raise ValueError(f"bounds: low must be below high, got {bounds!r}")
    return low, high


def clip(x: Array, bounds: Bounds) -> Array:
    low, high = (jnp.asarray(b, x.dtype) for b in bounds)
    return jnp.clip(x, low, high)


def _norm(v: Array) -> Array:
    """Euclidean norm that neither under- nor overflows; zero for a zero vector."""
    scale = jnp.max(jnp.abs(v))
    safe = jnp.where(scale > 0, scale, 1)
    return scale * jnp.sqrt(jnp.sum(jnp.square(v / safe)))


def check_radius(ball: Ball, largest: float) -> None:
    """Refuse an l-infinity budget beyond the range of the pixels, which is one in other units.

    Raises:
      ValueError: it is.
    """
    low, high = (np.asarray(bound, np.float64) for bound in ball.bounds)
    width = float(np.max(high - low))
    if ball.name in ("linf", "linf-masked") and largest > width * (1 + 1e-6):
        raise ValueError(
            f"eps: {largest:g} is more than all that a pixel can change ({width:g}); budgets are "
            "in pixel units (8/255, not 8)"
        )


def linf(bounds: Bounds = (0.0, 1.0)) -> Ball:
    """The l-infinity ball: every pixel of every channel may move by eps.

    Args:
      bounds: `(low, high)` of valid pixels, scalars or arrays that broadcast against one example.

    Returns:
      A `Ball`; eps is in the units of the pixels ([0, 1] by default).

    Raises:
      ValueError: low is not below high.
    """
    bounds = check_bounds(bounds)

    def project(x: Array, x0: Array, eps: Array) -> Array:
        return clip(jnp.clip(x, x0 - eps, x0 + eps), bounds)

    def sample(key: Array, x0: Array, eps: Array) -> Array:
        noise = jax.random.uniform(key, x0.shape, x0.dtype, -1, 1)
        return project(x0 + eps * noise, x0, eps)

    def distance(x: Array, x0: Array) -> Array:
        return jnp.max(jnp.abs(x - x0))

    def dual_norm(g: Array) -> Array:
        return jnp.sum(jnp.abs(g))

    return Ball("linf", project, sample, jnp.sign, distance, dual_norm, bounds)


def l2(bounds: Bounds = (0.0, 1.0)) -> Ball:
    """The Euclidean ball over all pixels and channels of an image.

    `project` rescales onto the ball and then clips to the bounds, as every reference
    implementation does; the result is inside both (clipping only shortens the perturbation of an
    x0 within the bounds), and is the nearest such point only while no pixel is clipped.

    Args:
      bounds: `(low, high)` of valid pixels, scalars or arrays that broadcast against one example.

    Returns:
      A `Ball`; eps is the Euclidean length in pixel units.

    Raises:
      ValueError: low is not below high.
    """
    bounds = check_bounds(bounds)

    def project(x: Array, x0: Array, eps: Array) -> Array:
        delta = x - x0
        length = _norm(delta)
        inside = length <= eps
        shrunk = x0 + delta * (eps / jnp.where(inside, 1, length))
        return clip(jnp.where(inside, x, shrunk), bounds)

    def sample(key: Array, x0: Array, eps: Array) -> Array:
        key_direction, key_radius = jax.random.split(key)
        direction = steepest(jax.random.normal(key_direction, x0.shape, x0.dtype))
        # uniform in the ball: the radius has density r^(d-1)
        radius = jax.random.uniform(key_radius, (), x0.dtype) ** (1.0 / max(x0.size, 1))
        return project(x0 + eps * radius * direction, x0, eps)

    def steepest(g: Array) -> Array:
        scale = jnp.max(jnp.abs(g))
        unit = g / jnp.where(scale > 0, scale, 1)
        length = jnp.sqrt(jnp.sum(jnp.square(unit)))
        return unit / jnp.where(length > 0, length, 1)

    def distance(x: Array, x0: Array) -> Array:
        return _norm(x - x0)

    return Ball("l2", project, sample, steepest, distance, _norm, bounds)
