"""What counts as a success of an attack, for ONE example: `(output, target) -> [] bool`.

A tie or a non-finite output is never a success. `CRITERIA` is the table of the contract tests.
"""

from advjax.criteria._criteria import (
    all_flipped,
    any_flipped,
    default,
    labels_reached,
    misclassified,
    reached,
    targeted_default,
)

CRITERIA = {
    "all_flipped": all_flipped,
    "any_flipped": any_flipped,
    "labels_reached": labels_reached,
    "misclassified": misclassified,
    "reached": reached,
}

__all__ = [
    "CRITERIA",
    "all_flipped",
    "any_flipped",
    "default",
    "labels_reached",
    "misclassified",
    "reached",
    "targeted_default",
]
