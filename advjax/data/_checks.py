"""Checks of arrays that came from a file: each failure is one line with its remedy.

`where` names the file and the array, such as `scans.npz: train_images`.
"""

import numpy as np

from advjax.data._spec import IGNORE


def _first(bad: np.ndarray) -> int:
    """Return the first row of `[N, ...]` in which anything is true."""
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))


def images(where: str, array: np.ndarray) -> np.ndarray:
    """Return `[N, H, W, C]` uint8 or float32 in [0, 1].

    Raises:
      ValueError: wrong shape or dtype, no image, NaN, or a value outside of [0, 1].
    """
    if array.ndim not in (3, 4):
        raise ValueError(
            f"{where} has shape {array.shape}; expected [N, H, W] (grey) or [N, H, W, C]"
        )
    if len(array) == 0:
        raise ValueError(f"{where} is empty; a split needs at least one image")
    if array.ndim == 3:
        array = array[..., None]
    if min(array.shape[1:]) < 1:
        raise ValueError(f"{where} has shape {array.shape}: images without pixels")
    if array.shape[1] in (1, 3) and array.shape[3] > 4:
        raise ValueError(
            f"{where} has shape {array.shape}, which looks like [N, C, H, W]; "
            "store it as [N, H, W, C] (np.moveaxis(images, 1, -1))"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(
            f"{where} has dtype {array.dtype}; store images as uint8, or as float32 in [0, 1]"
        )
    finite = np.isfinite(array)
    if not finite.all():
        row = _first(~finite)
        raise ValueError(f"{where}[{row}] has a NaN or infinite pixel; repair or drop that image")
    outside = (array < 0.0) | (array > 1.0)
    if outside.any():
        row = _first(outside)
        low, high = float(array[row].min()), float(array[row].max())
        raise ValueError(
            f"{where}[{row}] has pixels in [{low:g}, {high:g}], outside of [0, 1]; divide by the "
            "largest possible value (such as 255), or store uint8"
        )
    return array.astype(np.float32, copy=False)


def labels(where: str, array: np.ndarray, num_images: int) -> np.ndarray:
    """Return `[N]` int32 classes, or `[N, K]` int32 multi-hot with K > 1, -1 where unknown.

    Raises:
      ValueError: not integers, another number of labels than images, a negative class, or a
        multi-hot entry other than 0, 1 and -1.
    """
    if array.dtype.kind not in "iub":
        raise ValueError(
            f"{where} has dtype {array.dtype}; store labels as integers, 0..K-1 or multi-hot"
        )
    if array.ndim not in (1, 2):
        raise ValueError(
            f"{where} has shape {array.shape}; expected (N,) or (N, 1) classes, or (N, K) multi-hot"
        )
    if len(array) != num_images:
        raise ValueError(
            f"{where} has {len(array)} rows, but the split has {num_images} images; "
            "every image needs one label"
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    low, high = (-1, 1) if array.ndim == 2 else (0, np.iinfo(np.int32).max)
    bad = (array < low) | (array > high)
    if bad.any():
        row = _first(bad)
        wanted = "0 or 1 (multi-hot), or -1 (unknown)" if array.ndim == 2 else "a class 0..K-1"
        raise ValueError(f"{where}[{row}] is {array[row].tolist()}; expected {wanted}")
    return array.astype(np.int32)


def masks(where: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `[N, H, W]` uint8 masks; `shape` is that of the images.

    Raises:
      ValueError: another shape than the images, or not small integers.
    """
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.shape != shape[:3]:
        raise ValueError(
            f"{where} has shape {array.shape}, but the images need {shape[:3]}: one mask per image "
            "and one value per pixel"
        )
    if array.dtype == bool or array.dtype == np.uint8:
        bad = np.zeros(array.shape, bool)
    elif array.dtype.kind in "iuf":
        bad = ~((array >= 0) & (array <= 255) & (array == np.round(array)))
    else:
        bad = np.ones(array.shape, bool)
    if bad.any():
        raise ValueError(
            f"{where}[{_first(bad)}] is not made of integers 0..255; store the index of the class "
            "of each pixel, 0 being background"
        )
    return array.astype(np.uint8)


def boxes(where: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `[N, M, 5]` float32 boxes, see `Split`; `shape` is that of the images.

    Raises:
      ValueError: another shape, a class that is no integer at least 0, or a box that is empty or
        leaves its image.
    """
    if array.ndim != 3 or array.shape[2] != 5 or len(array) != shape[0] or array.shape[1] < 1:
        raise ValueError(
            f"{where} has shape {array.shape}; expected ({shape[0]}, M, 5): for every image M rows "
            "(class, y0, x0, y1, x1), filled up with rows of -1"
        )
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{where} has dtype {array.dtype}; store numbers")
    array = array.astype(np.float32)
    kind, y0, x0, y1, x1 = np.moveaxis(array, -1, 0)
    height, width = shape[1:3]
    good = (kind >= 0) & (kind == np.round(kind)) & (y0 >= 0) & (x0 >= 0)
    good &= (y0 < y1) & (x0 < x1) & (y1 <= height) & (x1 <= width)
    bad = ~(good | (array == -1).all(axis=-1))
    if bad.any():
        row, box = np.argwhere(bad)[0]
        raise ValueError(
            f"{where}[{row}, {box}] is {array[row, box].tolist()}; expected (class, y0, x0, y1, "
            f"x1) with 0 <= y0 < y1 <= {height} and 0 <= x0 < x1 <= {width}, in pixels, or -1 in "
            "all five"
        )
    return array


def below(where: str, task: str, targets: dict[str, np.ndarray], number: int) -> None:
    """Check that all classes of pixels or boxes are below `number`.

    Raises:
      ValueError: one is not; the message names split and image.
    """
    for split, array in targets.items():
        values = array if task == "segmentation" else array[..., 0]
        wrong = (values >= number) & (values != IGNORE)
        if wrong.any():
            row = _first(wrong)
            kind = "masks" if task == "segmentation" else "boxes"
            raise ValueError(
                f"{where}: {split}_{kind}[{row}] has class {int(values[row][wrong[row]][0])}, but "
                f"there are only the classes 0..{number - 1}; correct it, or add training images "
                "of that class"
            )


def identities(where: str, array: np.ndarray, num_images: int) -> np.ndarray:
    """Return `[N]` strings or integers that name examples or groups.

    Raises:
      ValueError: wrong length, or neither strings nor integers.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (num_images,):
        raise ValueError(
            f"{where} has shape {array.shape}, but the split has {num_images} images; "
            "expected one entry per image"
        )
    if array.dtype.kind not in "iuUS":
        raise ValueError(f"{where} has dtype {array.dtype}; store strings or integers")
    return array


def classes(where: str, train: np.ndarray, others: dict[str, np.ndarray]) -> int:
    """Return the number of classes: those of the training labels `[N]`, which must be 0..K-1.

    Args:
      where: name of the file.
      train: `[N]` training labels.
      others: `[M]` labels by the name of their array.

    Raises:
      ValueError: a class below the largest one has no training example, or another split has a
        class that training has not.
    """
    present = np.unique(train)
    gaps = np.setdiff1d(np.arange(int(present[-1]) + 1 if present[-1] < 10**6 else 0), present)
    if gaps.size or present[-1] >= 10**6:
        missing = int(gaps[0]) if gaps.size else len(present)
        row = int(np.argmax(train > missing))
        raise ValueError(
            f"{where}: train_labels[{row}] is {train[row]}, but no training example has class "
            f"{missing}; number the classes 0..K-1 without gaps"
        )
    for name, values in others.items():
        unknown = values > present[-1]
        if unknown.any():
            row = _first(unknown)
            raise ValueError(
                f"{where}: {name}[{row}] is {values[row]}, but the training labels are "
                f"0..{present[-1]}; correct the label, or add training examples of that class"
            )
    return len(present)
