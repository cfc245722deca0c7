"""Random flips, rotations and crops of images, masks and boxes, each example with its own key."""

import math

import jax
import jax.numpy as jnp

from advjax import random
from advjax.config import AugmentConfig
from advjax.data._spec import IGNORE

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
    if not _changes(config):
        return images
    keys = random.row_keys(key, images.shape[0])

    def one(key: Array, image: Array) -> Array:
        return _read(image, *_places(key, image.shape, config))

    return jax.vmap(one)(keys, images)


def augment_pair(
    key: Array, images: Array, masks: Array, config: AugmentConfig
) -> tuple[Array, Array]:
    """Change each image as `augment` does with the same key, and its mask along with it.

    A mask is read at the nearest pixel. Where an image is reflected because there is nothing, its
    mask is 255, `IGNORE`: an anatomy seen twice teaches nothing.

    Args:
      key: one key, or `[B]` keys; see `augment`.
      images: `[B, H, W, C]` float.
      masks: `[B, H, W]` integers, the class of each pixel.
      config: what to do; all off returns `images` and `masks` themselves.

    Returns:
      `(images [B, H, W, C], masks [B, H, W])`.

    Raises:
      ValueError: as `augment`, or masks that are no integers or not one for each image.
    """
    _check(images, config)
    if masks.shape != images.shape[:3] or not jnp.issubdtype(masks.dtype, jnp.integer):
        raise ValueError(
            f"masks must be integers {list(images.shape[:3])}, the class of each pixel, got "
            f"{masks.shape} {masks.dtype}"
        )
    if not _changes(config):
        return images, masks
    keys = random.row_keys(key, images.shape[0])

    def one(key: Array, image: Array, mask: Array) -> tuple[Array, Array]:
        y, x = _places(key, image.shape, config)
        return _read(image, y, x), _nearest(mask, y, x)

    return jax.vmap(one)(keys, images, masks)


def augment_boxes(
    key: Array, images: Array, boxes: Array, config: AugmentConfig
) -> tuple[Array, Array]:
    """Flip each image as `augment` does with the same key, and its boxes along with it.

    Args:
      key: one key, or `[B]` keys; see `augment`.
      images: `[B, H, W, C]` float.
      boxes: `[B, M, 5]`, each `(class, y0, x0, y1, x1)` in pixels; class -1: no box.
      config: what to do; all off returns `images` and `boxes` themselves.

    Returns:
      `(images [B, H, W, C], boxes [B, M, 5])`.

    Raises:
      ValueError: as `augment`, another shape, or a config that does more than flips.
    """
    check_boxes(config)
    _check(images, config)
    if boxes.ndim != 3 or boxes.shape[0] != images.shape[0] or boxes.shape[2] != 5:
        raise ValueError(f"boxes must be [{images.shape[0]}, M, 5], got {boxes.shape}")
    if not _changes(config):
        return images, boxes
    height, width = images.shape[1:3]

    def one(key: Array, image: Array, boxes: Array) -> tuple[Array, Array]:
        y, x = _places(key, image.shape, config)
        kind, y0, x0, y1, x1 = boxes.T
        down, left = y[0] > y[-1], x[0] > x[-1]
        y0, y1 = jnp.where(down, height - y1, y0), jnp.where(down, height - y0, y1)
        x0, x1 = jnp.where(left, width - x1, x0), jnp.where(left, width - x0, x1)
        moved = jnp.stack([kind, y0, x0, y1, x1], -1)
        return _read(image, y, x), jnp.where(kind[:, None] >= 0, moved, boxes)

    return jax.vmap(one)(random.row_keys(key, images.shape[0]), images, boxes)


def check_boxes(config: AugmentConfig) -> None:
    """Check that boxes can follow what a config does.

    Raises:
      ValueError: it turns or crops images. A box around a turned box is no longer tight, and what
        a crop reflects into the image has no box.
    """
    for name in ("rotate_degrees", "crop_padding"):
        if getattr(config, name):
            raise ValueError(
                f"augment.{name}: boxes follow flips only; leave it at 0 for data.task detection"
            )


def _changes(config: AugmentConfig) -> bool:
    turns = config.rotate_degrees > 0
    return bool(config.flip_horizontal or config.flip_vertical or turns or config.crop_padding)


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


def _places(key: Array, shape: tuple[int, ...], config: AugmentConfig) -> tuple[Array, Array]:
    """Where each pixel is read: y and x `[H, W]`, or integers `[H]` and `[W]` without rotation."""
    height, width = shape[:2]
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
        return rows, columns
    limit = math.radians(config.rotate_degrees)
    angle = jax.random.uniform(turn_key, (), minval=-limit, maxval=limit)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    dy = (rows - (height - 1) / 2)[:, None]
    dx = (columns - (width - 1) / 2)[None, :]
    return cos * dy - sin * dx + (height - 1) / 2, sin * dy + cos * dx + (width - 1) / 2


def _read(image: Array, y: Array, x: Array) -> Array:
    """Read `[H, W, C]` at places of `_places`, reflected into the image."""
    if y.ndim == 1:
        return image[_reflect(y, image.shape[0])][:, _reflect(x, image.shape[1])]
    return _bilinear(image, y, x)


def _nearest(mask: Array, y: Array, x: Array) -> Array:
    """Read `[H, W]` at the pixels nearest to places of `_places`; `IGNORE` outside."""
    if y.ndim == 1:
        y, x = y[:, None], x[None, :]
    y, x = jnp.round(y).astype(jnp.int32), jnp.round(x).astype(jnp.int32)
    height, width = mask.shape
    there = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    found = mask[jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)]
    return jnp.where(there, found, jnp.asarray(IGNORE, mask.dtype))


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
