"""Losses of ONE example, `(output, target) -> []`. Attacks ascend them, training descends.

`LOSSES` is the table that the contract tests run over. `trades`, `mart` and `mart_multilabel` see
two outputs, `(clean, adversarial, target) -> []`, and are for training.
"""

from advjax.losses._classification import cross_entropy, cw_margin, kl
from advjax.losses._dense import (
    as_pixels,
    class_pull,
    cosine_cross_entropy,
    mask_pull,
    staged_cross_entropy,
)
from advjax.losses._detection import centernet_loss, detection_pixels
from advjax.losses._divergence import decision_loss, divergence, pixel_kl
from advjax.losses._dlr import dlr, dlr_targeted
from advjax.losses._multilabel import binary_cross_entropy, label_margin
from advjax.losses._robust import binary_kl, mart, mart_multilabel, trades
from advjax.losses._segmentation import dice_loss, pixel_cross_entropy
from advjax.types import IGNORE

bce = binary_cross_entropy

LOSSES = {
    "binary_cross_entropy": binary_cross_entropy,
    "binary_kl": binary_kl,
    "centernet_loss": centernet_loss,
    "class_pull": class_pull,
    "cosine_cross_entropy": cosine_cross_entropy,
    "cross_entropy": cross_entropy,
    "cw_margin": cw_margin,
    "dice_loss": dice_loss,
    "dlr": dlr,
    "dlr_targeted": dlr_targeted,
    "kl": kl,
    "label_margin": label_margin(),
    "mask_pull": mask_pull,
    "pixel_cross_entropy": pixel_cross_entropy,
    "staged_cross_entropy": staged_cross_entropy,
}

__all__ = [
    "IGNORE",
    "LOSSES",
    "as_pixels",
    "bce",
    "binary_cross_entropy",
    "binary_kl",
    "centernet_loss",
    "class_pull",
    "cosine_cross_entropy",
    "cross_entropy",
    "cw_margin",
    "decision_loss",
    "detection_pixels",
    "dice_loss",
    "divergence",
    "dlr",
    "dlr_targeted",
    "kl",
    "label_margin",
    "mart",
    "mart_multilabel",
    "mask_pull",
    "pixel_cross_entropy",
    "pixel_kl",
    "staged_cross_entropy",
    "trades",
]
