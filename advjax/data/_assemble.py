"""From the checked arrays of a file to a `Dataset`: classes, identities, leaks, subsets."""

import warnings
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from advjax.config import DataConfig
from advjax.data import _checks, _split
from advjax.data._spec import SPLITS, Dataset, Split

VAL_FRACTION = 0.125


@dataclass(frozen=True, eq=False)
class Raw:
    """Checked arrays of one split, as in `Split` but for the identities."""

    images: np.ndarray
    targets: np.ndarray
    masks: np.ndarray | None = None
    names: np.ndarray | None = None
    groups: np.ndarray | None = None


def assemble(
    where: str,
    raws: dict[str, Raw],
    config: DataConfig,
    *,
    class_names: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Build the dataset from its splits.

    Args:
      where: name of the file or folder, for messages.
      raws: `train`, `test` and perhaps `val`; without it a part of `train` is held out.
      config: size, numbers of images and seed.
      class_names: names in target order, or None: the numbers.
      notes: what the reader already has to say.

    Raises:
      ValueError: splits disagree in shape or kind of label, classes have gaps, there is only one
        class and no mask, or no validation split can be made.
    """
    _agree(where, raws)
    task = "multi" if raws["train"].targets.ndim == 2 else "single"
    num_classes = _num_classes(where, raws, class_names)
    found = list(notes)
    splits = _identify(raws)
    if "val" not in splits:
        splits, line = _hold_out_val(where, splits, config.seed)
        found.append(line)
    found += _leaks(where, splits)
    wanted = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    splits = {k: _at_most(splits[k], wanted[k], config.seed) for k in SPLITS}
    names = class_names or tuple(str(k) for k in range(num_classes))
    found += _remarks(splits, names)
    if config.size is not None:
        splits = {k: _resize(split, config.size) for k, split in splits.items()}
    height, width, channels = splits["train"].images.shape[1:]
    return Dataset(
        name=config.source,
        task=task,
        num_classes=num_classes,
        class_names=names,
        image_shape=(height, width, channels),
        splits=splits,
        notes=tuple(found),
    )


def _agree(where: str, raws: dict[str, Raw]) -> None:
    train = raws["train"]
    for name, raw in raws.items():
        if raw.images.shape[1:] != train.images.shape[1:]:
            raise ValueError(
                f"{where}: {name}_images are {raw.images.shape[1:]}, train_images are "
                f"{train.images.shape[1:]}; all splits need the same height, width and channels"
            )
        if raw.targets.shape[1:] != train.targets.shape[1:]:
            raise ValueError(
                f"{where}: {name}_labels have shape {raw.targets.shape}, train_labels "
                f"{train.targets.shape}; all splits need the same kind of label"
            )


def _num_classes(where: str, raws: dict[str, Raw], names: tuple[str, ...] | None) -> int:
    train = raws["train"]
    if train.targets.ndim == 2:
        number = train.targets.shape[1]
    else:
        others = {f"{k}_labels": r.targets for k, r in raws.items() if k != "train"}
        number = _checks.classes(where, train.targets, others)
        if number == 1 and train.masks is None:
            raise ValueError(
                f"{where}: every image has the same class; a classifier needs at least two "
                "classes in train_labels"
            )
    if names is not None and len(names) != number:
        raise ValueError(
            f"{where}: class_names has {len(names)} names, but the labels have {number} classes; "
            "give one name per class"
        )
    return number


def _identify(raws: dict[str, Raw]) -> dict[str, Split]:
    order = [k for k in SPLITS if k in raws]
    ids = _split.to_ids([raws[k].names for k in order], [len(raws[k].images) for k in order])
    splits = {}
    for name, numbers in zip(order, ids, strict=True):
        raw = raws[name]
        splits[name] = Split(raw.images, raw.targets, numbers, raw.masks, raw.groups, raw.names)
    return splits


def _hold_out_val(where: str, splits: dict[str, Split], seed: int) -> tuple[dict[str, Split], str]:
    """Split `val` off `train`, patients whole; return the splits and a note."""
    train = splits["train"]
    held = _split.hold_out(train.targets, train.groups, VAL_FRACTION, seed)
    if not held.any() or held.all():
        raise ValueError(
            f"{where}: there is no val split, and the {len(train)} training images cannot be "
            "divided (too few images or groups); add val_images and val_labels"
        )
    kind = "image" if train.groups is None else "group"
    line = (
        f"no val split: {int(held.sum())} of {len(train)} training images were held out for "
        f"validation, by {kind}, with seed {seed}"
    )
    parts = {"train": train.select(~held), "val": train.select(held)}
    return {**splits, **parts}, line


def _leaks(where: str, splits: dict[str, Split]) -> list[str]:
    """Warn of groups (patients) in two splits, and return the warnings as notes."""
    notes = []
    for one, two in (("train", "val"), ("train", "test"), ("val", "test")):
        a, b = splits[one].groups, splits[two].groups
        if a is None or b is None:
            continue
        shared = np.intersect1d(a.astype(str), b.astype(str))
        if len(shared):
            some = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
            line = (
                f"{len(shared)} group(s) are in both {one} and {two} ({some}); where groups are "
                "patients, results on such a split are too good: divide by patient"
            )
            warnings.warn(f"{where}: {line}", stacklevel=2)
            notes.append(line)
    return notes


def _remarks(splits: dict[str, Split], names: tuple[str, ...]) -> list[str]:
    """Note classes that a split lacks: metrics are undefined for them there."""
    notes = []
    for name, split in splits.items():
        counts = count(split.targets, len(names))
        absent = [names[k] for k in np.flatnonzero(counts == 0)]
        if absent:
            notes.append(f"{name} has no example of class {', '.join(absent)}")
    train = splits["train"]
    if train.targets.ndim == 2 and (train.targets.sum(axis=1) == 1).all():
        notes.append("every label row has exactly one 1: were these classes, store them as (N, 1)")
    if len(names) == 1:
        notes.append("all images have one class: use the masks, or another source to classify")
    return notes


def count(targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Return `[K]` numbers of examples of each class, or of positives of each finding."""
    if targets.ndim == 2:
        return targets.sum(axis=0)
    return np.bincount(targets, minlength=num_classes)


def _at_most(split: Split, number: int | None, seed: int) -> Split:
    if number is None or number >= len(split):
        return split
    order = _split.stratified_order(split.targets, seed)
    return split.select(np.sort(order[:number]))


def _resize(split: Split, size: int) -> Split:
    """Resize to a square, antialiased; masks by nearest neighbour."""
    if split.images.shape[1:3] == (size, size):
        return split

    @jax.jit
    def shrink(images: jax.Array) -> jax.Array:
        shape = (*images.shape[:1], size, size, *images.shape[3:])
        resized = jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=True)
        if images.dtype == jnp.uint8:
            return jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8)
        return jnp.clip(resized, 0.0, 1.0)

    step = 256
    starts = range(0, len(split), step)
    images = np.concatenate([np.asarray(shrink(split.images[i : i + step])) for i in starts])
    arrays = {"images": images}
    if split.masks is not None:
        rows = (np.arange(size) + 0.5) * split.masks.shape[1] // size
        columns = (np.arange(size) + 0.5) * split.masks.shape[2] // size
        arrays["masks"] = split.masks[:, rows.astype(int)][:, :, columns.astype(int)]
    return replace(split, **arrays)
