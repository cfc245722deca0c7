"""Losses of ONE example, `(output, target) -> []`. Attacks ascend them, training descends.

`LOSSES` is the table that the contract tests run over. `trades`, `mart` and `mart_multilabel` see
two outputs, `(clean, adversarial, target) -> []`, and are for training.
"""

from advjax.losses._classification import cross_entropy, cw_margin, kl
from advjax.losses._dlr import dlr, dlr_targeted
from advjax.losses._multilabel import binary_cross_entropy, label_margin
from advjax.losses._robust import binary_kl, mart, mart_multilabel, trades
from advjax.losses._segmentation import dice_loss, pixel_cross_entropy
from advjax.types import IGNORE

bce = binary_cross_entropy

LOSSES = {
    "binary_cross_entropy": binary_cross_entropy,
    "binary_kl": binary_kl,
    "cross_entropy": cross_entropy,
    "cw_margin": cw_margin,
    "dice_loss": dice_loss,
    "dlr": dlr,
    "dlr_targeted": dlr_targeted,
    "kl": kl,
    "label_margin": label_margin(),
    "pixel_cross_entropy": pixel_cross_entropy,
}

__all__ = [
    "IGNORE",
    "LOSSES",
    "bce",
    "binary_cross_entropy",
    "binary_kl",
    "cross_entropy",
    "cw_margin",
    "dice_loss",
    "dlr",
    "dlr_targeted",
    "kl",
    "label_margin",
    "mart",
    "mart_multilabel",
    "pixel_cross_entropy",
    "trades",
]
