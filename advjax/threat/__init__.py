"""Threat models: balls around an image, intersected with the bounds of the pixels.

    ball = threat.linf()                       # |x - x0| <= eps everywhere, x in [0, 1]
    ball = threat.l2(bounds=(-1.0, 1.0))       # Euclidean, other bounds
    ball = threat.l1()                         # sum |x - x0| <= eps
    ball = threat.l0()                         # at most eps values differ
    ball = threat.masked(threat.linf(), mask)  # only where mask is true
    ball = threat.normalised("linf", std)      # eps in units of (x - mean) / std

The functions of a `Ball` see one example; `threat.over_rows(ball)` gives the batched ones.
"""

from advjax.threat._balls import check_radius, l2, linf
from advjax.threat._masked import masked
from advjax.threat._normalised import normalised
from advjax.threat._rows import over_rows
from advjax.threat._sparse import l0, l1
from advjax.threat._table import BALLS, by_name
from advjax.types import Ball

__all__ = [
    "BALLS",
    "Ball",
    "by_name",
    "check_radius",
    "l0",
    "l1",
    "l2",
    "linf",
    "masked",
    "normalised",
    "over_rows",
]
