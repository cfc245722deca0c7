"""Reader of folders of images: by class, with masks, or with a csv of labels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from advjax.config import DataConfig
from advjax.data import _split
from advjax.data._assemble import assemble
from advjax.data._checks import masks as check_masks
from advjax.data._layout import Item, Layout, read_layout
from advjax.data._medical import patient_of
from advjax.data._pixels import read_image, read_mask
from advjax.data._spec import Dataset, Progress
from advjax.data._targets import Raw

_TEST_FRACTION, _VAL_FRACTION = 0.2, 0.1


def load_folder(path: Path, config: DataConfig, *, progress: Progress | None = None) -> Dataset:
    """Load a folder of pictures, DICOM or NIfTI files, in one of three layouts.

    - `{train,val,test}/{class}/*.png`, or `{class}/*.png`.
    - `images/*.png` beside `masks/*.png`, in the folder or in its `train`, `val` and `test`. A mask
      has the stem of its image (perhaps with `_mask` or `_segmentation` behind) and the class of
      each pixel, or black and white.
    - `labels.csv`, or `train.csv`, `test.csv` and perhaps `val.csv`, with a header: the name of the
      image first (a path in the folder, a name or a stem), then one column of classes (names or
      numbers), or several columns of findings (0, 1, and -1 or nothing where unknown). The columns
      `split` (train, val, test) and `patient` are optional. Masks may lie in `masks`.

    What is not divided is divided 70/10/20 per class, patients whole where they are known; without
    `val` an eighth of the training images is held out. Images are grey when all files are, else
    RGB; all need one size, or `config.size`. Identities are hashes of the relative path, so they
    survive a copy of the folder. The slices of a NIfTI volume are images of one group, and so are
    DICOM files of one PatientID, where no csv says whose they are and there are several.

    Raises:
      ValueError: the layout is none of these, an image lacks its mask or its row the image, test
        has other classes than train, sizes differ, or a file cannot be read; the message names it.
      ModuleNotFoundError: pillow, pydicom or nibabel is needed and not installed.
    """
    path = path.absolute()  # "." has no name
    layout = read_layout(path)
    every = [item for listed in layout.items.values() for item in listed]
    whole = _read_all(path, every, config, progress)
    of_split = np.concatenate(
        [np.full(len(listed), k) for k, listed in enumerate(layout.items.values())]
    )[whole.rows]
    raws = {
        split: whole.raw.select(np.flatnonzero(of_split == k))
        for k, split in enumerate(layout.items)
    }
    notes: tuple[str, ...] = ()
    if "all" in raws:
        raws, notes = _divided(path, raws["all"], layout, config.seed)
    return assemble(path.name, raws, config, class_names=layout.class_names, notes=notes)


class _Whole:
    """All images as one split, and `[N]` the item that each comes from."""

    def __init__(self, raw: Raw, rows: np.ndarray) -> None:
        self.raw, self.rows = raw, rows


def _read_all(
    path: Path, items: list[Item], config: DataConfig, progress: Progress | None
) -> _Whole:
    """Read images and masks; a volume gives several rows."""
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    names: list[str] = []
    rows: list[int] = []
    first = ""
    todo: Iterable[Item] = items if progress is None else progress(items)
    for row, item in enumerate(todo):
        name = item.file.relative_to(path).as_posix()
        first = first or name
        found = read_image(item.file, name, size=config.size, window=config.window)
        if images and found.shape[1:3] != images[0].shape[1:3]:
            raise ValueError(
                f"{name} is {found.shape[2]}x{found.shape[1]} pixels, the first image ({first}) "
                f"{images[0].shape[2]}x{images[0].shape[1]}; give a size (data.size) to resize all"
            )
        images.append(found)
        if item.mask is not None:
            masks.append(_mask(path, name, item.mask, found.shape, config.size))
        names += [name] if len(found) == 1 else [f"{name}#{k}" for k in range(len(found))]
        rows += [row] * len(found)
    channels = max(image.shape[3] for image in images)
    pixels = np.concatenate([np.repeat(i, channels // i.shape[3], axis=3) for i in images])
    of = np.array(rows)
    labels = None if items[0].label is None else np.array([i.label for i in items], np.int32)[of]
    groups = _groups(path, items, volumes=len(of) > len(items))
    raw = Raw(
        pixels,
        labels,
        np.concatenate(masks) if masks else None,
        names=np.array(names),
        groups=None if groups is None else np.array(groups)[of],
    )
    return _Whole(raw, of)


def _groups(path: Path, items: list[Item], *, volumes: bool) -> list[str] | None:
    """Return whose each file is: by the csv, else by DICOM, else a volume is its own group."""
    if items[0].group is not None:
        return [str(item.group) for item in items]
    names = [item.file.relative_to(path).as_posix() for item in items]
    slices = [name.lower().endswith(".dcm") for name in names]
    patients = [patient_of(i.file) if dcm else None for i, dcm in zip(items, slices, strict=True)]
    # what is made anonymous often has one word for everybody
    if len({patient for patient in patients if patient}) > 1:
        return [patient or name for patient, name in zip(patients, names, strict=True)]
    return names if volumes else None


def _mask(
    path: Path, image: str, file: Path, shape: tuple[int, ...], size: int | None
) -> np.ndarray:
    name = file.relative_to(path).as_posix()
    found = read_mask(file, name, size=size)
    if found.shape != shape[:3]:
        raise ValueError(
            f"{name} is {found.shape[2]}x{found.shape[1]} pixels, its image {image} "
            f"{shape[2]}x{shape[1]}; save them at one size"
        )
    return check_masks(name, found, shape)


def _divided(
    path: Path, whole: Raw, layout: Layout, seed: int
) -> tuple[dict[str, Raw], tuple[str, ...]]:
    """Divide into train, val and test, each class in the same proportion; say so in a note."""
    targets = np.zeros(len(whole.images), np.int32) if whole.targets is None else whole.targets
    groups = whole.groups
    test = _split.hold_out(targets, groups, _TEST_FRACTION, seed)
    rest = np.flatnonzero(~test)
    share = _VAL_FRACTION / (1.0 - _TEST_FRACTION)
    held = _split.hold_out(targets[rest], None if groups is None else groups[rest], share, seed)
    rows = {"train": rest[~held], "val": rest[held], "test": np.flatnonzero(test)}
    for split, chosen in rows.items():
        if not len(chosen):
            raise ValueError(
                f"{path.name}: {_split.described(len(targets), groups)} are too few to divide (no "
                f"image is left for {split}); add images, or make train, val and test folders"
            )
    by = "by image (patients are unknown)" if groups is None else "by group"
    per = "" if whole.targets is None else " per class"
    where = "no train and test folders" if layout.class_names else "no splits"
    note = f"{where}: divided 70/10/20{per} with seed {seed}, {by}"
    return {split: whole.select(chosen) for split, chosen in rows.items()}, (note,)
