"""The one entrance: a `DataConfig` in, a checked `Dataset` out."""

import hashlib
import os
from pathlib import Path

import jax
import numpy as np

from advjax.config import DataConfig
from advjax.data import phantoms
from advjax.data._folder import load_folder
from advjax.data._npz import load_npz
from advjax.data._positive import check_positive, two_classes
from advjax.data._spec import SPLITS, TASKS, Dataset, Progress, Split
from advjax.data._targets import count
from advjax.data._tfds import load_tfds

_DEFAULT_NUMBERS = (2048, 256, 512)
_DEFAULT_SIZE = 32
_KINDS = {
    "single": "one class per image",
    "multi": "several findings per image",
    "segmentation": "one class per pixel (images that have it are counted)",
    "detection": "boxes (which are counted)",
}
# identities of phantoms: split number times this, plus the number of the image
_SPLIT_STRIDE = 10**8


def load(config: DataConfig, *, progress: Progress | None = None) -> Dataset:
    """Load and check the data that a config names.

    Args:
      config: source, size, numbers of images, seed; see `DataConfig`.
      progress: wraps the sequence of what takes long (chunks of phantoms, files of a folder),
        such as `tqdm.tqdm`.

    Returns:
      The dataset with its three splits, on the host.

    Raises:
      FileNotFoundError: no file or folder of that name; the message says where it was looked for.
      ValueError: an unknown source, a number out of range, or wrong contents; the message names
        the thing and the remedy.
    """
    _check(config)
    found = _read(config, progress)
    return found if config.positive is None else two_classes(found, config.positive)


def _read(config: DataConfig, progress: Progress | None) -> Dataset:
    kind, _, rest = config.source.partition(":")
    if kind == "phantom":
        return _load_phantoms(rest, config, progress)
    if kind == "tfds":
        return load_tfds(rest, config, progress=progress)
    path = find(rest)
    if kind == "npz":
        if path.is_dir():
            raise ValueError(f"{config.source} is a folder; write folder:{rest} to load images")
        return load_npz(path, config)
    if not path.is_dir():
        raise ValueError(f"{config.source} is a file; write npz:{rest} to load arrays")
    return load_folder(path, config, progress=progress)


def find(path: str) -> Path:
    """Return an existing path: as given, else below `$ADVJAX_DATA_DIR`.

    Raises:
      FileNotFoundError: neither exists.
    """
    given = Path(path).expanduser()
    if given.exists():
        return given
    base = os.environ.get("ADVJAX_DATA_DIR")
    if given.is_absolute():
        raise FileNotFoundError(f"no file or folder {path}; correct the path")
    if not base:
        raise FileNotFoundError(
            f"no file or folder {path} in the working directory; correct the path, or set "
            "ADVJAX_DATA_DIR to the folder that holds it"
        )
    below = Path(base).expanduser() / given
    if below.exists():
        return below
    raise FileNotFoundError(
        f"no file or folder {path}, neither in the working directory nor in ADVJAX_DATA_DIR "
        f"({base}); correct the path"
    )


def _check(config: DataConfig) -> None:
    kind, colon, rest = config.source.partition(":")
    if kind not in ("phantom", "npz", "folder", "tfds") or not colon or not rest:
        raise ValueError(
            f"unknown data source {config.source!r}; write phantom:dermoscopy (or xray, "
            "ct, fundus, endoscopy), npz:PATH, folder:PATH or tfds:NAME"
        )
    for name in ("num_train", "num_val", "num_test", "size"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(
                f"data.{name} must be at least 1, or None for the default; got {value}"
            )
    if config.task is not None and config.task not in TASKS:
        raise ValueError(
            f"data.task must be {', '.join(TASKS)} or None for what the source holds; got "
            f"{config.task!r}"
        )
    if config.window is not None and not (len(config.window) == 2 and config.window[1] > 0):
        raise ValueError(
            f"data.window must be a centre and a width above 0, got {list(config.window)}"
        )
    if not 0 <= config.seed < 2**31:
        raise ValueError(f"data.seed must be in [0, 2**31), got {config.seed}")
    check_positive(config)


def _load_phantoms(name: str, config: DataConfig, progress: Progress | None) -> Dataset:
    size = _DEFAULT_SIZE if config.size is None else config.size
    spec = phantoms.PhantomSpec(
        name, size, config.difficulty, config.signal, task=config.task or ""
    )
    numbers = (config.num_train, config.num_val, config.num_test)
    splits = {}
    for k, (split, number) in enumerate(zip(SPLITS, numbers, strict=True)):
        n = _DEFAULT_NUMBERS[k] if number is None else number
        if n > _SPLIT_STRIDE:
            raise ValueError(f"data.num_{split} must be at most {_SPLIT_STRIDE}, got {n}")
        key = jax.random.fold_in(jax.random.key(config.seed), k)
        made = phantoms.make_many(key, spec, n, progress=progress)
        ids = np.arange(n, dtype=np.int32) + np.int32(k * _SPLIT_STRIDE)
        masks = None if spec.task == "segmentation" else made.mask
        splits[split] = Split(made.image, made.target, ids, masks=masks)
    return Dataset(
        name=config.source,
        task=spec.task,
        num_classes=len(spec.class_names),
        class_names=spec.class_names,
        image_shape=(spec.size, spec.size, spec.channels),
        splits=splits,
        notes=("phantoms: synthetic images, no patient",),
    )


def class_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return, for each split, the number of examples of each class by name.

    Positives where there are several findings, images that have pixels of the class where there
    are masks, boxes where there are boxes.
    """
    return {
        name: {
            label: int(n)
            for label, n in zip(
                dataset.class_names,
                count(dataset.task, split.targets, dataset.num_classes),
                strict=True,
            )
        }
        for name, split in dataset.splits.items()
    }


def describe(dataset: Dataset) -> str:
    """Return a text table: counts per split and class, what else there is, and the notes."""
    counts = class_counts(dataset)
    height, width, channels = dataset.image_shape
    first = dataset.train
    extras = [name for name in ("masks", "groups", "names") if getattr(first, name) is not None]
    pixels = f"{height}x{width} pixels, {channels} channel(s), {first.images.dtype}"
    lines = [
        f"{dataset.name}: {pixels}, {dataset.num_classes} classes, {_KINDS[dataset.task]}",
        f"also present: {', '.join(extras) or 'nothing'}",
        "",
    ]
    width_of_name = max(len("images"), *(len(name) for name in dataset.class_names))
    row = f"  {{:<{width_of_name}}}" + "  {:>8}" * len(dataset.splits)
    lines.append(row.format("", *dataset.splits))
    for label in dataset.class_names:
        lines.append(row.format(label, *(counts[split][label] for split in counts)))
    lines.append(row.format("images", *(len(split) for split in dataset.splits.values())))
    if first.groups is not None:
        groups = [
            "-" if split.groups is None else len(np.unique(split.groups))
            for split in dataset.splits.values()
        ]
        lines.append(row.format("groups", *groups))
    return "\n".join([*lines, *(f"note: {note}" for note in dataset.notes)])


def fingerprint(dataset: Dataset) -> str:
    """Return a SHA-256 of images, targets and identities of all splits, for manifests."""
    digest = hashlib.sha256()
    for name, split in dataset.splits.items():
        digest.update(name.encode())
        for array in (split.images, split.targets, split.ids):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
