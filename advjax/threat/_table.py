"""Balls by name."""

from advjax.threat._balls import Bounds, l2, linf
from advjax.threat._sparse import l0, l1
from advjax.types import Ball

BALLS = {"linf": linf, "l2": l2, "l1": l1, "l0": l0}
"""Name -> factory; the contract tests and the command line run over this table."""


def by_name(name: str, bounds: Bounds = (0.0, 1.0)) -> Ball:
    """Return the ball of that name.

    Raises:
      ValueError: there is no such ball.
    """
    if name not in BALLS:
        raise ValueError(f"norm {name!r} is unknown; known: {', '.join(sorted(BALLS))}")
    return BALLS[name](bounds)
