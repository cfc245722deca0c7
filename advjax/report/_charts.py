"""Line charts as inline SVG: small, in the page's own font and colours, readable without script."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from advjax.metrics import Interval
from advjax.report._format import budget, percent, percent_range
from advjax.report._results import Array

_WIDTH, _HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 40
MARKS = ("circle", "square", "triangle", "diamond")
NUM_STYLES = 8
QUERIES = "queries"  # in place of a norm: the axis counts what a black box was asked


class Line(NamedTuple):
    """One curve.

    Attributes:
      label: shown in the legend.
      style: 0 to 7, which colour, dash and mark.
      eps: `[E]`.
      share: `[E]` with bands; NaN is a gap.
    """

    label: str
    style: int
    eps: Array
    share: Interval


def chart(lines: Sequence[Line], *, norm: str, title: str) -> Markup:
    """Draw shares over budgets.

    Args:
      lines: the curves.
      norm: of the ball, for the axis.
      title: read aloud by a screen reader, together with the first and last values.

    Returns:
      An `<svg>` that takes its colours from the classes `s0` to `s7` of the page.
    """
    largest = max((float(line.eps[-1]) for line in lines), default=0.0) or 1.0
    heard = "; ".join(_spoken(line, norm) for line in lines)
    body = [_axes(largest, norm)]
    body += [_band(line, largest) for line in lines]
    body += [_curve(line, largest, norm) for line in lines]
    return (
        Markup(
            f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(f"{title}. {heard}")}">'
        )
        + Markup("").join(body)
        + Markup("</svg>")
    )


def sample(style: int) -> Markup:
    """Draw a piece of a line with its mark, for a legend."""
    return Markup(
        f'<svg class="sample s{style}" viewBox="0 0 34 12" aria-hidden="true">'
        f'<path class="line" d="M0 6H34"/>{_mark(style, 17, 6, "")}</svg>'
    )


def ticks(largest: float, norm: str) -> list[tuple[float, str]]:
    """Choose at most nine round places of a budget axis that starts at 0, with their texts."""
    top = largest * 255 if norm == "linf" else largest
    magnitude = 10.0 ** np.floor(np.log10(top)) if top > 0 else 1.0
    steps = [s * magnitude / 10 for s in (1, 2, 5, 10, 20, 50)]
    step = next((s for s in steps if top / s <= 8.001), steps[-1])
    places = np.arange(0, top * 1.0001, step)
    return [(float(p / 255 if norm == "linf" else p), f"{p:.4g}") for p in places]


def axis_label(norm: str) -> str:
    """Name the budget axis."""
    if norm == QUERIES:
        return "queries of the model, for one image"
    return "budget ε in 1/255 of the pixel range" if norm == "linf" else f"budget ε ({norm} norm)"


def _x(eps: float, largest: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * eps / largest


def _y(share: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)


def _axes(largest: float, norm: str) -> Markup:
    """Draw the grid, the texts of both axes and their names."""
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = _y(share)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>'
        )
    bottom = _HEIGHT - _BOTTOM
    for eps, text in ticks(largest, norm):
        x = _x(eps, largest)
        parts.append(
            f'<path class="grid" d="M{x:.1f} {bottom}v4"/>'
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    name = escape(axis_label(norm))
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{name}</text>')
    return Markup("".join(parts))


def _band(line: Line, largest: float) -> Markup:
    """Fill the 95 % band, where there is one."""
    keep = np.isfinite(line.share.low)
    if keep.sum() < 2:
        return Markup("")
    places = [
        *zip(line.eps[keep], line.share.high[keep], strict=True),
        *reversed(list(zip(line.eps[keep], line.share.low[keep], strict=True))),
    ]
    corners = " ".join(f"{_x(e, largest):.1f},{_y(s):.1f}" for e, s in places)
    return Markup(f'<polygon class="band s{line.style}" points="{corners}"/>')


def _curve(line: Line, largest: float, norm: str) -> Markup:
    """Draw a line with marks; each mark tells its numbers when pointed at."""
    keep = np.isfinite(line.share.value)
    places = [
        (_x(e, largest), _y(s)) for e, s in zip(line.eps[keep], line.share.value[keep], strict=True)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = []
    for (x, y), eps, *numbers in zip(
        places, line.eps[keep], *(part[keep] for part in line.share), strict=True
    ):
        value, low, high = (float(part) for part in numbers)
        told = f"{line.label}, {_place(eps, norm)}: {percent(value)}"
        told += f" ({percent_range(low, high)})" if np.isfinite(low) else ""
        marks.append(_mark(line.style, x, y, told))
    return Markup(
        f'<g class="s{line.style}"><polyline class="line" points="{path}"/>{"".join(marks)}</g>'
    )


def _mark(style: int, x: float, y: float, told: str) -> str:
    """Draw the mark of a style at a place."""
    shape = MARKS[style % len(MARKS)]
    title = f"<title>{escape(told)}</title>" if told else ""
    if shape == "circle":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>'
    path = {
        "square": f"M{x - 2.7:.1f} {y - 2.7:.1f}h5.4v5.4h-5.4z",
        "triangle": f"M{x:.1f} {y - 3.6:.1f}l3.4 6h-6.8z",
        "diamond": f"M{x:.1f} {y - 3.8:.1f}l3.8 3.8l-3.8 3.8l-3.8 -3.8z",
    }[shape]
    return f'<path class="mark" d="{path}">{title}</path>'


def _spoken(line: Line, norm: str) -> str:
    """Say the first and the last value of a curve."""
    keep = np.flatnonzero(np.isfinite(line.share.value))
    if keep.size == 0:
        return f"{line.label}: no value"
    first, last = keep[0], keep[-1]
    return (
        f"{line.label}: {percent(float(line.share.value[first]))} at "
        f"{_place(line.eps[first], norm)}, {percent(float(line.share.value[last]))} at "
        f"{_place(line.eps[last], norm)}"
    )


def _place(eps: float, norm: str) -> str:
    """Say where on the axis a mark stands."""
    return f"{eps:.0f} queries" if norm == QUERIES else budget(eps, norm)
