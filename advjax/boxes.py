"""Boxes of ONE image: overlap, and what the maps of a detector say.

A box is `(y0, x0, y1, x1)` in pixels, the last two excluded; a true box has its class in front, -1
where there is none (padding). The maps are those of `models.centernet`: `heatmap` `[h, w, K]`
logits of an object's centre, `size` `[h, w, 2]` height and width, `offset` `[h, w, 2]` row and
column of the centre beyond the cell's own, both in cells of `STRIDE` pixels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

STRIDE = 4  # pixels of the image per cell of the maps
SCORE = 0.3  # from which on a detection is a box that the detector tells


class Maps(NamedTuple):
    """The output of a detector for one image, see above."""

    heatmap: Array
    size: Array
    offset: Array


class Detections(NamedTuple):
    """Boxes found in one image, best first.

    Attributes:
      boxes: `[n, 4]` pixels.
      scores: `[n]` in [0, 1].
      classes: `[n]` int32.
    """

    boxes: Array
    scores: Array
    classes: Array


def is_maps(output: Any) -> bool:
    """Whether an output is one of a detector: a mapping or a named tuple with the three maps."""
    if isinstance(output, Mapping):
        return set(Maps._fields) <= set(output)
    return all(hasattr(output, name) for name in Maps._fields)


def maps(output: Any) -> Maps:
    """Return the maps of one image.

    Raises:
      ValueError: the output has none.
    """
    if not is_maps(output):
        raise ValueError(
            "detection: expected an output with heatmap [h, w, K], size and offset [h, w, 2], as "
            f"models.centernet has, got {type(output).__name__}"
        )
    found = Maps(*(output[n] if isinstance(output, Mapping) else getattr(output, n)
                   for n in Maps._fields))  # fmt: skip
    chex.assert_rank(found, 3)
    chex.assert_equal_shape_prefix(found, 2)
    return found


def iou(boxes: Array, others: Array) -> Array:
    """Intersection over union of every pair `[n, 4]`, `[m, 4]` -> `[n, m]`; 0 for two points."""
    a, b = boxes[:, None], others[None]
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    both = jnp.prod(jnp.maximum(sides, 0), -1)
    union = jnp.prod(a[..., 2:] - a[..., :2], -1) + jnp.prod(b[..., 2:] - b[..., :2], -1) - both
    return jnp.where(union > 0, both / jnp.where(union > 0, union, 1), 0)


def of_cells(output: Any, *, stride: int = STRIDE) -> Array:
    """Return the box that each cell proposes, `[h, w, 4]`."""
    found = maps(output)
    height, width = found.heatmap.shape[:2]
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    centre = jnp.stack([rows, columns], -1).astype(found.size.dtype) + found.offset
    half = jnp.maximum(found.size, 0) / 2
    return jnp.concatenate([centre - half, centre + half], -1) * stride


def peaks(heatmap: Array) -> Array:
    """Mark the cells `[h, w, K]` that no neighbour of the eight exceeds."""
    height, width = heatmap.shape[:2]
    padded = jnp.pad(heatmap, ((1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    around = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return heatmap >= jnp.stack(around).max(0)


def decode(output: Any, *, num: int = 100, stride: int = STRIDE) -> Detections:
    """Return the boxes of the highest peaks (Zhou et al. 2019, section 4).

    Args:
      output: maps of one image.
      num: n, at most h * w * K.
      stride: pixels per cell.

    Returns:
      Detections `[n]`, highest score first. Where there are fewer peaks, the rest have score 0.
    """
    heatmap = maps(output).heatmap
    num_classes = heatmap.shape[-1]
    scores = jnp.where(peaks(heatmap), jax.nn.sigmoid(heatmap), 0).ravel()
    best, place = jax.lax.top_k(scores, min(num, scores.size))
    boxes = of_cells(output, stride=stride).reshape(-1, 4)[place // num_classes]
    return Detections(boxes, best, (place % num_classes).astype(jnp.int32))


def hits(found: Detections, boxes: Array, *, overlap: float = 0.5) -> Array:
    """Which detections find a true box that none before them found, `[n]` bool.

    From the highest score down each takes the true box of its class that it overlaps most among
    those left, if by that IoU at least: the matching of mean average precision.

    Args:
      found: of `decode`.
      boxes: `[M, 5]`, each `(class, y0, x0, y1, x1)`; class -1: no box.
      overlap: least IoU.
    """
    same = found.classes[:, None] == jnp.round(boxes[:, 0]).astype(jnp.int32)
    counts = same & (found.scores > 0)[:, None]
    shared = jnp.where(counts, iou(found.boxes, boxes[:, 1:]), -1)
    places = jnp.arange(boxes.shape[0])

    def take(free: Array, row: Array) -> tuple[Array, Array]:
        left = jnp.where(free, row, -1)
        best = jnp.argmax(left)
        hit = left[best] >= overlap
        return free & ~(hit & (places == best)), hit

    # of the type of what varies with the rows, as loops under shard_map want it
    free = jnp.ones_like(boxes[:, 0], jnp.bool_)
    return jax.lax.scan(take, free, shared)[1]


def as_targets(found: Detections, *, score: float) -> Array:
    """Return detections as true boxes `[n, 5]`, those below the score as padding."""
    classes = jnp.where(found.scores >= score, found.classes, -1).astype(found.boxes.dtype)
    return jnp.concatenate([classes[:, None], found.boxes], -1)
