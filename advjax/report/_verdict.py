"""The answer in plain words, with the numbers it rests on."""

from typing import NamedTuple

import numpy as np

from advjax.metrics import Interval
from advjax.report._format import budget, number, percent, points, points_range, share
from advjax.report._statistics import Series, Statistics


class Contest(NamedTuple):
    """All models at one budget, by robust accuracy.

    Attributes:
      eps: budget.
      best: the leader, then every model that is not clearly worse, with their shares.
      rest: models clearly worse than the leader (the interval of the paired difference does not
        reach 0), the best of them first.
      gap: the leader minus the first of `rest`; where there is none, minus the last model.
    """

    eps: float
    best: list[tuple[str, Interval]]
    rest: list[tuple[str, Interval]]
    gap: Interval


class Verdict(NamedTuple):
    """What a reader should know first.

    Attributes:
      headline: one sentence.
      points: further sentences, one per thing.
      norm: of the ball that it is about.
    """

    headline: str
    points: list[str]
    norm: str


def verdicts(statistics: Statistics) -> list[Verdict]:
    """Give one verdict per norm; none where nothing was attacked."""
    several = len(statistics.group.models) > 1
    found = [
        _compare(statistics, norm) if several else _single(statistics, norm)
        for norm in statistics.chosen
    ]
    if not statistics.multi:
        return found
    first = "A decision is one finding on one image; all known ones count."
    return [v._replace(points=[first, *v.points, *_findings(statistics, v.norm)]) for v in found]


def middle(statistics: Statistics, norm: str) -> float:
    """Return the budget that stands for all: the last but one of those that tables show."""
    return float(statistics.chosen[norm][1:][-2:][0])


def worst_auroc(statistics: Statistics, norm: str, model: str) -> tuple[Interval, str] | None:
    """Return the lowest AUROC of a model at the middle budget and its attack, where it exists."""
    eps = middle(statistics, norm)
    attacks = {s.attack for s in statistics.series if (s.model, s.norm) == (model, norm)}
    found = [
        (_pick(output.values["auroc"], int(column)), output.attack)
        for output in statistics.outputs
        if output.model == model and output.attack in attacks and "auroc" in output.values
        for column in np.flatnonzero(output.eps == eps)
    ]
    found = [entry for entry in found if not np.isnan(entry[0].value)]
    return min(found, key=lambda entry: float(entry[0].value), default=None)


def _findings(statistics: Statistics, norm: str) -> list[str]:
    """Say what is left of the AUROC, and what the strict rule gives."""
    said = []
    where = _name(middle(statistics, norm), norm)
    for series in statistics.series:
        if not series.combined or series.norm != norm:
            continue
        low = worst_auroc(statistics, norm, series.model)
        if low is not None:
            said.append(
                f"{series.model}: mean AUROC over the findings {number(float(low[0].value))} "
                f"at {where} under {low[1]}, the attack that lowers it most."
            )
        clean, attacked = at(series, 0.0), at(series, middle(statistics, norm))
        said.append(
            f"{series.model}: every finding of an image right at once on {share(clean)} of the "
            f"clean images, and on {share(attacked)} at {where}."
        )
    return said


def contests(statistics: Statistics, norm: str) -> list[Contest]:
    """Compare all models at every chosen budget."""
    curves = [s for s in statistics.leading if s.combined and s.norm == norm]
    found = []
    for eps in statistics.chosen[norm]:
        column = int(np.searchsorted(statistics.budgets[norm], eps))
        ranked = sorted(curves, key=lambda s: -at(s, eps).value)
        gaps = {
            series.model: _pick(statistics.gaps[norm, ranked[0].model, series.model], column)
            for series in ranked[1:]
        }
        shares = [(series.model, at(series, eps)) for series in ranked]
        best = [shares[0], *(pair for pair in shares[1:] if not gaps[pair[0]].low > 0)]
        rest = [pair for pair in shares[1:] if gaps[pair[0]].low > 0]
        against = rest[0][0] if rest else shares[-1][0]
        found.append(Contest(float(eps), best, rest, gaps[against]))
    return found


def at(series: Series, eps: float) -> Interval:
    """Return robust accuracy at the largest budget of the series that is not above `eps`."""
    return _pick(series.robust, int(np.searchsorted(series.eps, eps, side="right")) - 1)


def half_life(series: Series) -> float:
    """Return the largest budget at which at least half of the clean accuracy is left, else 0."""
    if not series.robust.value[0] > 0:
        return 0.0  # half of nothing is left everywhere
    kept = series.robust.value >= series.robust.value[0] / 2
    return float(series.eps[np.flatnonzero(kept)[-1]])


def _pick(interval: Interval, index: int) -> Interval:
    """Return one entry of an interval."""
    return Interval(*(part[index] for part in interval))


def _compare(statistics: Statistics, norm: str) -> Verdict:
    """Say which of several models withstands more."""
    found = contests(statistics, norm)
    attacked = [contest for contest in found if contest.eps > 0]
    widest = max(attacked, key=lambda contest: (bool(contest.rest), float(contest.gap.value)))
    where = f"at {_name(widest.eps, norm)}"
    gap = f"{points(float(widest.gap.value))} ({_spread(widest.gap)})"
    if not widest.rest:
        headline = (
            f"No model is clearly more robust: the largest difference, {where}, is {gap}, "
            "which chance explains."
        )
        return Verdict(headline, [_sentence(found[0], norm), *_halves(statistics, norm)], norm)
    leaders = [name for name, _ in widest.best]
    contrary = [c for c in attacked if any(name in leaders for name, _ in c.rest)]
    one = len(leaders) == 1
    shares = " and ".join(share(value) for _, value in widest.best)
    things = "decisions" if statistics.multi else "images"
    numbers = (
        f"{where} {'it still gets' if one else 'they still get'} {shares} of all {things} right, "
        f"{widest.rest[0][0]} {share(widest.rest[0][1])}."
    )
    who = _listed(leaders)
    if contrary:
        verb = "leads" if one else "lead"
        headline = f"It depends on the budget. {who} {verb} most clearly: {numbers}"
    else:
        verb = "keeps more of its" if one else "keep more of their"
        headline = f"{who} {verb} accuracy under attack: {numbers}"
    said = [f"{leaders[0]} minus {widest.rest[0][0]}, {where}: {gap}, measured on the same images."]
    if not one:
        said.append(f"Between {who} there is no clear difference there.")
    said += [_sentence(c, norm) for c in found if c.eps == 0 or c in contrary]
    return Verdict(headline, [*said, *_halves(statistics, norm)], norm)


def _single(statistics: Statistics, norm: str) -> Verdict:
    """Say what one model withstands."""
    series = next(s for s in statistics.leading if s.combined and s.norm == norm)
    eps_shown = middle(statistics, norm)
    clean = "decisions right on clean images" if statistics.multi else "clean images right"
    headline = (
        f"{series.model} gets {share(at(series, 0.0))} of the {clean}, and "
        f"{share(at(series, eps_shown))} at {_name(eps_shown, norm)}."
    )
    others = [
        f"At {_name(eps, norm)}: {share(at(series, eps))}."
        for eps in statistics.chosen[norm]
        if eps not in (0.0, eps_shown)
    ]
    return Verdict(headline, [*others, *_halves(statistics, norm)], norm)


def _sentence(contest: Contest, norm: str) -> str:
    """Say how the models stand at one budget."""
    where = "On clean images" if contest.eps == 0 else f"At {_name(contest.eps, norm)}"
    best = _listed([f"{name} {share(value)}" for name, value in contest.best])
    if not contest.rest:
        return f"{where} there is no clear difference: {best}."
    rest = _listed([f"{name} {share(value)}" for name, value in contest.rest])
    verb = "leads" if len(contest.best) == 1 else "lead"
    return (
        f"{where}, {best} {verb}; {rest}. The difference to the next is "
        f"{points(float(contest.gap.value))} ({_spread(contest.gap)})."
    )


def _listed(words: list[str]) -> str:
    """Join words as in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _halves(statistics: Statistics, norm: str) -> list[str]:
    """Say up to which budget each model keeps half of its clean accuracy."""
    curves = [s for s in statistics.leading if s.combined and s.norm == norm]
    said = []
    for series in curves:
        eps = half_life(series)
        clean = percent(float(series.robust.value[0]))
        if series.robust.value[0] == 0:
            said.append(
                f"{series.model} gets no {'decision' if statistics.multi else 'clean image'} right."
            )
        elif eps == 0:
            smallest = _name(series.eps[1], norm)
            said.append(
                f"{series.model} has lost half of its clean accuracy ({clean}) already at the "
                f"smallest budget, {smallest}."
            )
        else:
            beyond = ", the largest budget tried" if eps == series.eps[-1] else ""
            said.append(
                f"{series.model} keeps at least half of its clean accuracy ({clean}) up to "
                f"{_name(eps, norm)}{beyond}."
            )
    return said


def _name(eps: float, norm: str) -> str:
    """Name a budget in a sentence."""
    return budget(eps, norm) if norm == "linf" else f"{norm} budget {budget(eps, norm)}"


def _spread(gap: Interval) -> str:
    """Write the interval of a difference."""
    return points_range(float(gap.low), float(gap.high))
