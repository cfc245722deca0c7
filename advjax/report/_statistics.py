"""Every number of a report, with intervals from one set of resamples per data set.

All models and attacks of a data set share the examples, hence the resamples: bands along a curve
and differences between models are paired.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from advjax import metrics
from advjax.metrics import Interval
from advjax.report import _boxes, _decisions, _masks, _means
from advjax.report._results import Array, Cell, Group, ModelRows, Results

OUTPUTS = (
    "dice", "iou", "map", "recall", "auroc", "sensitivity", "specificity", "confidence", "linf",
    "l2",
)  # fmt: skip


class Series(NamedTuple):
    """The two figures of one model under one attack, or under all attacks of a norm together.

    Attributes:
      model: name.
      attack: name; what `combined` says where it is several.
      norm: of the ball.
      combined: whether it stands for all attacks of that norm.
      eps: `[E]`, increasing, the first one 0 (clean).
      robust: `[E]`, robust accuracy.
      alone: `[E]`, accuracy under attack; NaN at a budget that not every attack was run at.
      held: `[E, N]` bool, not broken at this or any smaller budget; of decisions `[E, N, K]`.
    """

    model: str
    attack: str
    norm: str
    combined: bool
    eps: Array
    robust: Interval
    alone: Interval
    held: Array


class Output(NamedTuple):
    """Metrics of what a model says of the attacked images, each budget alone.

    Attributes:
      model: name.
      attack: name, `"none"` for the clean images.
      eps: `[E]`, the chosen budgets that the attack was run at.
      values: by name of `OUTPUTS`, each `[E]`.
      known: `[E]`, share of the examples whose output is stored.
    """

    model: str
    attack: str
    eps: Array
    values: dict[str, Interval]
    known: Array


class Statistics(NamedTuple):
    """All numbers of one data set.

    Attributes:
      group: the rows they come from.
      series: the curves over images; per model the combined one first.
      outputs: metrics at the chosen budgets.
      gaps: of `leading`, robust accuracy of the first model minus the second, all attacks of the
        norm together, by (norm, first, second), over the budgets of `budgets[norm]`.
      budgets: by norm, all budgets of all attacks, the first one 0.
      chosen: by norm, the budgets that tables show, the first one 0.
      undefined: classes without AUROC, sensitivity or specificity, by name of the metric.
      decisions: for several findings, the curves over decisions (image and known finding).
    """

    group: Group
    series: list[Series]
    outputs: list[Output]
    gaps: dict[tuple[str, str, str], Interval]
    budgets: dict[str, Array]
    chosen: dict[str, Array]
    undefined: dict[str, tuple[str, ...]]
    decisions: Sequence[Series] = ()

    @property
    def multi(self) -> bool:
        """Whether decisions on single findings are known, of images that may have several."""
        return bool(self.decisions)

    @property
    def leading(self) -> Sequence[Series]:
        """The curves that a report leads with: over decisions where there are any, else images."""
        return self.decisions or self.series

    def combined(self, model: str, norm: str) -> Series:
        """Return the leading curve of a model under all attacks of a norm together."""
        return next(s for s in self.leading if s.combined and (s.model, s.norm) == (model, norm))


def compute(results: Results) -> list[Statistics]:
    """Compute the numbers of every data set."""
    num, seed = int(results.setting("bootstrap", 1000)), int(results.setting("seed", 0))
    return [_compute(group, results.norms, num, seed) for group in results.groups]


class _Plan:
    """Statistics that one pass over the resamples answers."""

    def __init__(self, num_examples: int, num: int, seed: int) -> None:
        self.num_examples, self.num, self.seed = num_examples, num, seed
        self.parts: list[Callable[[Array], Array]] = []
        self.shapes: list[tuple[int, ...]] = []

    def add(self, statistic: Callable[[Array], Array]) -> int:
        """Register weights `[R, N] -> [R, ...]`; the number is for `run`'s answer."""
        self.parts.append(statistic)
        self.shapes.append(statistic(np.ones((1, self.num_examples))).shape[1:])
        return len(self.parts) - 1

    def run(self) -> list[Interval]:
        """Return the intervals of all statistics."""

        def everything(weights: Array) -> Array:
            return np.concatenate([p(weights).reshape(len(weights), -1) for p in self.parts], 1)

        found = metrics.bootstrap(everything, self.num_examples, num=self.num, seed=self.seed)
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        split = [np.split(part, ends) for part in found]
        return [
            Interval(*(part[index].reshape(shape) for part in split))
            for index, shape in enumerate(self.shapes)
        ]


def _compute(group: Group, norms: dict[str, str], num: int, seed: int) -> Statistics:
    """Compute the numbers of one data set."""
    plan = _Plan(group.ids.size, num, seed)
    budgets = _budgets(group, norms)
    chosen = {norm: choose(eps) for norm, eps in budgets.items()}
    multi = group.multi and not group.partial
    cases = [(model, norm, eps) for model in group.models for norm, eps in budgets.items()]
    curves = [c for m, n, e in cases for c in _curves(m, n, e, norms, _flags)]
    decided = [
        c for m, n, e in cases if multi
        for c in _curves(m, n, e, norms, _decisions.flags(group, m))
    ]  # fmt: skip

    def over_decisions(values: Array) -> Callable[[Array], Array]:
        return _decisions.share(values, group.target)

    numbers = _numbers(plan, curves, _means.mean)
    numbers_decided = _numbers(plan, decided, over_decisions)
    pairs = _pairs(plan, decided or curves, over_decisions if multi else _means.mean)
    outputs = [
        (model.name, attack, cell, index, _outputs(plan, group, cell, index))
        for model in group.models
        for attack, cell in _cells(model)
        if (index := _chosen_of(cell, attack, chosen, norms)).size
    ]
    found = plan.run()
    return Statistics(
        group=group,
        series=_series(curves, numbers, found),
        outputs=[
            Output(
                model,
                attack,
                cell.eps[index],
                {name: found[number] for name, number in asked.items()},
                np.isfinite(cell.probabilities[index]).all(-1).mean(1),
            )
            for model, attack, cell, index, asked in outputs
        ],
        gaps={key: found[number] for key, number in pairs.items()},
        budgets=budgets,
        chosen=chosen,
        undefined=_undefined(group),
        decisions=_series(decided, numbers_decided, found),
    )


class _Curve(NamedTuple):
    """Flags behind a series: `held` for robust accuracy, `stands` for each budget alone."""

    model: str
    attack: str
    norm: str
    combined: bool
    eps: Array
    held: Array
    stands: Array


def _numbers(
    plan: _Plan, curves: list[_Curve], mean: Callable[[Array], Callable[[Array], Array]]
) -> list[tuple[int, int]]:
    """Register the two figures of every curve."""
    return [(plan.add(mean(c.held)), plan.add(mean(c.stands))) for c in curves]


def _pairs(
    plan: _Plan, curves: list[_Curve], mean: Callable[[Array], Callable[[Array], Array]]
) -> dict[tuple[str, str, str], int]:
    """Register the differences of the combined curves of every two models."""
    return {
        (one.norm, one.model, two.model): plan.add(mean(one.held.astype(float) - two.held))
        for one in curves
        for two in curves
        if one.combined and two.combined and one.norm == two.norm and one is not two
    }


def _series(
    curves: list[_Curve], numbers: list[tuple[int, int]], found: list[Interval]
) -> list[Series]:
    """Join curves with their intervals."""
    return [
        Series(c.model, c.attack, c.norm, c.combined, c.eps, found[robust], found[alone], c.held)
        for c, (robust, alone) in zip(curves, numbers, strict=True)
    ]


def _flags(cell: Cell) -> tuple[Array, Array, Array]:
    """Return which images stand before the attack, at each budget alone, and up to each budget."""
    alone = metrics.broken_alone(cell.success, cell.wrong)
    return ~cell.wrong[None], ~alone, ~metrics.broken_up_to(cell.success, cell.wrong)


def _curves(
    model: ModelRows,
    norm: str,
    eps: Array,
    norms: dict[str, str],
    flags: _decisions.Flags,
) -> list[_Curve]:
    """Return the curves of one model and norm: all attacks together, then each."""
    cells = {name: cell for name, cell in model.attacks.items() if norms[name] == norm}
    found = {name: flags(cell) for name, cell in cells.items()}
    if not found:
        return []
    whole = []
    before = np.logical_and.reduce([right for right, _, _ in found.values()])
    held_all = np.repeat(before, eps.size, 0)
    stands_all = held_all.astype(float)
    for name, cell in cells.items():
        right, stands, held = found[name]
        own = np.concatenate([[0.0], cell.eps])
        whole.append(
            _Curve(
                model.name, name, norm, len(cells) == 1, own,
                np.concatenate([right, held]), np.concatenate([right, stands]).astype(float),
            )
        )  # fmt: skip
        # the attack's last budget that is not larger; before its first one nothing is broken
        last = np.searchsorted(own, eps, side="right") - 1
        held_all &= np.concatenate([right, held])[last]
        hit = own[last] == eps
        stands_all[hit] = np.minimum(stands_all[hit], np.concatenate([right, stands])[last[hit]])
        stands_all[~hit] = np.nan
    if len(cells) > 1:
        label = "all attacks" if set(norms.values()) == {norm} else f"all {norm} attacks"
        whole.insert(0, _Curve(model.name, label, norm, True, eps, held_all, stands_all))
    return whole


def _outputs(plan: _Plan, group: Group, cell: Cell, index: Array) -> dict[str, int]:
    """Register the output metrics of one model under one attack."""
    asked: dict[str, list[Callable[[Array], Array]]] = {name: [] for name in OUTPUTS}
    multi = group.multi
    for row in index:
        probabilities = cell.probabilities[row]
        if group.masks and probabilities.shape[1]:
            for name, value in _masks.figures(probabilities).items():
                asked[name].append(_means.mean(np.nan_to_num(value), np.isfinite(value)))
        if group.boxes and probabilities.shape[1]:
            asked["map"].append(_boxes.precision(probabilities))
            value = _boxes.recall(probabilities)
            asked["recall"].append(_means.mean(np.nan_to_num(value), np.isfinite(value)))
        known = np.isfinite(probabilities).all(1)
        filled = np.where(known[:, None], probabilities, 0.0)
        if not group.dense and probabilities.shape[1] >= (1 if multi else 2):
            scores, _, positive, labelled = metrics.questions(filled, group.target)
            part = labelled & known
            said = (
                (filled > 0.5).T
                if multi
                else filled.argmax(1) == _classes(probabilities.shape[1])[:, None]
            )
            asked["auroc"].append(_means.auroc(scores, positive, part))
            asked["sensitivity"].append(_means.macro(said, part & positive))
            asked["specificity"].append(_means.macro(~said, part & ~positive))
        for name in ("confidence", "linf", "l2"):
            values = getattr(cell, name)[row]
            asked[name].append(_means.mean(np.nan_to_num(values), np.isfinite(values)))
    return {name: plan.add(_means.together(parts)) for name, parts in asked.items() if parts}


def _classes(count: int) -> Array:
    """Return the classes that are asked about: class 1 of two, else all."""
    return np.array([1]) if count == 2 else np.arange(count)


def _cells(model: ModelRows) -> list[tuple[str, Cell]]:
    """Return the clean cell, if any, and the attacks."""
    clean = [] if model.clean is None else [("none", model.clean)]
    return [*clean, *model.attacks.items()]


def _chosen_of(cell: Cell, attack: str, chosen: dict[str, Array], norms: dict[str, str]) -> Array:
    """Return which rows of a cell are at chosen budgets."""
    wanted = chosen[norms[attack]] if attack in norms else np.zeros(1)
    return np.flatnonzero(np.isin(cell.eps, wanted))


def _budgets(group: Group, norms: dict[str, str]) -> dict[str, Array]:
    """Return all budgets by norm, 0 first."""
    found: dict[str, list[Array]] = {}
    for model in group.models:
        for name, cell in model.attacks.items():
            found.setdefault(norms[name], [np.zeros(1)]).append(cell.eps)
    return {norm: np.unique(np.concatenate(parts)) for norm, parts in found.items()}


def choose(budgets: Array) -> Array:
    """Choose at most five budgets to show: 0, and an eighth, a quarter, a half, all of the largest.

    Args:
      budgets: `[E]`, increasing, the first one 0.

    Returns:
      The nearest budgets of the grid (all of them, where they are at most five), increasing.
    """
    if budgets.size <= 5:
        return budgets
    wanted = budgets[-1] * np.array([0, 1 / 8, 1 / 4, 1 / 2, 1])
    return budgets[np.unique(np.abs(budgets[:, None] - wanted).argmin(0))]


def _undefined(group: Group) -> dict[str, tuple[str, ...]]:
    """Name the classes for which a metric does not exist on these examples."""
    names = group.class_names
    width = len(names)
    if group.dense or (group.target.ndim == 1 and width < 2):
        return {}
    blank = np.zeros((group.ids.size, width))
    rates = metrics.sensitivity_specificity(
        blank.astype(int) if group.target.ndim == 2 else blank[:, 0].astype(int),
        group.target,
        names=names,
    )
    return {
        "auroc": metrics.auroc(blank, group.target, names=names).undefined,
        "sensitivity": rates.sensitivity.undefined,
        "specificity": rates.specificity.undefined,
    }
