"""Random windows of one example: where they may lie, and which pixels they cover."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks._search import image_shape, support
from advjax.types import Array, Ball


class Region(NamedTuple):
    """The smallest rectangle of one example around all pixels that the ball can move.

    Attributes:
      movable: `[H, W, C]` bool, those pixels.
      corner: `[2]` int32, its first row and column.
      extent: `[2]` int32, its height and width.
    """

    movable: Array
    corner: Array
    extent: Array


def region_of(ball: Ball, x0: Array, attack: str) -> Region:
    """Return where windows of the example `x0` may lie.

    Raises:
      ValueError: it is neither an image nor a vector.
    """
    movable = support(ball, x0).reshape(image_shape(x0, attack))
    ends = []
    for axis in (0, 1):
        line = movable.any((1 - axis, 2))
        ends.append((jnp.argmax(line), line.shape[0] - jnp.argmax(line[::-1])))
    (top, bottom), (left, right) = ends
    corner = jnp.stack([top, left]).astype(jnp.int32)
    return Region(movable, corner, jnp.stack([bottom, right]).astype(jnp.int32) - corner)


def side_of(region: Region, share: Array) -> Array:
    """Return `[]` int32: the side of a square that covers `share` of the region, at least 1."""
    area = share * jnp.prod(region.extent)
    # a region of one row has no squares: its windows are intervals
    side = jnp.where(jnp.all(region.extent > 1), jnp.sqrt(area), area)
    return jnp.maximum(jnp.round(side), 1).astype(jnp.int32)


def place(key: Array, region: Region, sides: Array) -> Array:
    """Return `[2]` int32: the first row and column of a window of `sides` `[2]`, anywhere."""
    positions = region.extent - sides + 1
    # one draw of numbers where `randint` makes three, each of which takes time to compile
    drawn = jnp.floor(jax.random.uniform(key, (2,)) * positions).astype(jnp.int32)
    return region.corner + jnp.minimum(drawn, positions - 1)


def offsets(region: Region, corner: Array) -> tuple[Array, Array]:
    """Return rows and columns `[H, W]` int32, counted from a corner `[2]`."""
    height, width, _ = region.movable.shape
    rows = jax.lax.broadcasted_iota(jnp.int32, (height, width), 0)
    columns = jax.lax.broadcasted_iota(jnp.int32, (height, width), 1)
    return rows - corner[0], columns - corner[1]


def covered(rows: Array, columns: Array, sides: Array) -> Array:
    """Return `[H, W, 1]` bool: the window of `sides` `[2]` from whose corner is counted."""
    inside = (rows >= 0) & (rows < sides[0]) & (columns >= 0) & (columns < sides[1])
    return inside[..., None]
