"""Tables of a report as plain data: the page and the terminal print the same numbers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from advjax import metrics
from advjax.metrics import Interval
from advjax.report import _format
from advjax.report._results import CLEAN, ModelRows, Results
from advjax.report._statistics import Output, Series, Statistics

MOST_CLASSES = 30


class Entry(NamedTuple):
    """One cell.

    Attributes:
      text: the value as printed.
      range: its interval as printed, empty where there is none.
      value: the number itself, NaN where missing.
      low: lower end.
      high: upper end.
      eps: budget, for programs that read the page.
    """

    text: str
    range: str = ""
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    eps: float = float("nan")


class Row(NamedTuple):
    """One line of a table."""

    model: str
    attack: str
    entries: list[Entry]
    strong: bool = False


class Table(NamedTuple):
    """One table.

    Attributes:
      key: short name of the metric.
      title: caption.
      note: what a reader must know of it.
      columns: titles of the columns after model and attack.
      rows: lines, grouped by model.
      shaded: whether the values are shares to be shaded by size.
      first: title of the second column.
    """

    key: str
    title: str
    note: str
    columns: list[str]
    rows: list[Row]
    shaded: bool = False
    first: str = "Attack"


def share_entry(interval: Interval, index: int, eps: float) -> Entry:
    """Make the cell of a share."""
    value, low, high = (float(part[index]) for part in interval)
    return Entry(
        _format.percent(value), _format.percent_range(low, high), value, low, high, float(eps)
    )


_ACCURACY = {
    "robust": (
        "Robust accuracy",
        "Share of all images that the attack broke at neither this budget nor a smaller one.",
    ),
    "alone": (
        "Accuracy under attack",
        "Share of all images that the attack at this budget, taken alone, left right.",
    ),
    "decisions-robust": (
        "Robust accuracy of decisions",
        "Share of all decisions (image and known finding) that stayed right up to this budget.",
    ),
    "decisions-alone": (
        "Accuracy of decisions under attack",
        "Share of all decisions (image and known finding) that this budget alone left right.",
    ),
}


def accuracy_table(
    statistics: Statistics, norm: str, which: str, budgets: np.ndarray | None = None
) -> Table:
    """Robust accuracy or accuracy under attack, of images or decisions; `which` as `_ACCURACY`."""
    shown = statistics.chosen[norm] if budgets is None else budgets
    rows = []
    decisions = which.startswith("decisions-")
    for series in statistics.decisions if decisions else statistics.series:
        if series.norm == norm:
            interval = series.robust if which.endswith("robust") else series.alone
            entries = [_at(series, interval, float(eps)) for eps in shown]
            rows.append(Row(series.model, series.attack, entries, series.combined))
    title, note = _ACCURACY[which]
    if statistics.group.multi and not decisions:
        own = set(statistics.group.own)
        title = f"{title}, every finding right at once" + (
            " (attacks with a goal or criterion: by that)" if own else ""
        )
        note += " An image is right only when every known finding is" + (
            f", but for {', '.join(sorted(own))}." if own else "."
        )
    return Table(which, title, note, [_format.budget(e, norm) for e in shown], rows, True)


def glance_table(statistics: Statistics, norm: str) -> Table | None:
    """Robust accuracy of all models side by side, and the lead of the best; None for one model."""
    names = [s.model for s in statistics.leading if s.combined and s.norm == norm]
    if len(names) < 2:
        return None
    pair = len(names) == 2
    rows = []
    for column, eps in enumerate(statistics.budgets[norm]):
        if eps not in statistics.chosen[norm]:
            continue
        curves = [statistics.combined(name, norm) for name in names]
        entries = [_at(series, series.robust, float(eps)) for series in curves]
        ranked = sorted(zip(entries, names, strict=True), key=lambda pair: -pair[0].value)
        one, two = (names[1], names[0]) if pair else (ranked[0][1], ranked[1][1])
        gap = Interval(*(part[column] for part in statistics.gaps[norm, one, two]))
        value, low, high = (float(part) for part in gap)
        text = _format.signed(value) if pair else f"{one} {_format.signed(value)}"
        lead = Entry(text, _format.points_range(low, high), value, low, high, float(eps))
        rows.append(Row("", _format.budget(eps, norm), [*entries, lead]))
    about = f"{names[1]} minus {names[0]}" if pair else "the best model minus the next"
    note = (
        f"Under each number its 95 % interval. Difference: {about}, in percentage points, "
        "paired over the images."
    )
    columns = [*names, "difference" if pair else "lead"]
    what = "Robust accuracy of decisions" if statistics.multi else "Robust accuracy"
    return Table("glance", f"{what} side by side", note, columns, rows, False, "Budget")


_OUTPUT_TITLES = {
    "dice": (
        "Dice",
        "Mean over images of the mean over classes, background and absent ones left out.",
    ),
    "iou": ("Intersection over union", "Averaged as Dice is."),
    "map": (
        "Mean average precision",
        "At an IoU of one half, over the boxes of all images; mean over the classes.",
    ),
    "recall": (
        "Recall",
        "Share of the true boxes of an image that are found, by a score of 0.3; mean over images.",
    ),
    "auroc": ("AUROC", "Area under the ROC curve of the outputs for the attacked images."),
    "sensitivity": ("Sensitivity", "Share of the positives that are found."),
    "specificity": ("Specificity", "Share of the negatives that are cleared."),
    "confidence": ("Mean confidence", "How sure the model is of what it says, right or wrong."),
    "linf": (
        "Mean largest change of a pixel",
        "The l∞ norm of the perturbation, in grey levels of 255.",
    ),
    "l2": ("Mean l2 norm of the perturbation", "Euclidean, with pixels in [0, 1]."),
}

_WRITERS: dict[str, tuple[Callable[[float], str], Callable[[float, float], str]]] = {
    "dice": (_format.number, _format.number_range),
    "iou": (_format.number, _format.number_range),
    "map": (_format.number, _format.number_range),
    "recall": (_format.percent, _format.percent_range),
    "auroc": (_format.number, _format.number_range),
    "sensitivity": (_format.percent, _format.percent_range),
    "specificity": (_format.percent, _format.percent_range),
    "confidence": (_format.percent, _format.percent_range),
    "linf": (_format.levels, _format.levels_range),
    "l2": (_format.number, _format.number_range),
}


def output_table(statistics: Statistics, results: Results, norm: str, which: str) -> Table | None:
    """One output metric at the chosen budgets, or None where it exists nowhere."""
    clean = {o.model: o for o in statistics.outputs if o.attack == CLEAN}
    shown = statistics.chosen[norm]
    shown = shown[shown > 0] if which in ("linf", "l2") else shown
    rows = []
    for found in statistics.outputs:
        if found.attack == CLEAN or results.norms[found.attack] != norm:
            continue
        entries = [
            _output_entry(clean.get(found.model) if eps == 0 else found, which, float(eps))
            for eps in shown
        ]
        rows.append(Row(found.model, found.attack, entries))
    if not any(np.isfinite(entry.value) for row in rows for entry in row.entries):
        return None
    title, note = _OUTPUT_TITLES[which]
    return Table(
        which,
        title,
        " ".join([note, *_output_notes(statistics, which)]),
        [_format.budget(eps, norm) for eps in shown],
        rows,
    )


def class_table(statistics: Statistics, norm: str) -> Table:
    """Robust accuracy per class or finding, all attacks of the norm together.

    Of masks and boxes, whether the whole image stood, per class that it holds.
    """
    group, shown, multi = statistics.group, statistics.chosen[norm], statistics.multi
    names = list(group.class_names)
    # which images take part, and how they are told apart
    if group.dense or group.multi:
        part = group.target.T >= 0 if multi else group.target.T > 0
    else:
        part = group.target == np.arange(len(names))[:, None]
    counts = [
        f"{(group.target[:, k] > 0).sum()} of {inside.sum()}" if multi else f"{inside.sum()}"
        for k, inside in enumerate(part)
    ]
    rows = []
    for model in group.models:
        if not model.attacks:
            continue
        series = statistics.combined(model.name, norm)
        index = np.searchsorted(series.eps, shown, side="right") - 1
        held = series.held[index]
        found = [
            Row(
                model.name, f"{name} ({counts[k]})",
                _class_entries(held[..., k] if multi else held, part[k], shown),
            )
            for k, name in enumerate(names)
        ]  # fmt: skip
        rows += sorted(found, key=_weakest)[:MOST_CLASSES] if len(found) > MOST_CLASSES else found
    note = (
        "Share of the images whose decision on this finding stayed right under all attacks up to "
        "the budget, whatever became of their other findings. In brackets: how many images carry "
        "the finding, of how many where it is known."
        if multi
        else "Share of the images of the class (their number in brackets) that no attack broke up "
        "to the budget."
    )
    if group.dense:
        what = "whose mask holds the class" if group.masks else "with a box of the class"
        note = note.replace("of the class", what)
    elif group.multi and not multi:
        note = note.replace("of the class", "with the finding") + (
            " Of the whole image: any finding that flips breaks it, but for an attack that has "
            "its own word for broken."
        )
    word = "findings" if group.multi else "classes"
    if len(names) > MOST_CLASSES:
        note += f" The {MOST_CLASSES} weakest of {len(names)} {word} of each model are shown."
    absent = [name for name, inside in zip(names, part, strict=True) if not inside.any()]
    if absent:
        note += f" Without any image here: {', '.join(absent)}."
    columns = [_format.budget(eps, norm) for eps in shown]
    kind = "finding" if group.multi else "class"
    title = f"Robust accuracy per {kind}"
    return Table("class", title, note, columns, rows, True, kind.capitalize())


def cost_table(results: Results, models: Sequence[ModelRows]) -> Table:
    """What the attacks cost."""
    told = results.extra.get("cost") or {}
    rows = []
    for model in models:
        for attack, cell in model.attacks.items():
            cost = (told.get(model.name) or {}).get(attack) or {}
            seconds = cost.get("seconds")
            rate = cell.num_grads / seconds if seconds else None
            numbers = [
                cell.num_rows, cell.num_steps, cell.num_grads,
                cost.get("forwards"), cost.get("backwards"), seconds, rate,
            ]  # fmt: skip
            entries = [
                Entry(_format.whole(n), value=float("nan") if n is None else float(n))
                for n in numbers
            ]
            if seconds is not None:
                entries[5] = Entry(f"{seconds:.1f}", value=float(seconds))
            rows.append(Row(model.name, attack, entries))
    columns = [
        "Result rows", "Moves", "Gradient rows", "Forward passes", "Backward passes", "Seconds",
        "Gradient rows per second",
    ]  # fmt: skip
    note = (
        "A gradient row is one backward pass for one image. Passes count images too, "
        "and every evaluation that an attack makes besides its gradients. Seconds include "
        "compiling the attack, once per run of the command; they are no benchmark."
    ) + _trainings(results)
    return Table("cost", "Cost", note, columns, rows)


def _trainings(results: Results) -> str:
    """Say what the attacks cost that were trained before, apart from what they cost afterwards."""
    told = []
    for model, trained in (results.extra.get("trained") or {}).items():
        for attack, about in trained.items():
            spent = [made["seconds"] for made in about["made"].values()]
            where = f"{len(spent)} on {about['settings']['images']} images, {sum(spent):.1f} s"
            told.append(f"{model} {attack}: {where}")
    return f" Trainings of attacks come on top: {'; '.join(told)}." if told else ""


def _at(series: Series, interval: Interval, eps: float) -> Entry:
    """Return the cell of a budget, empty where the attack was not run at it."""
    index = np.flatnonzero(np.abs(series.eps - eps) < 1e-9)
    if index.size == 0:
        return Entry(_format.MISSING, eps=eps)
    return share_entry(interval, int(index[0]), eps)


def _output_entry(found: Output | None, which: str, eps: float) -> Entry:
    """Return the cell of an output metric."""
    index = np.flatnonzero(found.eps == eps) if found is not None else np.zeros(0, int)
    if found is None or index.size == 0 or which not in found.values:
        return Entry(_format.MISSING, eps=eps)
    value, low, high = (float(part[index[0]]) for part in found.values[which])
    write, write_range = _WRITERS[which]
    return Entry(write(value), write_range(low, high), value, low, high, eps)


def _output_notes(statistics: Statistics, which: str) -> list[str]:
    """Say how classes were averaged, which were left out, and whether outputs are missing."""
    group = statistics.group
    notes = []
    if which in ("auroc", "sensitivity", "specificity"):
        if group.target.ndim == 2:
            notes.append("Mean over the findings.")
        elif len(group.class_names) > 2:
            notes.append("Each class against the rest, mean over the classes.")
        else:
            notes.append(f"Positive: {group.class_names[1]}.")
        absent = statistics.undefined.get(which, ())
        if absent:
            notes.append(f"Undefined on these images, hence left out: {', '.join(absent)}.")
        if any(((found.known > 0) & (found.known < 1)).any() for found in statistics.outputs):
            notes.append("Only over images whose attacked output is stored.")
    if which in ("confidence", "linf", "l2") and group.partial:
        notes.append(
            "Of the images that were attacked at a budget only, perhaps few, others at each, and "
            "broken ones as they first broke: columns cannot be compared."
        )
    return notes


def _class_entries(held: np.ndarray, part: np.ndarray, shown: np.ndarray) -> list[Entry]:
    """Return the cells of one class."""
    if not part.any():
        return [Entry(_format.MISSING, eps=float(eps)) for eps in shown]
    interval = metrics.proportion_interval(held[:, part])
    return [share_entry(interval, i, float(eps)) for i, eps in enumerate(shown)]


def _weakest(row: Row) -> float:
    """Order classes by their mean robust accuracy, absent ones last."""
    values = [entry.value for entry in row.entries]
    return float("inf") if np.isnan(values).all() else float(np.nanmean(values))
