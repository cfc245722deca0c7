"""What a dataset is: a few numpy arrays per split, checked once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

# wraps a sequence and yields its items, such as `tqdm.tqdm`
Progress = Callable[[Sequence[Any]], Iterable[Any]]

SPLITS = ("train", "val", "test")
TASKS = ("single", "multi", "segmentation", "detection")
IGNORE = 255
"""The class of a pixel that counts for nothing."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split on the host; every array has the leading `[N]`.

    Attributes:
      images: `[N, H, W, C]` uint8, or float32 in [0, 1].
      targets: by task, `[N]` int32 classes (`single`); `[N, K]` int32 multi-hot, -1 where a
        finding is unknown (`multi`); `[N, H, W]` int32 classes of pixels, 255 (`IGNORE`) where
        none counts (`segmentation`); or `[N, M, 5]` float32 boxes (`detection`), each
        `(class, y0, x0, y1, x1)` in pixels from the upper left corner of the image, the pixels
        y0 <= y < y1 and x0 <= x < x1 being inside, filled up with rows of -1.
      ids: `[N]` int32, at least 0, unique in the whole dataset and the same in every run.
      masks: `[N, H, W]` uint8 (0 background), or None; also None where they are the targets.
      groups: `[N]` names of the patient, lesion or source, or None.
      names: `[N]` what the source calls the example (a file, an accession number), or None.
    """

    images: np.ndarray
    targets: np.ndarray
    ids: np.ndarray
    masks: np.ndarray | None = None
    groups: np.ndarray | None = None
    names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: np.ndarray | slice) -> "Split":
        """Return the split with only these rows, in this order."""
        arrays: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {name: a[indices] for name, a in arrays.items() if a is not None}
        return replace(self, **kept)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Splits of one source, with what a model and a report need to know about them.

    Attributes:
      name: the source string it was loaded from.
      task: `single` (one class per image), `multi` (several findings), `segmentation` (one class
        per pixel) or `detection` (boxes).
      num_classes: number of classes or findings, over all splits; of pixels (background included)
        or of kinds of boxes.
      class_names: their names, in target order.
      image_shape: `(H, W, C)`.
      splits: `train`, `val` and `test`. Select models on `val`, never on `test`.
      notes: one line for each thing about the data that a reader of results should know.
    """

    name: str
    task: str
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()

    @property
    def train(self) -> Split:
        """Return the training split."""
        return self.splits["train"]

    @property
    def val(self) -> Split:
        """Return the validation split."""
        return self.splits["val"]

    @property
    def test(self) -> Split:
        """Return the test split."""
        return self.splits["test"]
