"""Random flips, rotations and crops, jitted, each example with its own key."""

import math

import jax
import jax.numpy as jnp

from advjax import random
from advjax.config import AugmentConfig

Array = jax.Array


def augment(key: Array, images: Array, config: AugmentConfig) -> Array:
    """Change each image at random; pure, so that jit (`config` static) applies.

    Flips, rotation and crop are one mapping of coordinates, read once with bilinear interpolation
    (exactly, without it, when there is no rotation); what lies outside is reflected. The result
    stays within the range of the image.

    Args:
      key: one key (row i uses `fold_in(key, i)`), or `[B]` keys, such as those of
        `advjax.random.example_keys(key, ids)`: then an example changes in the same way wherever
        it stands in the batch.
      images: `[B, H, W, C]` float.
      config: what to do; all off returns `images` themselves.

    Returns:
      `[B, H, W, C]`.

    Raises:
      ValueError: a shape that is not `[B, H, W, C]`, an angle outside of [0, 180] degrees, or a
        crop padding that the image cannot reflect.
    """
    _check(images, config)
    turns = config.rotate_degrees > 0
    if not (config.flip_horizontal or config.flip_vertical or turns or config.crop_padding):
        return images
    keys = random.row_keys(key, images.shape[0])
    return jax.vmap(lambda k, image: _augment_one(k, image, config))(keys, images)


def _check(images: Array, config: AugmentConfig) -> None:
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be [B, H, W, C] floats in [0, 1], got {images.shape} {images.dtype}"
        )
    if not (math.isfinite(config.rotate_degrees) and 0.0 <= config.rotate_degrees <= 180.0):
        raise ValueError(
            f"augment.rotate_degrees must be in [0, 180] (20 makes medical sense), got "
            f"{config.rotate_degrees}"
        )
    if not 0 <= config.crop_padding < min(images.shape[1:3]):
        raise ValueError(
            f"augment.crop_padding must be in [0, {min(images.shape[1:3])}), smaller than the "
            f"image, got {config.crop_padding}"
        )


def _augment_one(key: Array, image: Array, config: AugmentConfig) -> Array:
    height, width = image.shape[:2]
    flip_key, turn_key, crop_key = jax.random.split(key, 3)
    flips = jax.random.bernoulli(flip_key, 0.5, (2,)) & jnp.array(
        [config.flip_vertical, config.flip_horizontal]
    )
    pad = config.crop_padding
    shift = jax.random.randint(crop_key, (2,), -pad, pad + 1)
    rows, columns = jnp.arange(height) + shift[0], jnp.arange(width) + shift[1]
    rows = jnp.where(flips[0], height - 1 - rows, rows)
    columns = jnp.where(flips[1], width - 1 - columns, columns)
    if config.rotate_degrees == 0:
        return image[_reflect(rows, height)][:, _reflect(columns, width)]
    limit = math.radians(config.rotate_degrees)
    angle = jax.random.uniform(turn_key, (), minval=-limit, maxval=limit)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    dy = (rows - (height - 1) / 2)[:, None]
    dx = (columns - (width - 1) / 2)[None, :]
    return _bilinear(
        image, cos * dy - sin * dx + (height - 1) / 2, sin * dy + cos * dx + (width - 1) / 2
    )


def _reflect(place: Array, size: int) -> Array:
    """Fold coordinates into [0, size - 1] without repeating the edge."""
    period = max(2 * (size - 1), 1)
    folded = jnp.mod(place, period)
    return jnp.minimum(folded, period - folded) if size > 1 else jnp.zeros_like(place)


def _bilinear(image: Array, y: Array, x: Array) -> Array:
    """Read `[H, W, C]` at coordinates `[H, W]`."""
    height, width = image.shape[:2]
    y, x = _reflect(y, height), _reflect(x, width)
    top, left = jnp.floor(y), jnp.floor(x)
    below, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    fy, fx = (y - top)[..., None].astype(image.dtype), (x - left)[..., None].astype(image.dtype)

    def at(row: Array, column: Array) -> Array:
        return image[row.astype(jnp.int32), column.astype(jnp.int32)]

    upper = at(top, left) * (1 - fx) + at(top, right) * fx
    lower = at(below, left) * (1 - fx) + at(below, right) * fx
    mixed = upper * (1 - fy) + lower * fy
    # a convex mixture, but for the last bit
    return jnp.clip(mixed, image.min(), image.max())
