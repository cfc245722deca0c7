"""The two figures of robustness, never mixed, and the size of perturbations.

Both are shares of ALL examples; an example wrong before any attack counts as broken.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from advjax.metrics._types import Array, examples


class NormSummary(NamedTuple):
    """Summary of one norm of perturbations, in pixel units [0, 1]; NaN without any example.

    Attributes:
      mean: arithmetic mean.
      median: half are smaller.
      p95: 95 % are smaller.
      largest: the maximum.
      num: how many perturbations.
    """

    mean: float
    median: float
    p95: float
    largest: float
    num: int


class Norms(NamedTuple):
    """Norms of perturbations, each `[N]`: largest change, Euclidean, sum, values changed."""

    linf: Array
    l2: Array
    l1: Array
    l0: Array


def broken_alone(success: ArrayLike, wrong_when_clean: ArrayLike) -> Array:
    """Whether an example is broken at each budget taken alone, `[E, N]`.

    Args:
      success: `[E, N]`, the attack at budget e succeeded.
      wrong_when_clean: `[N]`, wrong before any attack.

    Raises:
      ValueError: no budget, no example, or shapes that do not fit.
    """
    hit, wrong = _flags(success, wrong_when_clean)
    return hit | wrong


def broken_up_to(success: ArrayLike, wrong_when_clean: ArrayLike) -> Array:
    """Whether an example is broken at this or any smaller budget, `[E, N]`.

    Args:
      success: `[E, N]`, rows in increasing order of the budget.
      wrong_when_clean: `[N]`.

    Raises:
      ValueError: no budget, no example, or shapes that do not fit.
    """
    return np.logical_or.accumulate(broken_alone(success, wrong_when_clean), axis=0)


def accuracy_under_attack(success: ArrayLike, wrong_when_clean: ArrayLike) -> Array:
    """Share of all examples that the attack at each budget alone leaves right, `[E]`.

    It can rise with the budget: an attack may miss at a large budget what it hits at a small one.
    For what a model withstands, see `robust_accuracy`.

    Args:
      success: `[E, N]`.
      wrong_when_clean: `[N]`.

    Raises:
      ValueError: no budget, no example, or shapes that do not fit.
    """
    return 1.0 - broken_alone(success, wrong_when_clean).mean(1)


def robust_accuracy(success: ArrayLike, wrong_when_clean: ArrayLike) -> Array:
    """Share of all examples not broken at this or any smaller budget, `[E]`; never rises.

    Args:
      success: `[E, N]`, rows in increasing order of the budget.
      wrong_when_clean: `[N]`.

    Raises:
      ValueError: no budget, no example, or shapes that do not fit.
    """
    return 1.0 - broken_up_to(success, wrong_when_clean).mean(1)


def minimal_budget(success: ArrayLike, wrong_when_clean: ArrayLike, epsilons: ArrayLike) -> Array:
    """Smallest budget that broke each example, `[N]`: 0 when wrong clean, infinity when never.

    `robust_accuracy[e]` is the share with `minimal_budget > epsilons[e]`.

    Args:
      success: `[E, N]`.
      wrong_when_clean: `[N]`.
      epsilons: `[E]`, strictly increasing.

    Raises:
      ValueError: shapes that do not fit, or budgets that do not increase.
    """
    hit, wrong = _flags(success, wrong_when_clean)
    eps = np.asarray(epsilons, np.float64)
    if eps.shape != hit.shape[:1] or (np.diff(eps) <= 0).any():
        raise ValueError(
            f"epsilons: expected {hit.shape[0]} strictly increasing budgets, one per row of success"
        )
    first = np.where(hit.any(0), eps[hit.argmax(0)], np.inf)
    return np.where(wrong, 0.0, first)


def perturbation_norms(x_adv: ArrayLike, x: ArrayLike) -> Norms:
    """Measure perturbations in float64 on the host.

    Args:
      x_adv: `[N, ...]`, changed images.
      x: `[N, ...]`, clean images.

    Returns:
      Norms, each `[N]`.

    Raises:
      ValueError: there is no example, or the shapes differ.
    """
    changed, clean = examples("perturbation_norms", x_adv, x)
    if changed.shape != clean.shape:
        raise ValueError(f"perturbation_norms: shapes differ, {changed.shape} and {clean.shape}")
    delta = np.abs(changed.astype(np.float64) - clean).reshape(len(clean), -1)
    return Norms(
        linf=delta.max(1),
        l2=np.sqrt((delta**2).sum(1)),
        l1=delta.sum(1),
        l0=(delta > 0).sum(1).astype(np.float64),
    )


def norm_summary(norms: ArrayLike) -> NormSummary:
    """Summarise one norm over examples.

    Args:
      norms: `[N]`; may be empty, then every number is NaN and the count 0.

    Raises:
      ValueError: the array is not `[N]`, or a norm is negative or not finite.
    """
    values = np.asarray(norms, np.float64)
    if values.ndim != 1:
        raise ValueError(f"norm_summary: expected norms [N], got shape {values.shape}")
    if values.size == 0:
        return NormSummary(np.nan, np.nan, np.nan, np.nan, 0)
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("norm_summary: norms must be finite and not negative")
    median, p95 = np.quantile(values, [0.5, 0.95])
    return NormSummary(
        float(values.mean()), float(median), float(p95), float(values.max()), values.size
    )


def _flags(success: ArrayLike, wrong_when_clean: ArrayLike) -> tuple[Array, Array]:
    """Check `[E, N]` and `[N]`."""
    hit, wrong = np.asarray(success, bool), np.asarray(wrong_when_clean, bool)
    if hit.ndim != 2 or wrong.shape != hit.shape[1:] or 0 in hit.shape:
        raise ValueError(
            f"success must be [E, N] and wrong_when_clean [N], none empty; "
            f"got {hit.shape} and {wrong.shape}"
        )
    return hit, wrong
