"""Losses of ONE example, `(output, target) -> []`. Attacks ascend them, training descends.

`LOSSES` is the table that the contract tests run over. `trades`, `mart` and `mart_multilabel` see
two outputs, `(clean, adversarial, target) -> []`, and are for training.
"""

from advjax.losses._classification import cross_entropy, cw_margin, kl
from advjax.losses._dlr import dlr, dlr_targeted
from advjax.losses._multilabel import binary_cross_entropy
from advjax.losses._robust import binary_kl, mart, mart_multilabel, trades

bce = binary_cross_entropy

LOSSES = {
    "binary_cross_entropy": binary_cross_entropy,
    "binary_kl": binary_kl,
    "cross_entropy": cross_entropy,
    "cw_margin": cw_margin,
    "dlr": dlr,
    "dlr_targeted": dlr_targeted,
    "kl": kl,
}

__all__ = [
    "LOSSES",
    "bce",
    "binary_cross_entropy",
    "binary_kl",
    "cross_entropy",
    "cw_margin",
    "dlr",
    "dlr_targeted",
    "kl",
    "mart",
    "mart_multilabel",
    "trades",
]
