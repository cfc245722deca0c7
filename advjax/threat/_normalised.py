"""Balls whose budget is meant in normalised space."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from advjax.threat._balls import Bounds, check_bounds, clip
from advjax.threat._table import by_name
from advjax.types import Array, Ball


def normalised(norm: str, std: Any, bounds: Bounds = (0.0, 1.0)) -> Ball:
    """A ball around an image in pixel units whose radius is meant in units of `(x - mean) / std`.

    For papers that normalise first and then attack (Xu et al. 2021): with l-infinity, channel c
    may move by `eps * std_c` pixel units, and a step of a in normalised space is `a * std_c` here.
    The mean plays no part. The bounds stay those of pixels: those papers clip to the range of a
    batch, or to [0, 1] in normalised space, where half of the image is lost.

    Args:
      norm: name of the ball in normalised space, `"linf"` or `"l2"`.
      std: what the model divides by, a positive number or one per channel `[C]`.
      bounds: `(low, high)` of valid pixels.

    Returns:
      A `Ball` over pixels; `distance` and eps are in normalised units.

    Raises:
      ValueError: another norm, or a std that is not positive.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm: unknown {norm!r} in normalised space; use 'linf' or 'l2'")
    scale = np.asarray(std, np.float64)
    if scale.ndim > 1 or not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"std: expected a positive number or one per channel, got {std!r}")
    bounds = check_bounds(bounds)
    ball = by_name(norm, (-math.inf, math.inf))

    def spread(x: Array) -> Array:
        return jnp.asarray(scale, x.dtype)

    def project(x: Array, x0: Array, eps: Array) -> Array:
        if norm == "linf":  # without a division, so that std = 1 is the plain ball to the last bit
            reach = eps * spread(x)
            return clip(jnp.clip(x, x0 - reach, x0 + reach), bounds)
        inside = ball.project((x - x0) / spread(x), jnp.zeros_like(x), eps)
        return clip(x0 + spread(x) * inside, bounds)

    def sample(key: Array, x0: Array, eps: Array) -> Array:
        drawn = ball.sample(key, jnp.zeros_like(x0), eps)
        return project(x0 + spread(x0) * drawn, x0, eps)

    def steepest(g: Array) -> Array:
        return spread(g) * ball.steepest(spread(g) * g)

    def distance(x: Array, x0: Array) -> Array:
        return ball.distance((x - x0) / spread(x), jnp.zeros_like(x))

    def dual_norm(g: Array) -> Array:
        return ball.dual_norm(spread(g) * g)

    name = f"{norm}-normalised"
    return Ball(name, project, sample, steepest, distance, dual_norm, bounds)
