"""Reading ONE image between its pixels, and blurring it."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array


def warp(image: Array, places: np.ndarray, outside: str = "black") -> Array:
    """Move an image by matrices, bilinearly.

    Args:
      image: `[H, W, C]`.
      places: `[F, 3, 3]`, where each frame takes the points `(x, y, 1)`.
      outside: `"black"`, or `"edge"`: the nearest pixel of the border.

    Returns:
      `[F, H, W, C]`.
    """
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    points = np.stack([x, y, np.ones_like(x)], axis=-1)
    # known before tracing: in double precision
    found = np.einsum("fij,hwj->fhwi", np.linalg.inv(places), points)
    column, row = (found[..., i] / found[..., 2] for i in (0, 1))
    at = jnp.asarray(np.stack([row, column], 1), image.dtype)
    return jax.vmap(lambda place: read(image, place[0], place[1], outside))(at)


def read(image: Array, row: Array, column: Array, outside: str = "black") -> Array:
    """Read `[H, W, C]` bilinearly at rows and columns `[H, W]`."""
    mode = "constant" if outside == "black" else "nearest"

    def one(channel: Array) -> Array:
        return jax.scipy.ndimage.map_coordinates(channel, [row, column], order=1, mode=mode)

    return jax.vmap(one, in_axes=2, out_axes=2)(image)


def gaussian(image: Array, sigma: float, truncate: float = 6.0) -> Array:
    """Blur `[H, W, C]` by a Gaussian of `sigma` pixels; the border is repeated."""
    reach = max(1, int(truncate * sigma + 0.5))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    taps = taps / taps.sum()
    padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width = image.shape[:2]
    rows = weighted_sum(taps, [padded[k : k + height] for k in range(len(taps))])
    return weighted_sum(taps, [rows[:, k : k + width] for k in range(len(taps))])


def weighted_sum(weights: np.ndarray, parts: Sequence[Array]) -> Array:
    """Return the sum of the parts, each times its weight."""
    return functools.reduce(
        jnp.add, (float(weight) * part for weight, part in zip(weights, parts, strict=True))
    )


def motion(image: Array, radius: float, sigma: float, degrees: np.ndarray) -> Array:
    """Smear an image in one direction: half a Gaussian along a line of `2 radius + 1` pixels.

    As ImageMagick's motion blur, but read between the pixels; the border is repeated.

    Args:
      image: `[H, W, C]`.
      radius: in pixels.
      sigma: in pixels.
      degrees: `[F]`, from the rows downwards.

    Returns:
      `[F, H, W, C]`.
    """
    taps = max(1, 2 * round(radius) + 1)
    shares = np.exp(-0.5 * (np.arange(taps) / max(sigma, 1e-6)) ** 2)
    weights = jnp.asarray(shares / shares.sum(), image.dtype)
    y, x = (jnp.asarray(v, image.dtype) for v in np.mgrid[: image.shape[0], : image.shape[1]])
    angles = jnp.asarray(np.deg2rad(degrees), image.dtype)

    def frame(angle: Array) -> Array:
        def body(k: Array, total: Array) -> Array:
            moved = read(image, y + k * jnp.sin(angle), x + k * jnp.cos(angle), "edge")
            return total + weights[k] * moved

        return jax.lax.fori_loop(0, taps, body, jnp.zeros_like(image))

    return jax.vmap(frame)(angles)


def grey(image: Array) -> Array:
    """Return `[H, W, 1]`, the luminance (ITU-R BT.601) of three channels, the mean of others."""
    if image.shape[2] != 3:
        return jnp.mean(image, axis=2, keepdims=True)
    return jnp.sum(image * jnp.asarray([0.299, 0.587, 0.114], image.dtype), 2, keepdims=True)
