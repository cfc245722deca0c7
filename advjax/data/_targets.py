"""What the targets are: labels, masks or boxes, as the config asks and the source has."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from advjax.data import _checks
from advjax.data._spec import IGNORE, TASKS

_MANY = 32  # classes of pixels, from which on grey values are asked whether they are any


@dataclass(frozen=True, eq=False)
class Raw:
    """Checked arrays of one split, as in `Split` but for the identities.

    `targets` are the labels of the source, until `choose` replaces them by masks or boxes.
    """

    images: np.ndarray
    targets: np.ndarray | None = None
    masks: np.ndarray | None = None
    boxes: np.ndarray | None = None
    names: np.ndarray | None = None
    groups: np.ndarray | None = None

    def select(self, indices: np.ndarray) -> "Raw":
        """Return the split with only these rows, in this order."""
        arrays: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: a[indices] for n, a in arrays.items() if a is not None})


def choose(where: str, raws: dict[str, Raw], wanted: str | None) -> tuple[str, dict[str, Raw]]:
    """Return the task, and the splits with the targets of that task.

    Args:
      where: name of the file or folder, for messages.
      raws: the splits.
      wanted: `DataConfig.task`.

    Raises:
      ValueError: the source has no such targets, or none at all.
    """
    raws = _from_black_and_white(raws)
    task = wanted or _task_of(where, raws)
    if task == "segmentation":
        _need(where, raws, "masks", task)
        return task, {
            k: replace(r, targets=r.masks.astype(np.int32), masks=None)  # type: ignore[union-attr]  # _need
            for k, r in raws.items()
        }
    if task == "detection":
        _need(where, raws, "boxes", task)
        return task, {k: replace(r, targets=r.boxes) for k, r in raws.items()}
    _need(where, raws, "labels", task)
    return task, {k: replace(r, targets=_labels(where, k, r, task)) for k, r in raws.items()}


def _from_black_and_white(raws: dict[str, Raw]) -> dict[str, Raw]:
    """Read masks of 0 and 255, as image editors write them, as 0 and 1."""
    masks = {k: r.masks for k, r in raws.items() if r.masks is not None}
    if not masks or not all(np.isin(m, (0, 255)).all() for m in masks.values()):
        return raws
    return {k: replace(r, masks=masks[k] // 255) if k in masks else r for k, r in raws.items()}


def _task_of(where: str, raws: dict[str, Raw]) -> str:
    """What a source holds: labels before masks before boxes."""
    train = raws["train"]
    if train.targets is not None:
        if train.targets.ndim == 2:
            return "multi"
        alike = all(r.targets is not None and not r.targets.any() for r in raws.values())
        masked = all(r.masks is not None for r in raws.values())
        # labels that say nothing, beside masks that do
        return "segmentation" if alike and masked else "single"
    if train.masks is not None:
        return "segmentation"
    if train.boxes is not None:
        return "detection"
    raise ValueError(f"{where}: images without labels, masks or boxes; add one of them")


def _need(where: str, raws: dict[str, Raw], kind: str, task: str) -> None:
    field = "targets" if kind == "labels" else kind
    for split, raw in raws.items():
        if getattr(raw, field) is None:
            raise ValueError(
                f"{where}: data.task {task!r} needs {split}_{kind}, which are missing; add them, "
                f"or set data.task to another of {', '.join(TASKS)}"
            )


def _labels(where: str, split: str, raw: Raw, task: str) -> np.ndarray:
    """Return `[N]` classes or `[N, K]` findings, as the task says."""
    labels = raw.targets
    assert labels is not None
    if task == "multi" and labels.ndim == 1:
        raise ValueError(
            f"{where}: {split}_labels hold one class per image; set data.task to single, or store "
            "(N, K) multi-hot"
        )
    if task == "single" and labels.ndim == 2:
        bad = (labels < 0).any(axis=1) | (labels.sum(axis=1) != 1)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{where}: {split}_labels[{row}] is {labels[row].tolist()}, not one class; set "
                "data.task to multi for several findings per image"
            )
        return labels.argmax(axis=1).astype(np.int32)
    return labels


def num_classes(where: str, task: str, raws: dict[str, Raw], names: tuple[str, ...] | None) -> int:
    """Return the number of classes, findings, classes of pixels or kinds of boxes.

    Args:
      where: name of the file or folder, for messages.
      task: of `choose`.
      raws: of `choose`.
      names: names in target order, if known.

    Raises:
      ValueError: classes have gaps, there is only one and it is no mask, or another number of
        names.
    """
    targets = {k: r.targets for k, r in raws.items() if r.targets is not None}
    if task == "multi":
        number = targets["train"].shape[1]
    elif task == "single":
        others = {f"{k}_labels": t for k, t in targets.items() if k != "train"}
        number = _checks.classes(where, targets["train"], others)
        if number == 1 and raws["train"].masks is None:
            raise ValueError(
                f"{where}: every image has the same class; a classifier needs at least two "
                "classes in train_labels"
            )
    elif names is not None:
        number = len(names)
        _checks.below(where, task, targets, number)
    else:
        number = _without_gaps(where, task, targets)
    if names is not None and len(names) != number:
        raise ValueError(
            f"{where}: class_names has {len(names)} names, but the labels have {number} classes; "
            "give one name per class"
        )
    return number


def _without_gaps(where: str, task: str, targets: dict[str, np.ndarray]) -> int:
    """Count the classes of pixels or boxes; each below the largest must be in training."""
    values = present(task, targets["train"])
    least = 2 if task == "segmentation" else 1
    number = max(least, int(values.max()) + 1 if values.size else 0)
    if task == "segmentation" and number > _MANY and _smoothed(targets["train"]):
        raise ValueError(
            f"{where}: masks hold {values.size} grey values beside 0 and 255, as black and white "
            "does whose edges were smoothed; cut them at one half (0 and 1, or 0 and 255), or name "
            "all classes in mask_names"
        )
    missing = np.setdiff1d(np.arange(least - 1, number), values)
    if missing.size:
        kind, list_ = ("pixel", "mask_names") if task == "segmentation" else ("box", "box_names")
        raise ValueError(
            f"{where}: no training {kind} has class {missing[0]} (found: "
            f"{', '.join(map(str, values[:8].tolist())) or 'none'}); number the classes without "
            f"gaps, or name them all in {list_}"
        )
    _checks.below(where, task, targets, number)
    return number


def _smoothed(masks: np.ndarray) -> bool:
    """Whether masks are black and white but for a few pixels."""
    black, white = (masks == 0).mean(), (masks == IGNORE).mean()
    return bool(black > 0 and white > 0 and black + white > 0.5)


def present(task: str, targets: np.ndarray) -> np.ndarray:
    """Return the classes that occur in masks `[N, H, W]` or boxes `[N, M, 5]`."""
    if task == "segmentation":
        return np.setdiff1d(np.unique(targets), [IGNORE])
    kinds = np.unique(targets[..., 0]).astype(np.int32)
    return kinds[kinds >= 0]


def count(task: str, targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Return `[K]` numbers of examples of each class (`single`), of positives of each finding
    (`multi`), of images that have pixels of each class (`segmentation`), or of boxes of each kind
    (`detection`).
    """  # noqa: D205  # a title of two lines
    if task == "single":
        return np.bincount(targets, minlength=num_classes)
    if task == "multi":
        return (targets == 1).sum(axis=0)
    if task == "segmentation":
        return np.array([(targets == k).any(axis=(1, 2)).sum() for k in range(num_classes)])
    return np.array([(targets[..., 0] == k).sum() for k in range(num_classes)])
