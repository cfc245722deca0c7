"""Reader of `.npz` files in the layout of MedMNIST (Yang et al. 2023)."""

import pickle
import struct
import textwrap
import zipfile
import zlib
from pathlib import Path

import numpy as np

from advjax.config import DataConfig
from advjax.data import _checks
from advjax.data._assemble import assemble
from advjax.data._spec import SPLITS, Dataset
from advjax.data._targets import Raw

_TARGETS = ("labels", "masks", "boxes")
# what numpy, zipfile and zlib raise on damaged bytes
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def load_npz(path: Path, config: DataConfig) -> Dataset:
    """Load `{train,val,test}_images` with `_labels`, `_masks` or `_boxes`, `_ids` and `_groups`.

    Images are `[N, H, W]` or `[N, H, W, C]`, uint8 or float in [0, 1]; labels `(N,)` or `(N, 1)`
    classes 0..K-1, or `(N, K)` multi-hot (-1: unknown); masks `[N, H, W]`, the class of each pixel
    (255: ignored; only 0 and 255: black and white); boxes `(N, M, 5)`, see `Split`; ids and groups
    strings or integers. One kind of target is enough; `config.task` chooses among several. The
    optional `class_names`, `mask_names` and `box_names` `(K,)` name the classes. Without
    `val_images` an eighth of the training images is held out, by group where groups are known.

    Raises:
      ValueError: the file is damaged, lacks an array, or an array is wrong; the message names
        file, array, first row and remedy.
    """
    arrays = _read(path)
    kinds = [k for k in _TARGETS if f"train_{k}" in arrays] or ["labels"]
    for split in ("train", "test"):
        _require(path, arrays, f"{split}_images")
        if not any(f"{split}_{k}" in arrays for k in kinds):
            _require(path, arrays, f"{split}_{kinds[0]}")
    if ("val_images" in arrays) != any(f"val_{k}" in arrays for k in kinds):
        _require(path, arrays, "val_images")
        _require(path, arrays, f"val_{kinds[0]}")
    raws = {s: _raw(path, arrays, s) for s in SPLITS if f"{s}_images" in arrays}
    class_names, mask_names, box_names = (
        _names(path, arrays, key) for key in ("class_names", "mask_names", "box_names")
    )
    return assemble(
        path.name,
        raws,
        config,
        class_names=class_names,
        mask_names=mask_names,
        box_names=box_names,
    )


def _names(path: Path, arrays: dict[str, np.ndarray], key: str) -> tuple[str, ...] | None:
    names = arrays.get(key)
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise ValueError(f"{path.name}: {key} must be a list of strings, one per class")
    return tuple(str(n) for n in names)


def _read(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(6)
    if not start.startswith((b"PK", b"\x93NUMPY")):
        raise ValueError(
            f"{path.name}: not a readable .npz file (it begins with {start!r}); write it with "
            "np.savez_compressed, or copy or download it again"
        )
    try:
        archive = np.load(path, allow_pickle=False)
    except _BROKEN as error:
        raise ValueError(
            f"{path.name}: not a readable .npz file ({_one_line(error)}); it may be truncated: "
            "copy or download it again, or write it with np.savez_compressed"
        ) from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(
            f"{path.name}: one .npy array, expected an .npz archive with train_images, "
            "train_labels, test_images, test_labels; write it with np.savez_compressed"
        )
    arrays = {}
    with archive:
        for key in archive.files:
            try:
                arrays[key] = archive[key]
            except _BROKEN as error:
                raise ValueError(
                    f"{path.name}: cannot read {key} ({_one_line(error)}); the file is damaged, or "
                    "the array holds Python objects: store numbers or strings"
                ) from None
    return arrays


def _one_line(error: BaseException) -> str:
    text = textwrap.shorten(str(error), 120, placeholder=" ...")
    return text or type(error).__name__


def _require(path: Path, arrays: dict[str, np.ndarray], key: str) -> None:
    if key not in arrays:
        present = ", ".join(sorted(arrays)) or "nothing"
        raise ValueError(
            f"{path.name}: {key} is missing (found: {present}); add it: the layout is "
            "{train,val,test}_{images,labels}, or _masks or _boxes in place of labels"
        )


def _raw(path: Path, arrays: dict[str, np.ndarray], split: str) -> Raw:
    where = f"{path.name}: {split}"
    images = _checks.images(f"{where}_images", arrays[f"{split}_images"])
    number = len(images)
    labels, masks, boxes, names, groups = (
        arrays.get(f"{split}_{kind}") for kind in (*_TARGETS, "ids", "groups")
    )
    return Raw(
        images=images,
        targets=None if labels is None else _checks.labels(f"{where}_labels", labels, number),
        masks=None if masks is None else _checks.masks(f"{where}_masks", masks, images.shape),
        boxes=None if boxes is None else _checks.boxes(f"{where}_boxes", boxes, images.shape),
        names=None if names is None else _checks.identities(f"{where}_ids", names, number),
        groups=None if groups is None else _checks.identities(f"{where}_groups", groups, number),
    )
