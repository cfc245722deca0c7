"""Success of an attack on a detector."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from advjax import boxes as box
from advjax.types import Array, CriterionFn


def recall(
    output: Any,
    boxes: Array,
    *,
    iou: float = 0.5,
    score: float = box.SCORE,
    num: int = 100,
    stride: int = box.STRIDE,
) -> Array:
    """Share of the true boxes that are found, `[]`; 1 where there is none.

    A box is found where a detection of its class has at least that score and that IoU with it.

    Args:
      output: maps of one image, see `advjax.boxes`.
      boxes: `[M, 5]`, each `(class, y0, x0, y1, x1)` in pixels; class -1: no box.
      iou: least IoU.
      score: least score, in [0, 1].
      num: detections at most.
      stride: pixels per cell of the maps.
    """
    hit = found_boxes(box.decode(output, num=num, stride=stride), boxes, iou=iou, score=score)
    number = jnp.sum(boxes[:, 0] >= 0)
    return jnp.where(number > 0, jnp.sum(hit) / jnp.maximum(number, 1), 1.0)


def found_boxes(
    found: box.Detections, boxes: Array, *, iou: float = 0.5, score: float = box.SCORE
) -> Array:
    """Which true boxes `[M]` have a detection of their class, that score and that IoU with them."""
    same = jnp.round(boxes[:, :1]).astype(jnp.int32) == found.classes
    hit = same & (box.iou(boxes[:, 1:], found.boxes) >= iou) & (found.scores >= score)
    return (boxes[:, 0] >= 0) & jnp.any(hit, -1)


@dataclasses.dataclass(frozen=True)
class _DetectionsMissed:
    share: float
    iou: float
    score: float
    num: int
    stride: int

    def __call__(self, output: Any, boxes: Array) -> Array:
        found = recall(
            output, boxes, iou=self.iou, score=self.score, num=self.num, stride=self.stride
        )
        leaves = jax.tree.leaves(tuple(box.maps(output)))
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
        return finite & (found < self.share)


def detections_missed(
    share: float = 0.5,
    *,
    iou: float = 0.5,
    score: float = box.SCORE,
    num: int = 100,
    stride: int = box.STRIDE,
) -> CriterionFn:
    """Success: less than that share of the true boxes is found (untargeted); see `recall`.

    Boxes that are found where there is nothing do not count. An image without a box is never a
    success. Two criteria of the same arguments are equal.

    Args:
      share: in (0, 1].
      iou: least IoU of a box that is found.
      score: least score of a detection.
      num: detections at most.
      stride: pixels per cell of the maps.

    Raises:
      ValueError: the share is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"detections_missed: share must lie in (0, 1], got {share}")
    return _DetectionsMissed(float(share), float(iou), float(score), int(num), int(stride))
