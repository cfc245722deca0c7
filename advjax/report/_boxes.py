"""What a report says of boxes: recall, average precision, and outlines drawn on images."""

from collections.abc import Callable

import numpy as np

from advjax import boxes
from advjax.report._masks import COLOURS
from advjax.report._means import nanmean
from advjax.report._results import Array
from advjax.tasks import split_boxes

_SIDE = 128  # pixels at most that an image is enlarged to, so that outlines are thin


def recall(records: Array) -> Array:
    """Return the recall of images `[N]` from their rows `[N, P]`; NaN where these are not known."""
    found, known = np.full(len(records), np.nan), np.isfinite(records).all(1)
    if known.any():
        found[known] = split_boxes(records[known]).recall
    return found


def precision(records: Array) -> Callable[[Array], Array]:
    """Return the statistic, weights `[R, N] -> [R]`: mAP over the images that are known."""
    known = np.isfinite(records).all(1)
    found = split_boxes(records[known]) if known.any() else None

    def statistic(weights: Array) -> Array:
        if found is None:
            return np.full(len(weights), np.nan)
        return nanmean(found.average_precision(weights[:, known]))

    return statistic


def precision_of_classes(records: Array, num_classes: int) -> Array:
    """Return the average precision of each class `[K]`, of rows `[N, P]`; NaN without a box."""
    if not len(records):
        return np.full(num_classes, np.nan)
    return split_boxes(records).average_precision()[0]


def wrong(record: Array) -> bool:
    """Whether less than half of the true boxes of an image are found."""
    return bool(recall(record[None])[0] < 0.5)


def truth(counts: Array, names: tuple[str, ...]) -> str:
    """Write how many boxes of each class there are."""
    held = [f"{n} {name}" for n, name in zip(counts, names, strict=True) if n]
    return ", ".join(held) or "nothing to find"


def said(record: Array) -> str:
    """Write how many of the true boxes are found, and how many that are told find none."""
    found = split_boxes(record[None])
    false = int(((found.scores >= boxes.SCORE) & ~found.hits).sum())
    alarms = f"{false} false alarm{'s' if false != 1 else ''}" if false else "no false alarm"
    return f"{found.found.sum()} of {found.true.sum()} boxes, {alarms}"


def outlined(image: Array, marks: Array) -> Array:
    """Return an image `[H, W, 3]` in [0, 1] with boxes `[M, 5]` in the colours of their classes.

    Small images are enlarged by a whole number.
    """
    scale = max(1, _SIDE // max(image.shape[:2]))
    grey = image if image.shape[2] == 3 else np.repeat(image.mean(2, keepdims=True), 3, 2)
    drawn = grey.repeat(scale, 0).repeat(scale, 1)
    height, width = drawn.shape[:2]
    for kind, *corners in marks:
        if kind < 0 or not np.isfinite(corners).all():
            continue
        ends = np.array([height, width, height, width]) - 1
        top, left, low, right = np.clip(np.rint(np.array(corners) * scale), 0, ends).astype(int)
        colour = COLOURS[int(kind) % len(COLOURS)] / 255
        drawn[[top, low], left : right + 1] = colour
        drawn[top : low + 1, [left, right]] = colour
    return drawn


def legend(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the names of the classes with their colours as a page writes them."""
    colours = ["#{:02x}{:02x}{:02x}".format(*COLOURS[k % len(COLOURS)]) for k in range(len(names))]
    return list(zip(names, colours, strict=True))
