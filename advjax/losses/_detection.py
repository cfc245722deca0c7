"""Losses of detection: the maps of a detector against true boxes `[M, 5]`."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from advjax import boxes as box
from advjax.types import IGNORE, Array

_MIN_OVERLAP = 0.7  # a centre that misses by the radius still makes a box of that IoU


def centernet_loss(
    output: Any,
    boxes: Array,
    *,
    stride: int = box.STRIDE,
    size_weight: float = 0.1,
    offset_weight: float = 1.0,
) -> Array:
    """Loss of a detector without anchors (Zhou et al. 2019, "Objects as Points").

    Focal loss of the heatmap against Gaussians at the centres (alpha 2, beta 4), and absolute
    errors of size and offset, in cells, at the cells of the centres, all divided by the number of
    boxes. The radius of a Gaussian is the shift along both axes that leaves an IoU of 0.7, its
    sigma a third of that, plus a sixth of a cell.

    Args:
      output: maps of one image, see `advjax.boxes`.
      boxes: `[M, 5]`, each `(class, y0, x0, y1, x1)` in pixels; class -1: no box.
      stride: pixels per cell.
      size_weight: of the error of the size (0.1 in the paper).
      offset_weight: of the error of the offset (1 in the paper).

    Returns:
      `[]`, non-negative. NaN for a class beyond K.
    """
    found = box.maps(output)
    chex.assert_rank(boxes, 2)
    height, width, num_classes = found.heatmap.shape
    classes, there, valid = _classes(boxes, num_classes)
    number = jnp.maximum(jnp.sum(there), 1)
    corners = boxes[:, 1:].astype(found.size.dtype) / stride
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    size = corners[:, 2:] - corners[:, :2]
    last = jnp.asarray([height - 1, width - 1])
    cell = jnp.clip(jnp.floor(centre).astype(jnp.int32), 0, last)
    at = (cell[:, 0], cell[:, 1])

    def error(predicted: Array, wanted: Array) -> Array:
        off = jnp.sum(jnp.abs(predicted[at] - wanted), -1)
        return jnp.sum(jnp.where(there, off, 0))

    heat = _focal(found.heatmap, _splat(cell, size, classes, there, found.heatmap))
    total = heat + size_weight * error(found.size, size)
    total = total + offset_weight * error(found.offset, centre - cell)
    return jnp.where(valid, total / number.astype(total.dtype), jnp.nan)


def detection_pixels(
    output: Any, boxes: Array, *, overlap: float = 0.1, score: float = 0.1
) -> tuple[Array, Array]:
    """See the cells of a detector as pixels with a class: the proposals of Xie et al. (2017).

    A cell counts where the box that it proposes overlaps a true one by more than `overlap` and has
    that one's class with a score above `score`.

    Args:
      output: maps of one image.
      boxes: `[M, 5]` true boxes.
      overlap: least IoU.
      score: least score; as a logit it is also that of "no object".

    Returns:
      Logits `[h, w, K + 1]`, the last class being "no object", and classes `[h, w]`, 255 where a
      cell does not count.
    """
    heatmap = box.maps(output).heatmap
    height, width, num_classes = heatmap.shape
    classes, there, valid = _classes(boxes, num_classes)
    proposed = jax.lax.stop_gradient(box.of_cells(output)).reshape(-1, 4)
    shared = jnp.where(there, box.iou(proposed, boxes[:, 1:]), -1)
    label = classes[jnp.argmax(shared, -1)].reshape(height, width)
    floor = jnp.log(jnp.asarray(score, heatmap.dtype)) - jnp.log1p(-score)
    own = jnp.arange(num_classes) == label[..., None]
    likely = jnp.sum(jnp.where(own, heatmap, 0), -1) > floor
    counts = (jnp.max(shared, -1).reshape(height, width) > overlap) & likely
    # where a class does not exist, none of the classes does: NaN, as in the other losses
    label = jnp.where(valid, jnp.where(counts, label, IGNORE), -1)
    nothing = jnp.full((height, width, 1), floor, heatmap.dtype)
    return jnp.concatenate([heatmap, nothing], -1), label


def _classes(boxes: Array, num_classes: int) -> tuple[Array, Array, Array]:
    """Return the classes `[M]`, which boxes there are `[M]`, and whether all classes exist."""
    classes = jnp.round(boxes[:, 0]).astype(jnp.int32)
    return classes, classes >= 0, jnp.all((classes >= -1) & (classes < num_classes))


def _splat(
    cell: Array, size: Array, classes: Array, there: Array, heatmap: Array
) -> tuple[Array, Array]:
    """Return the wanted heatmap `[h, w, K]` and the cells of centres."""
    height, width, num_classes = heatmap.shape
    total, area = jnp.sum(size, -1), jnp.prod(size, -1)
    left = (1 - _MIN_OVERLAP) / (1 + _MIN_OVERLAP) * area
    radius = (total - jnp.sqrt(jnp.maximum(total**2 - 4 * left, 0))) / 2
    sigma = (2 * radius + 1) / 6
    rows = jnp.arange(height)[:, None] - cell[:, 0, None, None]
    columns = jnp.arange(width)[None] - cell[:, 1, None, None]
    away = (rows**2 + columns**2).astype(heatmap.dtype)  # [M, h, w]
    bump = jnp.exp(-away / (2 * sigma[:, None, None] ** 2))
    own = (classes[:, None] == jnp.arange(num_classes)) & there[:, None]  # [M, K]
    own = own[:, None, None]
    wanted = jnp.max(jnp.where(own, bump[..., None], 0), 0, initial=0)
    return wanted, jnp.any(own & (away == 0)[..., None], 0)


def _focal(heatmap: Array, target: tuple[Array, Array]) -> Array:
    """Sum the penalty-reduced focal loss over the cells."""
    wanted, centres = target
    p = jax.nn.sigmoid(heatmap)
    hit = (1 - p) ** 2 * jax.nn.softplus(-heatmap)
    miss = (1 - wanted) ** 4 * p**2 * jax.nn.softplus(heatmap)
    return jnp.sum(jnp.where(centres, hit, miss))
