"""Overlap of masks: counts of pixels first, then Dice, IoU and accuracy from the counts.

    counts = metrics.overlap(logits.argmax(-1), masks, num_classes=2)    # [N, K, 3]
    metrics.dice(counts).mean, metrics.mean_iou(counts), metrics.pixel_accuracy(counts)

Two ways to average. By image: the ratio of every image, then the mean over the images that have the
class in mask or prediction. Pooled: the pixels of all images together, then the ratio. Counts
add up, so that those of two batches are concatenated, and resampled images are rows.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from advjax.metrics._types import Array, PerClass, class_names, examples, per_class
from advjax.types import IGNORE


def overlap(
    prediction: ArrayLike, mask: ArrayLike, num_classes: int, *, ignore: int = IGNORE
) -> Array:
    """Count pixels per image and class.

    Args:
      prediction: `[N, H, W]` classes.
      mask: `[N, H, W]` classes, or `ignore`: the pixel is left out.
      num_classes: K, background included.
      ignore: 255.

    Returns:
      `[N, K, 3]` int64: pixels of the class in both, in the prediction, and in the mask.

    Raises:
      ValueError: no image, shapes that differ, or a class that is not in 0..K-1.
    """
    found, wanted = (_whole(array) for array in examples("overlap", prediction, mask))
    if found.shape != wanted.shape or found.ndim != 3:
        raise ValueError(
            f"overlap: prediction and mask must both be [N, H, W], got {found.shape} and "
            f"{wanted.shape}; logits [N, H, W, K] are decided by argmax(-1) first"
        )
    known = wanted != ignore
    outside = [a[known & ((a < 0) | (a >= num_classes))] for a in (found, wanted)]
    for name, bad in zip(("prediction", "mask"), outside, strict=True):
        if bad.size:
            raise ValueError(
                f"overlap: a {name} has class {bad[0]}; classes must lie in 0..{num_classes - 1}, "
                f"or be {ignore} in a mask; check num_classes"
            )
    image = np.broadcast_to(np.arange(len(found))[:, None, None], found.shape)[known]
    shape = (len(found), num_classes)

    def count(classes: Array, rows: Array) -> Array:
        pairs = rows * num_classes + classes
        return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)

    found, wanted = found[known], wanted[known]
    same = found == wanted
    parts = [count(found[same], image[same]), count(found, image), count(wanted, image)]
    return np.stack(parts, -1).astype(np.int64)


def dice(
    counts: ArrayLike,
    *,
    pooled: bool = False,
    background: bool = False,
    names: Sequence[str] | None = None,
) -> PerClass:
    """Dice per class, `2 |A and B| / (|A| + |B|)`, and their mean.

    Args:
      counts: `[N, K, 3]` from `overlap`.
      pooled: one ratio over the pixels of all images, instead of the mean over images.
      background: class 0 counts; otherwise the result has the K - 1 others.
      names: of all K classes.

    Returns:
      Per class. 0/0 (a class in neither mask nor prediction) is left out: of the mean over images
      where an image lacks it, and named in `undefined` where all do.

    Raises:
      ValueError: the counts are no counts, or another number of names than classes.
    """
    return _summary("dice", counts, _dice_ratio, pooled, background, names)


def iou(
    counts: ArrayLike,
    *,
    pooled: bool = False,
    background: bool = False,
    names: Sequence[str] | None = None,
) -> PerClass:
    """Intersection over union per class, and their mean; arguments and errors as for `dice`."""
    return _summary("iou", counts, _iou_ratio, pooled, background, names)


def mean_iou(counts: ArrayLike, *, pooled: bool = True, background: bool = True) -> float:
    """Mean over the classes of IoU: mIoU, by default over all pixels and with the background.

    Args:
      counts: `[N, K, 3]` from `overlap`.
      pooled: as for `dice`.
      background: as for `dice`.

    Returns:
      NaN where no class is there at all.

    Raises:
      ValueError: the counts are no counts.
    """
    return iou(counts, pooled=pooled, background=background).mean


def image_dice(counts: ArrayLike, *, background: bool = False) -> Array:
    """Dice of each image, `[N]`: the mean over the classes in its mask or prediction.

    An image in which no class that counts is there has Dice 1: nothing was to be found, and
    nothing was found. It is the number that `criteria.dice_below` compares.

    Args:
      counts: `[N, K, 3]` from `overlap`.
      background: class 0 counts.

    Raises:
      ValueError: the counts are no counts.
    """
    return _by_image("image_dice", counts, _dice_ratio, background)


def image_iou(counts: ArrayLike, *, background: bool = False) -> Array:
    """IoU of each image, `[N]`, as `image_dice`."""
    return _by_image("image_iou", counts, _iou_ratio, background)


def pixel_accuracy(counts: ArrayLike) -> float:
    """Share of all pixels that count predicted right, background included; NaN without a pixel.

    Args:
      counts: `[N, K, 3]` from `overlap`.

    Raises:
      ValueError: the counts are no counts.
    """
    total = _checked("pixel_accuracy", counts).sum((0, 1))
    return float(_ratio(total[0], total[2]))


def image_pixel_accuracy(counts: ArrayLike) -> Array:
    """Share of its pixels predicted right, for each image `[N]`; NaN where none counts.

    Args:
      counts: `[N, K, 3]` from `overlap`.

    Raises:
      ValueError: the counts are no counts.
    """
    total = _checked("image_pixel_accuracy", counts).sum(1)
    return _ratio(total[:, 0], total[:, 2])


def class_pixel_accuracy(counts: ArrayLike, *, names: Sequence[str] | None = None) -> PerClass:
    """Share of the pixels of each class predicted right, over all images, background included.

    Args:
      counts: `[N, K, 3]` from `overlap`.
      names: of the K classes.

    Returns:
      Per class; a class without a pixel is undefined and named.

    Raises:
      ValueError: the counts are no counts, or another number of names than classes.
    """
    total = _checked("class_pixel_accuracy", counts).sum(0)
    return per_class(_ratio(total[:, 0], total[:, 2]), names)


def _dice_ratio(counts: Array) -> Array:
    return _ratio(2 * counts[..., 0], counts[..., 1] + counts[..., 2])


def _iou_ratio(counts: Array) -> Array:
    return _ratio(counts[..., 0], counts[..., 1] + counts[..., 2] - counts[..., 0])


def _summary(
    name: str,
    counts: ArrayLike,
    ratio: Callable[[Array], Array],
    pooled: bool,
    background: bool,
    names: Sequence[str] | None,
) -> PerClass:
    found = _checked(name, counts)
    labels = class_names(names, found.shape[1])
    first = 0 if background else 1
    part = found[:, first:]
    values = ratio(part.sum(0)) if pooled else _mean(ratio(part), 0)
    return per_class(values, labels[first:])


def _by_image(
    name: str, counts: ArrayLike, ratio: Callable[[Array], Array], background: bool
) -> Array:
    values = _mean(ratio(_checked(name, counts)[:, 0 if background else 1 :]), 1)
    return np.where(np.isnan(values), 1.0, values)


def _mean(values: Array, axis: int) -> Array:
    """Average what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis), defined.sum(axis))


def _ratio(top: Array, bottom: Array) -> Array:
    """Divide, 0/0 being NaN."""
    out = np.full(np.shape(top), np.nan)
    return np.divide(top, bottom, out=out, where=np.asarray(bottom) > 0)


def _checked(name: str, counts: ArrayLike) -> Array:
    (found,) = examples(name, counts)
    if found.dtype.kind == "f" and np.array_equal(found, np.round(found)):
        found = found.astype(np.int64)  # counts that were stored as floats
    if found.ndim != 3 or found.shape[2] != 3 or found.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected counts [N, K, 3] from metrics.overlap, got "
            f"{found.dtype}{list(found.shape)}"
        )
    return found


def _whole(array: Array) -> Array:
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    if array.dtype.kind != "f" or not np.array_equal(array, np.round(array)):
        raise ValueError(f"overlap: expected whole classes, got {array.dtype}; argmax(-1) first")
    return array.astype(np.int64)
