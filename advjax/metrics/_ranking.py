"""Area under the ROC curve by ranks, ties counted half."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from advjax.metrics._types import Array, PerClass, class_names, examples, per_class


def weighted_auroc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike) -> Array:
    """AUROC of one binary question, for many weightings of the examples at once.

    The share of pairs (positive, negative) in which the positive one has the larger score, a tie
    counting half (the Mann-Whitney statistic); a pair weighs the product of its weights.

    Args:
      scores: `[N]`, larger for positive.
      positive: `[N]` flags.
      weights: `[R, N]`, not negative; 0 leaves an example out.

    Returns:
      `[R]` float64; NaN where positives or negatives are missing.
    """
    scores, positive = np.asarray(scores), np.asarray(positive, bool)
    by_example = np.asarray(weights, np.float64).T
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    lost = np.zeros((negatives.size + 1, by_example.shape[1]))
    np.cumsum(by_example[negatives], axis=0, out=lost[1:])
    first = np.searchsorted(scores[negatives], scores[positive], side="left")
    last = np.searchsorted(scores[negatives], scores[positive], side="right")
    taken = by_example[positive]
    won = (taken * (lost[first] + lost[last])).sum(0) / 2
    pairs = taken.sum(0) * lost[-1]
    return np.divide(won, pairs, out=np.full(won.shape, np.nan), where=pairs > 0)


def auroc(scores: ArrayLike, target: ArrayLike, *, names: Sequence[str] | None = None) -> PerClass:
    """AUROC: binary, one class against the rest (macro mean), or per label (mean).

    Args:
      scores: `[N]` scores of class 1, `[N, 2]` (column 1 counts), `[N, C]`, or `[N, K]`
        with a multi-hot target. Any monotone scale: probabilities or logits.
      target: `[N]` classes, or `[N, K]` in {0, 1}, negative where unknown (left out per label).
      names: of the classes (two for a binary question).

    Returns:
      Per class, binary: `[1]`, for class 1. A class for which the examples are all positive or
      all negative has no AUROC: it is NaN, named in `undefined` and left out of the mean.

    Raises:
      ValueError: no example, shapes that do not fit, a class out of range, or a score that is NaN.
    """
    values, labels, positive, known = questions(scores, target, names)
    found = [
        weighted_auroc(score, yes, part[None].astype(np.float64))[0]
        for score, yes, part in zip(values, positive, known, strict=True)
    ]
    return per_class(np.array(found), labels)


def questions(
    scores: ArrayLike, target: ArrayLike, names: Sequence[str] | None = None
) -> tuple[Array, tuple[str, ...], Array, Array]:
    """Split a task into binary questions: binary one, multi-class C, multi-label K.

    Args:
      scores: as for `auroc`.
      target: as for `auroc`.
      names: of the classes.

    Returns:
      Scores `[Q, N]`, names of the questions, positives `[Q, N]`, known entries `[Q, N]`.

    Raises:
      ValueError: as for `auroc`.
    """
    scores, target = examples("auroc", scores, target)
    scores = scores.astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError("auroc: NaN among the scores; leave those examples out and say so")
    if target.ndim == 2:
        if scores.shape != target.shape:
            raise ValueError(f"auroc: scores {scores.shape} do not fit labels {target.shape}")
        return scores.T, class_names(names, target.shape[1]), target.T > 0, target.T >= 0
    if target.ndim != 1 or scores.ndim > 2 or (scores.ndim == 2 and scores.shape[1] < 2):
        raise ValueError(f"auroc: scores {scores.shape} do not fit target {target.shape}")
    count = scores.shape[1] if scores.ndim == 2 else 2
    if target.min() < 0 or target.max() >= count:
        raise ValueError(f"auroc: classes must lie in 0..{count - 1}, got {target.max()}")
    labels = class_names(names, count)
    classes = np.arange(count)
    values = scores.T if scores.ndim == 2 else np.stack([-scores, scores])
    if count == 2:
        values, classes, labels = values[1:], classes[1:], labels[1:]
    positive = target == classes[:, None]
    return values, labels, positive, np.ones(positive.shape, bool)
