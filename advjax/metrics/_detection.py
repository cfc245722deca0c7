"""Mean average precision of boxes, on the host."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from advjax.metrics._types import Array, PerClass, class_names, per_class

Found = tuple[ArrayLike, ArrayLike, ArrayLike]  # boxes [n, 4], scores [n], classes [n]


def box_iou(boxes: ArrayLike, others: ArrayLike) -> Array:
    """Intersection over union of every pair of boxes `(y0, x0, y1, x1)`.

    Args:
      boxes: `[n, 4]`.
      others: `[m, 4]`.

    Returns:
      `[n, m]` float64; 0 for two boxes without area.
    """
    a = np.asarray(boxes, np.float64).reshape(-1, 1, 4)
    b = np.asarray(others, np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = np.maximum(sides, 0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both
    return np.divide(both, union, out=np.zeros(both.shape), where=union > 0)


def average_precision(scores: ArrayLike, hits: ArrayLike, num_true: int) -> float:
    """Area under the precision-recall curve, at all its points.

    The precision at a recall is the highest one at that recall or a larger one (Everingham et al.
    2010, the PASCAL VOC rule from 2010 on). Detections of one score enter together, so that their
    order does not matter.

    Args:
      scores: `[n]` of the detections of one class, from all images.
      hits: `[n]` flags, whether each found a true box.
      num_true: number of true boxes.

    Returns:
      In [0, 1]; NaN without a true box (0/0), 0 without a detection.
    """
    if num_true == 0:
        return float("nan")
    values, right = np.asarray(scores, np.float64), np.asarray(hits, bool)
    order = np.argsort(-values, kind="stable")
    found = np.cumsum(right[order])
    last = np.append(np.diff(values[order]) != 0, True)[: values.size]
    recall = found[last] / num_true
    precision = found[last] / (np.flatnonzero(last) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def weighted_average_precision(
    scores: ArrayLike, hits: ArrayLike, image: ArrayLike, num_true: ArrayLike, weights: ArrayLike
) -> Array:
    """Average precision of one class, for many weightings of the images at once.

    Args:
      scores: `[n]` of the detections of the class, from all images.
      hits: `[n]` flags, whether each found a true box.
      image: `[n]` the number of the image of each, in [0, N).
      num_true: `[N]` true boxes of the class in each image.
      weights: `[R, N]`, not negative.

    Returns:
      `[R]`, see `average_precision`, every image and its boxes counted as often as it weighs.
    """
    values, right = np.asarray(scores, np.float64), np.asarray(hits, bool)
    weights = np.asarray(weights, np.float64)
    total = weights @ np.asarray(num_true, np.float64)
    # what is ranked below the last hit changes nothing
    kept = np.flatnonzero(values >= (values[right].min() if right.any() else np.inf))
    order = kept[np.argsort(-values[kept], kind="stable")]
    last = np.flatnonzero(np.append(np.diff(values[order]) != 0, True)[: order.size])
    mass = weights[:, np.asarray(image, np.int64)[order]]
    found = np.cumsum(mass * right[order], 1)[:, last]
    said = np.cumsum(mass, 1)[:, last]
    precision = np.divide(found, said, out=np.zeros(found.shape), where=said > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    area = np.sum(np.diff(found, axis=1, prepend=0.0) * envelope, 1)
    return np.divide(area, total, out=np.full(area.shape, np.nan), where=total > 0)


def mean_average_precision(
    found: Sequence[Found],
    true: Sequence[ArrayLike],
    num_classes: int,
    *,
    iou: Sequence[float] = (0.5,),
    names: Sequence[str] | None = None,
) -> PerClass:
    """Average precision per class, and its mean over the classes: mAP.

    In every image the detections of a class are matched from the highest score down, each with the
    true box of its class that it overlaps most among those left, if by the threshold at least;
    otherwise it is a false alarm.

    Args:
      found: per image `(boxes [n, 4], scores [n], classes [n])`, such as `boxes.decode` returns;
        detections of score 0 are left out.
      true: per image `[M, 5]`, each `(class, y0, x0, y1, x1)`; class -1: no box.
      num_classes: K.
      iou: thresholds; the average precision of a class is its mean over them. COCO has .5 to .95,
        EAD-2019 .25 to .75, each in steps of .05.
      names: of the classes.

    Returns:
      Per class. A class without a true box is undefined and named.

    Raises:
      ValueError: no image, numbers of images that differ, no threshold or one out of (0, 1], a
        class that does not exist, shapes that do not fit, or a score that is not finite.
    """
    labels = class_names(names, num_classes)
    if len(found) != len(true) or not len(found):
        raise ValueError(
            f"mean_average_precision: {len(found)} images of detections, {len(true)} of true "
            "boxes; both must be the same, and one at least"
        )
    if not len(iou) or not all(0 < threshold <= 1 for threshold in iou):
        raise ValueError(f"mean_average_precision: iou must lie in (0, 1], got {iou}")
    images = [_image(*pair, num_classes) for pair in zip(found, true, strict=True)]
    values = np.full((len(iou), num_classes), np.nan)
    for k in range(num_classes):
        parts = [_of_class(image, k) for image in images]
        number = sum(len(wanted) for _, _, wanted in parts)
        scores = np.concatenate([score for _, score, _ in parts])
        for i, threshold in enumerate(iou):
            hits = [_match(boxes, score, wanted, threshold) for boxes, score, wanted in parts]
            values[i, k] = average_precision(scores, np.concatenate(hits), number)
    return per_class(values.mean(0), labels)


def _image(found: Found, true: ArrayLike, num_classes: int) -> tuple[Array, ...]:
    """Return boxes, scores and classes found, true boxes and their classes, checked."""
    boxes, scores, classes = (np.asarray(part) for part in found)
    wanted = np.asarray(true, np.float64)
    shapes_fit = boxes.shape == (len(scores), 4) and classes.shape == scores.shape
    if not shapes_fit or wanted.ndim != 2 or wanted.shape[1] != 5:
        raise ValueError(
            "mean_average_precision: an image needs boxes [n, 4], scores [n], classes [n] and true "
            f"boxes [M, 5], got {boxes.shape}, {scores.shape}, {classes.shape} and {wanted.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("mean_average_precision: a score is not finite; leave that image out")
    kept, there = scores > 0, wanted[:, 0] >= 0
    boxes, scores, classes, wanted = boxes[kept], scores[kept], classes[kept], wanted[there]
    for each in (classes, wanted[:, 0]):
        if each.size and (each.min() < 0 or each.max() >= num_classes):
            raise ValueError(
                f"mean_average_precision: classes must lie in 0..{num_classes - 1}, got "
                f"{int(each.min())} to {int(each.max())}"
            )
    return boxes, scores, classes, wanted[:, 1:], wanted[:, 0].astype(int)


def _of_class(image: tuple[Array, ...], k: int) -> tuple[Array, Array, Array]:
    boxes, scores, classes, wanted, wanted_classes = image
    mine = classes == k
    return boxes[mine], scores[mine], wanted[wanted_classes == k]


def _match(boxes: Array, scores: Array, wanted: Array, threshold: float) -> Array:
    """Return which detections of one image and class are hits, `[n]`."""
    overlap = box_iou(boxes, wanted)
    hits = np.zeros(len(scores), bool)
    for i in np.argsort(-scores, kind="stable"):
        best = int(overlap[i].argmax()) if len(wanted) else -1
        if best >= 0 and overlap[i, best] >= threshold:
            hits[i] = True
            overlap[:, best] = -1  # taken
    return hits
