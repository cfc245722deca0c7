"""Deterministic choices of rows: subsets, hold-outs and identities."""

import numpy as np

from advjax import random


def stratified_order(targets: np.ndarray, seed: int) -> np.ndarray:
    """Order rows so that every prefix has each class in its overall share, as nearly as it can.

    Args:
      targets: `[N]` classes, or anything else (then the order is random).
      seed: seed of the order within a class.

    Returns:
      `[N]` indices. A longer prefix contains the shorter one.
    """
    shuffled = np.random.default_rng([seed, 0x5117]).permutation(len(targets))
    if targets.ndim != 1:
        return shuffled
    score = np.empty(len(targets))
    for value in np.unique(targets):
        rows = shuffled[targets[shuffled] == value]
        score[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return shuffled[np.argsort(score[shuffled], kind="stable")]


def hold_out(
    targets: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int
) -> np.ndarray:
    """Choose about `fraction` of the rows; a group is chosen whole or not at all.

    Args:
      targets: `[N]` classes, kept in proportion, or anything else.
      groups: `[N]` names of patients, or None where every row is its own group.
      fraction: share of the rows, in (0, 1).
      seed: seed of the choice.

    Returns:
      `[N]` bool; the smallest group alone where all are too large for `fraction`, and all False
      when no choice leaves both sides with a row.
    """
    of_row = np.arange(len(targets))
    first = of_row
    if groups is not None:
        _, first, of_row = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(of_row)
    chosen = np.zeros(len(first), bool)
    room = max(1, round(fraction * len(targets)))
    order = stratified_order(targets[first], seed)
    for unit in order:
        # a group much larger than the room left stays in training
        if sizes[unit] <= max(1, 1.5 * room) and room > 0 and chosen.sum() + 1 < len(first):
            chosen[unit] = True
            room -= int(sizes[unit])
    if not chosen.any() and len(first) > 1:
        chosen[order[np.argmin(sizes[order])]] = True
    return chosen[of_row]


def described(count: int, groups: np.ndarray | None) -> str:
    """Say how many images there are, and of how many groups (patients) `[N]` where known."""
    of = "" if groups is None else f" of {len(np.unique(groups))} group(s)"
    return f"{count} images{of}"


def to_ids(names: list[np.ndarray | None], sizes: list[int]) -> list[np.ndarray]:
    """Give every example of every split an int32 identity, unique and stable.

    Args:
      names: for each split `[N]` strings or integers, or None where the source has none.
      sizes: number of examples of each split.

    Returns:
      For each split `[N]` int32. Integers in [0, 2**31) are kept where all are unique; strings
      are hashed (CRC-32), clashes and repeats hashed again with a counter; without names,
      examples are numbered through all splits.
    """
    if all(n is not None and n.dtype.kind in "iu" for n in names):
        every = np.concatenate([np.asarray(n, np.int64) for n in names if n is not None])
        if len(np.unique(every)) == len(every) and every.min() >= 0 and every.max() < 2**31:
            return np.split(every.astype(np.int32), np.cumsum(sizes)[:-1])
    taken: set[int] = set()
    ids = []
    start = 0
    for given, size in zip(names, sizes, strict=True):
        texts = [str(n) for n in given] if given is not None else None
        rows = np.empty(size, np.int32)
        for row in range(size):
            value = start + row if texts is None else random.stable_id(texts[row])
            again = 0
            while value in taken:
                again += 1
                value = random.stable_id(f"{start + row if texts is None else texts[row]}#{again}")
            taken.add(value)
            rows[row] = value
        ids.append(rows)
        start += size
    return ids
