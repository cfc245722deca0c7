"""Batches without state: seed, epoch and batch number say which examples come."""

from collections.abc import Iterator

import numpy as np

from advjax.data._spec import Split
from advjax.types import Batch

PADDING_ID = -1


def num_batches(split: Split, batch_size: int) -> int:
    """Return the number of batches of one epoch, the last one padded.

    Raises:
      ValueError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return -(-len(split) // batch_size)


def epoch_order(
    split: Split, *, seed: int = 0, epoch: int = 0, shuffle: bool = False, balanced: bool = False
) -> np.ndarray:
    """Return the rows `[N]` of one epoch in order; a function of its arguments alone.

    Args:
      split: the examples.
      seed: at least 0.
      epoch: at least 0.
      shuffle: a permutation; False keeps the order of the split.
      balanced: as many examples of every class that the split has, to within one: those of a
        small class come repeatedly, some of a large one not at all. Needs `shuffle`.

    Raises:
      ValueError: `balanced` without `shuffle` or without one class per image, or a negative
        number.
    """
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed and epoch must be at least 0, got {seed} and {epoch}")
    number = len(split)
    if balanced and not shuffle:
        raise ValueError("balanced sampling is random; pass shuffle=True with balanced=True")
    if not shuffle:
        return np.arange(number)
    generator = np.random.default_rng([seed, epoch])
    if not balanced:
        return generator.permutation(number)
    if split.targets.ndim != 1:
        raise ValueError(
            "balanced sampling needs one class per image; several findings, masks and boxes are no "
            "classes to balance: set balanced=False"
        )
    classes = generator.permutation(np.unique(split.targets))
    drawn = []
    for k, value in enumerate(classes):
        wanted = number // len(classes) + (k < number % len(classes))
        rows = np.flatnonzero(split.targets == value)
        # whole permutations of a small class, so that no example comes twice more than another
        rounds = [generator.permutation(rows) for _ in range(-(-wanted // len(rows)))]
        drawn.append(np.concatenate([*rounds, rows[:0]])[:wanted])
    return generator.permutation(np.concatenate(drawn))


def batches(
    split: Split,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    balanced: bool = False,
    start: int = 0,
) -> Iterator[Batch]:
    """Yield the batches of one epoch as numpy arrays, all of the same size.

    Args:
      split: the examples.
      batch_size: rows of every batch.
      seed: seed of the order.
      epoch: number of the epoch; each has its own order.
      shuffle: see `epoch_order`.
      balanced: see `epoch_order`.
      start: number of the first batch to yield; the rest is exactly what a run that was never
        interrupted would have seen.

    Yields:
      Batch(image `[B, H, W, C]` float32 in [0, 1], target the rows of `Split.targets`, id `[B]`
      int32, valid `[B]` bool). Rows that fill up the last batch repeat its first rows (so that they
      are ordinary images for batch statistics), have `valid` False and id -1.

    Raises:
      ValueError: a number out of range; raised at the call, before the first batch.
    """
    total = num_batches(split, batch_size)
    if not 0 <= start <= total:
        raise ValueError(f"start must be in [0, {total}], the number of batches, got {start}")
    order = epoch_order(split, seed=seed, epoch=epoch, shuffle=shuffle, balanced=balanced)

    def generate() -> Iterator[Batch]:
        for number in range(start, total):
            rows = order[number * batch_size : (number + 1) * batch_size]
            yield make_batch(split, rows, batch_size)

    return generate()


def make_batch(split: Split, rows: np.ndarray, batch_size: int) -> Batch:
    """Gather rows into one padded batch; see `batches`.

    Args:
      split: the examples.
      rows: `[n]` indices, 1 <= n <= batch_size.
      batch_size: rows of the batch.

    Raises:
      ValueError: no row, or more than `batch_size`.
    """
    if not 1 <= len(rows) <= batch_size:
        raise ValueError(f"rows must be 1 to {batch_size} indices, got {len(rows)}")
    valid = np.arange(batch_size) < len(rows)
    filled = np.resize(rows, batch_size)
    images = split.images[filled]
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    ids = np.where(valid, split.ids[filled], PADDING_ID).astype(np.int32)
    return Batch(image=images, target=split.targets[filled], id=ids, valid=valid)
