"""Success against queries: how often a black-box attack must ask the model."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from advjax.metrics import Interval
from advjax.report import _charts, _format
from advjax.report._results import Array, Cell, Group

NUM_POINTS = 16


class Curve(NamedTuple):
    """One attack on one model at one budget.

    Attributes:
      model: its place in the group.
      attack: its name.
      eps: the budget.
      queries: `[P]`, increasing, from 0.
      share: `[P]`, of the images that are right when clean, those broken by so many queries.
    """

    model: int
    attack: str
    eps: float
    queries: Array
    share: Array


def curves(group: Group, attacks: list[str]) -> Iterator[Curve]:
    """Yield a curve for every model under every attack of `attacks` that uses no gradient.

    The budget is the middle one. An image that a smaller budget broke counts with the queries of
    that run, since its adversarial image is inside of the larger ball too.
    """
    for attack in attacks:
        cells = [model.attacks.get(attack) for model in group.models]
        blind = [cell for cell in cells if cell is not None]
        if not blind or any(cell.num_grads for cell in blind):
            continue
        largest = max(int(cell.queries.max()) for cell in blind)
        if largest < 2:
            continue  # images that were made before: nothing is searched
        for place, cell in enumerate(cells):
            if cell is None or cell.wrong.all():
                continue
            right = ~cell.wrong
            budget = len(cell.eps) // 2
            needed = _needed(cell, budget)[right]
            asked = np.unique(np.geomspace(1, max(largest, 2), NUM_POINTS).astype(int))
            asked = np.concatenate([[0], asked])
            share = (needed <= asked[:, None]).mean(1)
            yield Curve(place, attack, float(cell.eps[budget]), asked, share)


def _needed(cell: Cell, budget: int) -> Array:
    """Return `[N]`, the queries after which each image was broken; inf where it was not."""
    tried = np.where(cell.success & cell.evaluated, cell.queries, np.inf)[: budget + 1]
    own = tried[budget]
    # by pruning, the run at this budget was not needed: the largest smaller one that succeeded
    reached = np.isfinite(tried)
    last = budget - np.argmax(reached[::-1], axis=0)
    below = np.take_along_axis(tried, last[None], axis=0)[0]
    found = np.where(np.isfinite(own), own, below)
    return np.where(cell.success[budget], found, np.inf)


def plots(group: Group, attacks: list[str], norm: str) -> list[tuple[str, Markup]]:
    """Return titles and charts, one an attack, a line per model."""
    drawn = []
    by_attack: dict[str, list[Curve]] = {}
    for curve in curves(group, attacks):
        by_attack.setdefault(curve.attack, []).append(curve)
    for attack, found in by_attack.items():
        lines = [
            _charts.Line(
                group.models[c.model].name, c.model % _charts.NUM_STYLES,
                c.queries.astype(np.float64),
                Interval(c.share, np.full(len(c.share), np.nan), np.full(len(c.share), np.nan)),
            )
            for c in found
        ]  # fmt: skip
        title = f"{attack} at {_format.budget(found[0].eps, norm)}"
        heard = f"Share of images broken against queries, {title}"
        drawn.append((title, _charts.chart(lines, norm=_charts.QUERIES, title=heard)))
    return drawn
