"""How numbers are written, the same in the page, in the picture and in the terminal."""

import numpy as np

from advjax.metrics import Interval

MISSING = "\u2013"
FIXED = "\u00a0"  # a space at which no line breaks


def budget(eps: float, norm: str = "linf") -> str:
    """Write a budget: linf in grey levels, `4/255`; any other norm as a plain number."""
    if eps == 0:
        return "clean"
    if norm != "linf":
        return f"{eps:.3g}"
    levels = eps * 255
    return f"{round(levels, 2):.4g}/255"


def percent(value: float) -> str:
    """Write a share with one decimal, `61.3 %`, its space unbreakable."""
    return MISSING if np.isnan(value) else f"{100 * value:.1f}{FIXED}%"


def percent_range(low: float, high: float) -> str:
    """Write the interval of a share, `52.9 to 69.1`."""
    return "" if np.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"


def signed(value: float) -> str:
    """Write a difference of shares in percentage points, signed."""
    return MISSING if np.isnan(value) else f"{100 * value:+.1f}".replace("-", "\u2212")


def points(value: float) -> str:
    """Write a difference of shares with its unit."""
    return MISSING if np.isnan(value) else f"{signed(value)}{FIXED}points"


def points_range(low: float, high: float) -> str:
    """Write the interval of a difference of shares."""
    return "" if np.isnan(low) else f"{signed(low)} to {signed(high)}"


def number(value: float, digits: int = 3) -> str:
    """Write a plain number."""
    return MISSING if np.isnan(value) else f"{value:.{digits}f}"


def number_range(low: float, high: float, digits: int = 3) -> str:
    """Write the interval of a plain number."""
    return "" if np.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def levels(value: float) -> str:
    """Write a linf norm in grey levels of 255."""
    return MISSING if np.isnan(value) else f"{255 * value:.2f}"


def levels_range(low: float, high: float) -> str:
    """Write the interval of a linf norm in grey levels."""
    return "" if np.isnan(low) else f"{255 * low:.2f} to {255 * high:.2f}"


def share(interval: Interval) -> str:
    """Write a share with its interval in a sentence: `61.3 % (52.9 to 69.1)`."""
    value, low, high = (float(part) for part in interval)
    return f"{percent(value)} ({percent_range(low, high)})" if not np.isnan(low) else percent(value)


def whole(value: float | None) -> str:
    """Write a count with thin spaces between thousands."""
    return MISSING if value is None else f"{round(value):,}".replace(",", "\u202f")
