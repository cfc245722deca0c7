"""Reader of folders of images, one folder per class."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from advjax.config import DataConfig
from advjax.data import _split
from advjax.data._assemble import assemble
from advjax.data._spec import Dataset, Progress
from advjax.data._targets import Raw

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_VAL_NAMES = ("val", "valid", "validation")
_TEST_FRACTION, _VAL_FRACTION = 0.2, 0.1


def load_folder(path: Path, config: DataConfig, *, progress: Progress | None = None) -> Dataset:
    """Load `{train,val,test}/{class}/*.png`, or `{class}/*.png` divided 70/10/20 per class.

    Images are grey when all files are, else RGB; all need one size, or `config.size`. Without a
    `val` folder an eighth of the training images is held out. Identities are hashes of the
    relative path, so they survive a copy of the folder.

    Raises:
      ValueError: no class folders, an empty one, other classes in test than in train, sizes that
        differ, or a file that cannot be read; the message names it.
      ModuleNotFoundError: pillow is not installed.
    """
    folders = _split_folders(path)
    if folders:
        classes = _classes(folders["train"])
        files = {split: _files(folder, classes) for split, folder in folders.items()}
    else:
        classes = _classes(path)
        files = {"all": _files(path, classes)}
    every = [item for listed in files.values() for item in listed]
    images = _read_all(path, [file for file, _ in every], config.size, progress)
    raws, start = {}, 0
    for split, listed in files.items():
        names = np.array([file.relative_to(path).as_posix() for file, _ in listed])
        targets = np.array([label for _, label in listed], np.int32)
        raws[split] = Raw(images[start : start + len(listed)], targets, names=names)
        start += len(listed)
    notes: tuple[str, ...] = ()
    if not folders:
        raws = _divide(path, raws["all"], config.seed)
        line = f"no train and test folders: divided 70/10/20 per class with seed {config.seed}, "
        notes = (line + "by image (patients are unknown)",)
    return assemble(path.name, raws, config, class_names=classes, notes=notes)


def _split_folders(path: Path) -> dict[str, Path]:
    """Return the folder of each split, or nothing where the folder holds classes."""
    inside = {folder.name.lower(): folder for folder in _subfolders(path)}
    if "train" not in inside and "test" not in inside:
        return {}
    for name in ("train", "test"):
        if name not in inside:
            raise ValueError(
                f"{path.name}: there is no {name} folder beside {sorted(inside)}; add it, or put "
                "the class folders directly into the folder to have them divided"
            )
    val = [inside[name] for name in _VAL_NAMES if name in inside]
    if len(val) > 1:
        raise ValueError(f"{path.name}: {val[0].name} and {val[1].name} both exist; keep one")
    found = {"train": inside["train"], "test": inside["test"]}
    return {**found, "val": val[0]} if val else found


def _subfolders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(p.name for p in _subfolders(folder))
    if not names:
        raise ValueError(
            f"{folder.name}: no class folders inside; the layout is "
            "{train,val,test}/{class}/*.png or {class}/*.png"
        )
    return names


def _files(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Return (file, class) of every image below a split folder, sorted."""
    listed = []
    for inside in _subfolders(folder):
        if inside.name not in classes:
            raise ValueError(
                f"{folder.name}/{inside.name}: the training folder has no class "
                f"{inside.name!r} (it has {', '.join(classes)}); rename it, or add training images"
            )
        found = sorted(
            Path(root) / name
            for root, _, names in os.walk(inside)
            for name in names
            if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
        )
        if not found:
            raise ValueError(
                f"{folder.name}/{inside.name}: no image inside; remove the folder, or add files "
                f"that end in {', '.join(_SUFFIXES)}"
            )
        listed += [(file, classes.index(inside.name)) for file in found]
    if not listed:
        raise ValueError(f"{folder.name}: no class folders inside, so the split is empty")
    return listed


def _read_all(
    path: Path, files: list[Path], size: int | None, progress: Progress | None
) -> np.ndarray:
    """Read `[N, H, W, C]` uint8; grey when every file is grey."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "folder: needs pillow; install it with pip install 'advjax[run]'"
        ) from None
    read = []
    todo: Iterable[Path] = files if progress is None else progress(files)
    for file in todo:
        read.append(_read(Image, path, file, size))
        if read[-1].shape[:2] != read[0].shape[:2]:
            raise ValueError(
                f"{file.relative_to(path).as_posix()} is {read[-1].shape[1]}x{read[-1].shape[0]} "
                f"pixels, the first image {read[0].shape[1]}x{read[0].shape[0]}; give a size "
                "(data.size) to resize all"
            )
    channels = max(image.shape[2] for image in read)
    return np.stack([np.repeat(i, channels // i.shape[2], axis=2) for i in read])


def _read(pil: Any, path: Path, file: Path, size: int | None) -> np.ndarray:
    """Read one file as `[H, W, 1 or 3]` uint8."""
    name = file.relative_to(path).as_posix()
    try:
        with pil.open(file) as image:
            image.load()
            mode = image.mode
            if mode in ("L", "LA", "1"):
                image = image.convert("L")
            elif mode in ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
                image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, pil.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{name}: cannot be read as an image ({reason}); replace or remove the file"
        ) from None
    if image.mode not in ("L", "RGB"):
        raise ValueError(
            f"{name}: {mode} pixels (16 or 32 bits); choose a window and save it with 8 bits"
        )
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), pil.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _divide(path: Path, whole: Raw, seed: int) -> dict[str, Raw]:
    """Divide into train, val and test, each class in the same proportion."""
    targets = np.zeros(len(whole.images), np.int32) if whole.targets is None else whole.targets
    test = _split.hold_out(targets, None, _TEST_FRACTION, seed)
    rest = np.flatnonzero(~test)
    share = _VAL_FRACTION / (1.0 - _TEST_FRACTION)
    held = _split.hold_out(targets[rest], None, share, seed)
    rows = {"train": rest[~held], "val": rest[held], "test": np.flatnonzero(test)}
    for split, chosen in rows.items():
        if not len(chosen):
            raise ValueError(
                f"{path.name}: {len(targets)} images are too few to divide (no image is "
                f"left for {split}); add images, or make train, val and test folders"
            )
    return {split: whole.select(chosen) for split, chosen in rows.items()}
