"""Tables of what an image consists of: classes of pixels or boxes, and its findings together."""

from collections.abc import Iterator

import numpy as np

from advjax import metrics
from advjax.report import _boxes, _format
from advjax.report._results import Array, Cell, ModelRows
from advjax.report._statistics import Statistics
from advjax.report._tables import Entry, Row, Table

# pairs of findings that a table shows, of up to 91 for fourteen findings
MOST_PAIRS = 5
MEAN = "mean of the classes"


def tables(statistics: Statistics, norm: str) -> list[Table]:
    """Return Dice and IoU or average precision of classes, or what findings do together.

    Each attack and budget alone; none for single labels.
    """
    group = statistics.group
    if group.masks:
        alone = "Over the pixels of all images together. A class without a pixel has none"
        return [
            _by_class(statistics, norm, "mask", "Dice per class", f"{alone}."),
            _by_class(
                statistics, norm, "mask-iou", "Intersection over union per class",
                f"{alone}; the mean (mIoU) is over the others, with the background.",
            ),
        ]  # fmt: skip
    if group.boxes:
        note = "At an IoU of one half, over all images. A class without a box has none."
        return [_by_class(statistics, norm, "box", "Average precision per class", note)]
    if not group.multi:
        return []
    note = "Area under the ROC curve of each finding, where it is known; of one class alone none."
    return [
        _by_class(statistics, norm, "auroc-finding", "AUROC per finding", note),
        _together(statistics, norm),
        _correlation(statistics, norm),
    ]


def _attacked(statistics: Statistics, norm: str) -> Iterator[tuple[ModelRows, str, Cell]]:
    """Yield the attacks of a norm whose outputs are stored."""
    attacks = {s.attack for s in statistics.series if s.norm == norm}
    for model in statistics.group.models:
        for attack, cell in model.attacks.items():
            if attack in attacks and cell.probabilities.shape[2]:
                yield model, attack, cell


def _table(
    statistics: Statistics, norm: str, about: tuple[str, str, str], rows: list[Row], first: str
) -> Table:
    columns = [_format.budget(eps, norm) for eps in statistics.chosen[norm]]
    return Table(*about, columns, rows, False, first)


def _row(model: ModelRows, name: str, values: Array, eps: Array, *, whole: bool = False) -> Row:
    """Return a line of numbers `[E]`; `whole`: counts."""
    entries = [
        Entry(
            _format.MISSING if np.isnan(v) else _format.whole(int(v)) if whole
            else _format.number(float(v)),
            value=float(v), eps=float(e),
        )
        for v, e in zip(values, eps, strict=True)
    ]  # fmt: skip
    return Row(model.name, name, entries)


def _by_class(statistics: Statistics, norm: str, *about: str) -> Table:
    """One number of each class of pixels or boxes."""
    key, title, note = about
    names, shown = statistics.group.class_names, statistics.chosen[norm]
    lines = [*names, MEAN] if key == "mask-iou" else list(names)
    rows = []
    for model, attack, cell in _attacked(statistics, norm):
        if key == "auroc-finding":
            outputs = [_at(model.clean if e == 0 else cell, e) for e in shown]
            found = np.stack([_aurocs(o, statistics.group.target) for o in outputs], 1)
        else:
            records = [_records(model, cell, e) for e in shown]
            found = np.stack([_of_classes(key, r, len(names)) for r in records], 1)
        rows += [
            _row(model, f"{attack}, {name}", values, shown)
            for name, values in zip(lines, found, strict=True)
        ]
    return _table(statistics, norm, (key, title, note), rows, "Attack and class")


def _aurocs(outputs: Array | None, target: Array) -> Array:
    """Return the AUROC of each finding `[K]`, NaN where it does not exist."""
    known = np.zeros(len(target), bool) if outputs is None else np.isfinite(outputs).all(1)
    if outputs is None or not known.any():
        return np.full(target.shape[1], np.nan)
    return metrics.auroc(outputs[known], target[known]).values


def _of_classes(key: str, records: Array, num_classes: int) -> Array:
    """Return a number of each class, and of mIoU the mean, from rows `[n, P]`."""
    if key == "box":
        return _boxes.precision_of_classes(records, num_classes)
    if not len(records):
        return np.full(num_classes + (key == "mask-iou"), np.nan)
    counts = records.reshape(len(records), num_classes, 3).astype(np.int64)
    if key == "mask":
        return metrics.dice(counts, pooled=True, background=True).values
    found = metrics.iou(counts, pooled=True, background=True)
    return np.append(found.values, found.mean)


def _together(statistics: Statistics, norm: str) -> Table:
    """Count the images that are told to have both of two findings: label co-occurrence."""
    group, shown = statistics.group, statistics.chosen[norm]
    truth = metrics.co_occurrence(group.target)
    above = np.triu_indices(len(truth), 1)
    order = np.argsort(-truth[above], kind="stable")[:MOST_PAIRS]
    pairs = [(above[0][k], above[1][k]) for k in order]
    rows = []
    for model, attack, cell in _attacked(statistics, norm):
        counts = [_told_together(_records(model, cell, eps)) for eps in shown]
        lines = [
            (f"{group.class_names[i]} and {group.class_names[j]} ({truth[i, j]})",
             [c[i, j] for c in counts])
            for i, j in pairs
        ]  # fmt: skip
        lines += [
            (f"all pairs ({truth[above].sum()})", [c[above].sum() for c in counts]),
            (f"one finding only ({np.trace(truth)})", [np.trace(c) for c in counts]),
        ]
        rows += [
            _row(model, f"{attack}, {name}", np.array(values), shown, whole=True)
            for name, values in lines
        ]
    note = (
        "Label co-occurrence: images that are told to have both findings, each with a probability "
        f"above 1/2; in brackets how many have them. The {len(pairs)} most common pairs, the sum "
        "over all pairs, and the images with a single finding. What is not known counts as absent "
        "in brackets."
    )
    about = ("together", "Findings that are told together", note)
    return _table(statistics, norm, about, rows, "Attack and findings")


def _told_together(records: Array) -> Array:
    """Return the co-occurrence `[K, K]` of decisions, NaN without any output."""
    if not len(records):
        return np.full((records.shape[1],) * 2, np.nan)
    return metrics.co_occurrence(records > 0.5).astype(float)


def _correlation(statistics: Statistics, norm: str) -> Table:
    """Correlate each finding's probability under attack with that on the clean images."""
    group, shown = statistics.group, statistics.chosen[norm]
    rows = []
    for model, attack, cell in _attacked(statistics, norm):
        each = np.stack([_correlations(model, cell, eps) for eps in shown], 1)
        means = [np.nan if np.isnan(c).all() else np.nanmean(c) for c in each.T]
        rows.append(_row(model, f"{attack}, mean", np.array(means), shown))
        # those that the attack turns most
        order = np.argsort(np.nan_to_num(each[:, -1], nan=np.inf), kind="stable")[:MOST_PAIRS]
        rows += [_row(model, f"{attack}, {group.class_names[k]}", each[k], shown) for k in order]
    note = (
        "Pearson's, over the images, of a finding's probability with that for the clean image: 1 "
        "leaves the order of the images as it was, below 0 turns it around. The mean over the "
        f"findings, and the {min(MOST_PAIRS, len(group.class_names))} lowest at the largest budget."
    )
    about = ("correlation", "Correlation of findings, clean against attacked", note)
    return _table(statistics, norm, about, rows, "Attack and finding")


def _correlations(model: ModelRows, cell: Cell, eps: float) -> Array:
    """Return the correlation of each finding `[K]`, NaN where it does not exist."""
    count = cell.probabilities.shape[2]
    clean, attacked = _at(model.clean, 0.0), _at(model.clean if eps == 0 else cell, eps)
    if clean is None or attacked is None:
        return np.full(count, np.nan)
    known = np.isfinite(clean).all(1) & np.isfinite(attacked).all(1)
    if not known.any():
        return np.full(count, np.nan)
    return metrics.paired_correlation(clean[known], attacked[known]).values


def _at(cell: Cell | None, eps: float) -> Array | None:
    """Return the outputs `[N, P]` at a budget, or None where there are none."""
    if cell is None or not (same := np.abs(cell.eps - eps) < 1e-9).any():
        return None
    return cell.probabilities[same.argmax()]


def _records(model: ModelRows, cell: Cell, eps: float) -> Array:
    """Return what is known of the outputs at a budget, `[n, P]`; `n` is 0 where nothing is."""
    found = _at(model.clean if eps == 0 else cell, eps)
    if found is None:
        return np.zeros((0, cell.probabilities.shape[2]))
    return found[np.isfinite(found).all(1)]
