"""What counts as a success of an attack, for ONE example: `(output, target) -> [] bool`.

A tie or a non-finite output is never a success. `CRITERIA` is the table of the contract tests.
Criteria with a threshold are made by factories: `dice_below(0.5)`, `flipped(at_least=3)`.
"""

from advjax.criteria._criteria import (
    all_flipped,
    any_flipped,
    default,
    flipped,
    labels_reached,
    misclassified,
    reached,
    targeted_default,
)
from advjax.criteria._detection import detections_missed, found_boxes, recall
from advjax.criteria._segmentation import (
    dice,
    dice_below,
    iou,
    mask_reached,
    pixel_accuracy,
    pixel_accuracy_below,
    pixels_reached,
)
from advjax.criteria._targets import fabricate_finding, hide_finding

CRITERIA = {
    "all_flipped": all_flipped,
    "any_flipped": any_flipped,
    "detections_missed": detections_missed(),
    "dice_below": dice_below(),
    "flipped": flipped(at_least=2),
    "labels_reached": labels_reached,
    "mask_reached": mask_reached(),
    "misclassified": misclassified,
    "pixel_accuracy_below": pixel_accuracy_below(),
    "pixels_reached": pixels_reached(),
    "reached": reached,
}

__all__ = [
    "CRITERIA",
    "all_flipped",
    "any_flipped",
    "default",
    "detections_missed",
    "dice",
    "dice_below",
    "fabricate_finding",
    "flipped",
    "found_boxes",
    "hide_finding",
    "iou",
    "labels_reached",
    "mask_reached",
    "misclassified",
    "pixel_accuracy",
    "pixel_accuracy_below",
    "pixels_reached",
    "reached",
    "recall",
    "targeted_default",
]
