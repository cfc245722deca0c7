"""From the checked arrays of a file to a `Dataset`: classes, identities, leaks, subsets."""

import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from advjax.config import DataConfig
from advjax.data import _split, _targets
from advjax.data._spec import SPLITS, Dataset, Split
from advjax.data._targets import Raw

VAL_FRACTION = 0.125


def assemble(
    where: str,
    raws: dict[str, Raw],
    config: DataConfig,
    *,
    class_names: tuple[str, ...] | None = None,
    mask_names: tuple[str, ...] | None = None,
    box_names: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Build the dataset from its splits.

    Args:
      where: name of the file or folder, for messages.
      raws: `train`, `test` and perhaps `val`; without it a part of `train` is held out.
      config: task, size, numbers of images and seed.
      class_names: names of labels in target order, or None: the numbers.
      mask_names: names of the classes of pixels, or None: background and foreground, or numbers.
      box_names: names of the kinds of boxes, or None: the numbers.
      notes: what the reader already has to say.

    Raises:
      ValueError: splits disagree in shape or kind of label, the source lacks the targets of the
        task, classes have gaps, there is only one class and no mask, or no validation split can be
        made.
    """
    _agree(where, raws)
    task, raws = _targets.choose(where, raws, config.task)
    given = {"segmentation": mask_names, "detection": box_names}.get(task, class_names)
    num_classes = _targets.num_classes(where, task, raws, given)
    found = list(notes)
    splits = _identify(raws)
    if "val" not in splits:
        splits, line = _hold_out_val(where, splits, config.seed)
        found.append(line)
    found += _leaks(where, splits)
    wanted = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    splits = {k: _at_most(splits[k], wanted[k], config.seed) for k in SPLITS}
    names = given or tuple(str(k) for k in range(num_classes))
    if task == "segmentation" and given is None and num_classes == 2:
        names = ("background", "foreground")
    found += _remarks(task, splits, names)
    if config.size is not None:
        splits = {k: _resize(task, split, config.size) for k, split in splits.items()}
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
        for kind, one, two in (
            ("labels", raw.targets, train.targets),
            ("boxes", raw.boxes, train.boxes),
        ):
            if one is not None and two is not None and one.shape[1:] != two.shape[1:]:
                raise ValueError(
                    f"{where}: {name}_{kind} have shape {one.shape}, train_{kind} {two.shape}; "
                    "all splits need the same kind of label"
                )


def _identify(raws: dict[str, Raw]) -> dict[str, Split]:
    order = [k for k in SPLITS if k in raws]
    ids = _split.to_ids([raws[k].names for k in order], [len(raws[k].images) for k in order])
    splits = {}
    for name, numbers in zip(order, ids, strict=True):
        raw = raws[name]
        assert raw.targets is not None
        splits[name] = Split(raw.images, raw.targets, numbers, raw.masks, raw.groups, raw.names)
    return splits


def _hold_out_val(where: str, splits: dict[str, Split], seed: int) -> tuple[dict[str, Split], str]:
    """Split `val` off `train`, patients whole; return the splits and a note."""
    train = splits["train"]
    held = _split.hold_out(train.targets, train.groups, VAL_FRACTION, seed)
    if not held.any() or held.all():
        raise ValueError(
            f"{where}: there is no val split, and {_split.described(len(train), train.groups)} for "
            "training cannot be divided; add a val split (val_images and val_labels of an npz)"
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


def _remarks(task: str, splits: dict[str, Split], names: tuple[str, ...]) -> list[str]:
    """Note classes that a split lacks: metrics are undefined for them there."""
    notes = []
    for name, split in splits.items():
        counts = _targets.count(task, split.targets, len(names))
        absent = [names[k] for k in np.flatnonzero(counts == 0)]
        if absent:
            notes.append(f"{name} has no example of class {', '.join(absent)}")
    train = splits["train"]
    if task == "multi" and ((train.targets == 1).sum(axis=1) == 1).all():
        notes.append("every label row has exactly one 1: were these classes, store them as (N, 1)")
    if task == "single" and len(names) == 1:
        notes.append("all images have one class: use the masks, or another source to classify")
    return notes


def _at_most(split: Split, number: int | None, seed: int) -> Split:
    if number is None or number >= len(split):
        return split
    order = _split.stratified_order(split.targets, seed)
    return split.select(np.sort(order[:number]))


def _resize(task: str, split: Split, size: int) -> Split:
    """Resize to a square, antialiased; masks by nearest neighbour, boxes along with it."""
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
    height, width = split.images.shape[1:3]
    rows = ((np.arange(size) + 0.5) * height // size).astype(int)
    columns = ((np.arange(size) + 0.5) * width // size).astype(int)
    if split.masks is not None:
        arrays["masks"] = split.masks[:, rows][:, :, columns]
    if task == "segmentation":
        arrays["targets"] = split.targets[:, rows][:, :, columns]
    elif task == "detection":
        scale = np.array([1, size / height, size / width, size / height, size / width], np.float32)
        real = split.targets[..., :1] >= 0
        arrays["targets"] = np.where(real, split.targets * scale, split.targets)
    return replace(split, **arrays)
