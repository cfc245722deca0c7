"""What a report says of masks: figures, and outlines drawn on images."""

import numpy as np

from advjax import metrics
from advjax.report._results import Array

# of classes 1, 2, ..., told apart on grey and on red images
COLOURS = np.array([[0, 158, 255], [255, 200, 0], [0, 220, 140], [255, 110, 200], [255, 255, 255]])


def figures(pixels: Array) -> dict[str, Array]:
    """Return Dice and IoU of images `[N]` from the pixels `[N, 3 K]` of their classes.

    NaN where these are not known.
    """
    counts = pixels.reshape(len(pixels), -1, 3)
    known = np.isfinite(pixels).all(1)
    found = {name: np.full(len(pixels), np.nan) for name in ("dice", "iou")}
    if known.any():
        whole = counts[known].astype(np.int64)
        found["dice"][known] = metrics.image_dice(whole)
        found["iou"][known] = metrics.image_iou(whole)
    return found


def outlined(image: Array, mask: Array) -> Array:
    """Return an image `[H, W, 3]` in [0, 1] with the outlines of the classes of a mask `[H, W]`.

    The background (0) and pixels that count for nothing (255) have none.
    """
    grey = image if image.shape[2] == 3 else np.repeat(image.mean(2, keepdims=True), 3, 2)
    drawn = grey.copy()
    padded = np.pad(mask, 1, mode="edge")
    shifted = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    edge = np.any([mask != other for other in shifted], axis=0)
    for k in np.unique(mask):
        if k not in (0, 255):
            drawn[edge & (mask == k)] = COLOURS[(int(k) - 1) % len(COLOURS)] / 255
    return drawn
