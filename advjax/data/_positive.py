"""Two classes out of many: some classes or findings against the rest."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from advjax.config import DataConfig
from advjax.data._spec import Dataset, Split

_ANY = ("any",)
# beyond these, the names of a class no longer make a name
_FEW = 3


def check_positive(config: DataConfig) -> None:
    """Check `config.positive` as far as that needs no data.

    Raises:
      ValueError: it is no list of names, empty, has one twice, or the task has no labels.
    """
    names = config.positive
    if names is None:
        return
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"data.positive must be a list of names, got {names!r}")
    if not names:
        raise ValueError("data.positive is empty; name classes or findings, or leave it None")
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise ValueError(f"data.positive names {twice[0]!r} twice; name it once")
    _check_task(config.task)


def two_classes(dataset: Dataset, positive: Sequence[str]) -> Dataset:
    """Make a data set of two classes, of which 1 has the named classes or findings.

    An image with several findings is positive where a named one is 1 and negative where all named
    ones are 0; where none is 1 and one is unknown (-1), it is left out, and a note counts these.

    Args:
      dataset: `single` or `multi`.
      positive: names among `dataset.class_names`, or `("any",)` for any finding.

    Returns:
      A `single` data set with the same images, identities and masks. Its classes are named after
      what is in them, where that is little.

    Raises:
      ValueError: other targets than labels, an unknown name, no class is left for the negatives,
        or a split lacks one of the two.
    """
    _check_task(dataset.task)
    known, multi = dataset.class_names, dataset.task == "multi"
    every = multi and tuple(positive) == _ANY and _ANY[0] not in known
    _check_names(dataset, known if every else positive)
    chosen = np.array([every or name in positive for name in known])
    rest = [name for name, is_chosen in zip(known, chosen, strict=True) if not is_chosen]
    if every:
        names = ("no finding", "any finding")
    else:
        names = (_negative(positive, rest, multi), _positive(positive))
    divided = {k: _divide(split, chosen, multi) for k, split in dataset.splits.items()}
    for name, split in divided.items():
        _check_split(dataset, name, split, names)
    listed = "any" if every else " or ".join(positive)
    made = f"{len(known)} findings: positive has" if multi else f"{len(known)}: positive is"
    notes = [f"two classes made of {made} {listed}"]
    lost = {k: len(dataset.splits[k]) - len(split) for k, split in divided.items()}
    if any(lost.values()):
        notes.append(
            f"{sum(lost.values())} images were left out ({_counts(lost)}): no finding of "
            "data.positive is known to be there, and some are unknown"
        )
    return replace(
        dataset,
        task="single",
        num_classes=2,
        class_names=names,
        splits=divided,
        notes=(*dataset.notes, *notes),
    )


def _check_task(task: str | None) -> None:
    if task in ("segmentation", "detection"):
        kind = "masks" if task == "segmentation" else "boxes"
        raise ValueError(
            f"data.positive chooses among labels, but the targets are {kind} (task {task}); leave "
            "it out, or set data.task to single or multi where the source has labels too"
        )


def _check_names(dataset: Dataset, positive: Sequence[str]) -> None:
    known, multi = dataset.class_names, dataset.task == "multi"
    unknown = [name for name in positive if name not in known]
    if unknown:
        kind, more = ("finding", ", or any alone for any of them") if multi else ("class", "")
        raise ValueError(
            f"data.positive: {dataset.name} has no {kind} {unknown[0]!r}; it has "
            f"{', '.join(known)}{more}"
        )
    if not multi and set(known) <= set(positive):
        raise ValueError(
            f"data.positive names every class of {dataset.name} ({', '.join(known)}), so that none "
            "is negative; leave one out"
        )


def _negative(positive: Sequence[str], rest: Sequence[str], multi: bool) -> str:
    """Name the negative class: the one that is left, else what it is not."""
    if len(rest) == 1 and not multi:
        return rest[0]
    return f"not {positive[0]}" if len(positive) == 1 else "other"


def _positive(positive: Sequence[str]) -> str:
    # no comma: the options of an attack, of which goal=class-NAME is one, are divided by it
    return " or ".join(positive) if len(positive) <= _FEW else "positive"


def _divide(split: Split, chosen: np.ndarray, multi: bool) -> Split:
    if not multi:
        return replace(split, targets=chosen[split.targets].astype(np.int32))
    findings = split.targets[:, chosen]
    there = (findings == 1).any(axis=1)
    told = there | (findings == 0).all(axis=1)
    binary = replace(split, targets=there.astype(np.int32))
    # a selection copies the images
    return binary if told.all() else binary.select(told)


def _check_split(dataset: Dataset, name: str, split: Split, names: tuple[str, str]) -> None:
    numbers = np.bincount(split.targets, minlength=2)
    if numbers.all():
        return
    missing = int(np.argmin(numbers))
    raise ValueError(
        f"data.positive: the {name} split of {dataset.name} has no image of class "
        f"{names[missing]!r} ({len(split)} of {names[1 - missing]!r}); name other classes or "
        f"findings ({', '.join(dataset.class_names)}), or take more images (data.num_{name})"
    )


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())
