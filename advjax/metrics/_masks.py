"""Overlap of masks, one figure an image."""

import numpy as np

from advjax.metrics._types import Array


def image_dice(counts: Array) -> Array:
    """Dice of images: mean over the classes 1 to K-1 that the mask or the prediction holds.

    Args:
      counts: `[N, K, 3]`, pixels of each class in both, in the prediction, and in the mask.

    Returns:
      `[N]` float64; 1 where neither holds anything but background, NaN where a count is NaN.
    """
    both, said, true = _foreground(counts)
    return _mean(2 * both, said + true)


def image_iou(counts: Array) -> Array:
    """Intersection over union of images, averaged as `image_dice` does; `counts` as there."""
    both, said, true = _foreground(counts)
    return _mean(both, said + true - both)


def _foreground(counts: Array) -> tuple[Array, Array, Array]:
    found = np.asarray(counts, np.float64)
    if found.ndim != 3 or found.shape[-1] != 3:
        raise ValueError(f"counts: expected [N, K, 3], got {found.shape}")
    return found[:, 1:, 0], found[:, 1:, 1], found[:, 1:, 2]


def _mean(part: Array, whole: Array) -> Array:
    held = whole > 0
    ratio = np.divide(part, whole, out=np.zeros_like(whole), where=held)
    ratio = np.where(np.isnan(whole), np.nan, ratio)
    present = held.sum(1)
    empty = (present == 0) & ~np.isnan(whole).any(1)
    return np.where(empty, 1.0, ratio.sum(1) / np.maximum(present, 1))
