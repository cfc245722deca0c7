"""The start and the candidates of Square in the Euclidean ball."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks._search import image_shape
from advjax.attacks._windows import Region, covered, offsets, place, region_of, side_of
from advjax.types import Array, Ball

TINY = 1e-12  # added to norms that divide


def start(ball: Ball, key: Array, x0: Array, eps: Array) -> Array:
    """Tile the image with pyramids, five to the shorter side, of random sign and orientation."""
    shape = image_shape(x0, "square")
    side = max(min(shape[0], shape[1]) // 5, 1)
    if shape[0] == 1:
        side = 1
    down, across = shape[0] // side, shape[1] // side
    rows, columns = np.mgrid[:side, :side]
    tile = pyramids(jnp.asarray(rows), jnp.asarray(columns), jnp.full(2, side), x0.dtype)
    key_sign, key_turn = jax.random.split(key)
    signs = jax.random.rademacher(key_sign, (down, 1, across, 1, shape[2]), x0.dtype)
    turned = jax.random.bernoulli(key_turn, 0.5, (down, 1, across, 1, 1))
    up = tile[None, :, None, :, None]
    tiles = signs * jnp.where(turned, up.transpose(0, 3, 2, 1, 4), up)
    tiles = tiles.reshape(down * side, across * side, shape[2])
    margins = [(n - m) // 2 for n, m in zip(shape[:2], tiles.shape[:2], strict=True)]
    around = [(m, n - t - m) for m, n, t in zip(margins, shape[:2], tiles.shape[:2], strict=True)]
    delta = jnp.pad(tiles, (*around, (0, 0))).reshape(x0.shape)
    return ball.project(x0 + eps * ball.steepest(delta), x0, eps)


def change(ball: Ball, key: Array, best: Array, x0: Array, eps: Array, share: Array) -> Array:
    """Move the mass of one random window into a pyramid in another one.

    What the bounds had cut off from the length eps is spread over the channels too.
    """
    to, origin, key_sign, key_turn = jax.random.split(key, 4)
    region = region_of(ball, x0, "square")
    delta = (best - x0).reshape(region.movable.shape)
    sides = _odd_sides(region, share)
    rows, columns = offsets(region, place(to, region, sides))
    window = covered(rows, columns, sides)
    emptied = covered(*offsets(region, place(origin, region, sides)), sides)

    spare = jnp.maximum(eps**2 - jnp.sum(delta**2), 0) / delta.shape[2]
    mass = spare + _squares(jnp.where(window | emptied, delta, 0))
    turned = jax.random.bernoulli(key_turn)
    lump = pyramids(
        jnp.where(turned, columns, rows), jnp.where(turned, rows, columns),
        jnp.where(turned, sides[::-1], sides), delta.dtype,
    )  # fmt: skip
    signs = jax.random.rademacher(key_sign, (1, 1, delta.shape[2]), delta.dtype)
    before = jnp.where(window, delta, 0)
    before = before / (TINY + jnp.sqrt(_squares(before)))
    new = jnp.where(window & region.movable, lump[..., None] * signs + before, 0)
    new = new / (TINY + jnp.sqrt(_squares(new))) * jnp.sqrt(mass)
    delta = jnp.where(window, new, jnp.where(emptied, 0, delta)).reshape(x0.shape)
    return ball.project(x0 + eps * ball.steepest(delta), x0, eps)


def pyramids(rows: Array, columns: Array, sides: Array, dtype: jnp.dtype) -> Array:
    """Return the profile of one window, of Euclidean length 1: a peak above a trough.

    The upper half of the rows holds the peak, the lower half the trough; each is a pyramid whose
    height at Chebyshev distance r from its centre is the sum of 1 / (k + 1)^2 over k from r up to
    half of its longer side.

    Args:
      rows, columns: `[H, W]` int, counted from the corner of the window.
      sides: `[2]` int, its height and width.
      dtype: of the result.

    Returns:
      `[H, W]`, zero outside of the window.
    """
    top = sides[0] // 2
    upper = rows < top
    height = jnp.where(upper, top, sides[0] - top)
    centre = jnp.where(upper, 0, top) + height // 2
    layers = jnp.maximum(height // 2, sides[1] // 2) + 1
    ring = jnp.maximum(jnp.abs(rows - centre), jnp.abs(columns - sides[1] // 2))
    longest = max(rows.shape) // 2 + 2
    sums = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, longest + 1) ** 2)])
    heights = jnp.asarray(sums, dtype)
    values = heights[layers] - heights[jnp.minimum(ring, layers)]
    values = jnp.where(covered(rows, columns, sides)[..., 0], values, 0)
    peak, trough = jnp.where(upper, values, 0), jnp.where(upper, 0, values)
    # a window of one row has no upper half
    parts = [part / (TINY + jnp.sqrt(jnp.sum(part**2))) for part in (peak, trough)]
    both = parts[0] - parts[1]
    return both / (TINY + jnp.sqrt(jnp.sum(both**2)))


def _odd_sides(region: Region, share: Array) -> Array:
    """Return `[2]` int32: odd sides, at least 3 where the region is large enough."""
    side = jnp.maximum(side_of(region, share), 3)
    largest = region.extent - 1 + region.extent % 2
    return jnp.minimum(side + 1 - side % 2, largest)


def _squares(delta: Array) -> Array:
    """Return the sum of squares of each channel, `[1, 1, C]`."""
    return jnp.sum(delta**2, axis=(0, 1), keepdims=True)
