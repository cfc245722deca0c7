"""`curves.png`: both figures of robustness, in blocks of their own, for papers and slides."""

import io
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advjax.report._charts import axis_label, ticks
from advjax.report._statistics import Series, Statistics

# Okabe and Ito, Color Universal Design, 2008
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#7A7A7A",
)  # fmt: skip
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D")

TITLES = {
    "robust": "Robust accuracy: not broken at this or any smaller budget",
    "alone": "Accuracy under attack: each budget alone",
}


def draw(statistics: list[Statistics]) -> bytes:
    """Draw all curves, one small plot per attack and figure, and return a PNG.

    Args:
      statistics: of every data set; the first norm's and every further one's attacks get plots.
    """
    blocks = [
        (found, norm, which) for found in statistics for norm in found.chosen for which in TITLES
    ]
    plots = [_attacks(found, norm) for found, norm, _ in blocks]
    columns = min(3, max((len(names) for names in plots), default=1))
    heights = [math.ceil(len(names) / columns) * 2.9 + 1.0 for names in plots]
    figure = Figure(figsize=(4.1 * columns + 0.4, sum(heights)), dpi=130, layout="constrained")
    parts = figure.subfigures(
        len(blocks), 1, squeeze=False, height_ratios=heights, hspace=0.04
    ).ravel()
    for (found, norm, which), names, part in zip(blocks, plots, parts, strict=True):
        data = f" ({_plain(found.group.data)})" if len(statistics) > 1 else ""
        title = f"Decisions (one per image and finding). {TITLES[which]}"
        title = title if found.multi else TITLES[which]
        part.suptitle(f"{title}{data}", fontweight="bold", fontsize=12)
        grid = part.subplots(math.ceil(len(names) / columns), columns, squeeze=False)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for axes, attack in zip(grid.flat, names, strict=False):
            _plot(axes, found, norm, attack, which)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        part.legend(
            handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "advjax"})
    return buffer.getvalue()


def _attacks(statistics: Statistics, norm: str) -> list[str]:
    """Return names of attacks, all together first."""
    return list(dict.fromkeys(s.attack for s in statistics.leading if s.norm == norm))


def _plot(axes: Axes, statistics: Statistics, norm: str, attack: str, which: str) -> None:
    """Draw one attack: a line with a band per model."""
    for series in statistics.leading:
        if series.attack == attack and series.norm == norm:
            _line(axes, series, which, _order(statistics, series.model))
    places = ticks(float(statistics.budgets[norm][-1]), norm)
    axes.set_xticks([place for place, _ in places], [text for _, text in places])
    axes.set_xlabel(axis_label(norm), fontsize=8)
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_plain(attack), fontsize=10)


def _line(axes: Axes, series: Series, which: str, order: int) -> None:
    """Draw the curve of one model."""
    shares = series.robust if which == "robust" else series.alone
    colour = COLOURS[order % len(COLOURS)]
    axes.fill_between(series.eps, shares.low, shares.high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        series.eps,
        shares.value,
        color=colour,
        linestyle=DASHES[order % len(DASHES)],
        marker=MARKERS[order % len(MARKERS)],
        markersize=3.2,
        linewidth=1.6,
        label=_plain(series.model),
    )


def _order(statistics: Statistics, model: str) -> int:
    """Return the place of a model."""
    return [m.name for m in statistics.group.models].index(model)


def _plain(text: str) -> str:
    """Keep a name from being read as mathematics, and from being hidden by a leading `_`."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
