"""How labels go together, and how predictions under attack go with clean ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from advjax.metrics._types import Array, PerClass, examples, per_class


def co_occurrence(labels: ArrayLike) -> Array:
    """Count which labels are present together (Xu et al. 2021).

    Args:
      labels: `[N, K]` in {0, 1}, true ones or decisions; negative: unknown, counts as absent.

    Returns:
      `[K, K]` int64, symmetric: off the diagonal the examples with both labels, on it those with
      that label and no other.

    Raises:
      ValueError: no example, or labels that are not `[N, K]` in {0, 1}.
    """
    (found,) = examples("co_occurrence", labels)
    if found.ndim != 2 or not np.isin(found[found >= 0], (0, 1)).all():
        raise ValueError(
            f"co_occurrence: expected labels [N, K] in {{0, 1}}, negative where unknown, got "
            f"{found.dtype}{list(found.shape)}; decide probabilities by metrics.predicted first"
        )
    present = (found > 0).astype(np.int64)
    together = present.T @ present
    alone = present[present.sum(1) == 1].sum(0)
    np.fill_diagonal(together, alone)
    return together


def label_correlation(scores: ArrayLike, others: ArrayLike) -> Array:
    """Correlate every label of one prediction with every label of another (Pearson).

    With clean and adversarial scores, the diagonal says whether a label survives the attack, the
    rest which labels an attack trades for each other. With the same scores twice it is the
    correlation of the labels among themselves.

    Args:
      scores: `[N, K]`, probabilities, logits or decisions.
      others: `[N, K]`, of the same examples.

    Returns:
      `[K, K]` float64 in [-1, 1], row: label of `scores`, column: label of `others`. NaN where one
      of the two is the same for all examples (0/0).

    Raises:
      ValueError: no example, shapes that differ, or a score that is not finite.
    """
    first, second = _pair("label_correlation", scores, others)
    a, b = (_centred(values) for values in (first, second))
    product = a.T @ b
    length = np.outer(np.sqrt((a**2).sum(0)), np.sqrt((b**2).sum(0)))
    found = np.divide(product, length, out=np.full(product.shape, np.nan), where=length > 0)
    return np.clip(found, -1, 1)


def paired_correlation(
    scores: ArrayLike, others: ArrayLike, *, names: Sequence[str] | None = None
) -> PerClass:
    """Correlate each label of one prediction with itself in another, clean against adversarial.

    Args:
      scores: `[N, K]`.
      others: `[N, K]`, of the same examples.
      names: of the labels.

    Returns:
      Per label; a label that is the same for all examples on one side is undefined and named.

    Raises:
      ValueError: as for `label_correlation`, or another number of names than labels.
    """
    return per_class(label_correlation(scores, others).diagonal(), names)


def _pair(name: str, scores: ArrayLike, others: ArrayLike) -> tuple[Array, Array]:
    first, second = (a.astype(np.float64) for a in examples(name, scores, others))
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"{name}: expected [N, K] twice, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(f"{name}: scores must be finite; leave those examples out and say so")
    return first, second


def _centred(values: Array) -> Array:
    """Subtract the mean; exactly zero for a label that is the same for all examples."""
    return np.where((values == values[:1]).all(0), 0.0, values - values.mean(0))
