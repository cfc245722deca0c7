"""Statistics of weighted examples, `[R, N] -> [R]` or `[R, ...]`, for one pass over resamples."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from advjax import metrics
from advjax.report._results import Array


def mean(values: Array, where: Array | None = None) -> Callable[[Array], Array]:
    """Statistic: the mean over examples; NaN where a value is NaN."""
    missing = np.isnan(values).any(-1) if values.dtype.kind == "f" else None
    clean = np.nan_to_num(values) if missing is not None else values

    def statistic(weights: Array) -> Array:
        mean = metrics.weighted_mean(clean, weights, where)
        return mean if missing is None else np.where(missing, np.nan, mean)

    return statistic


def macro(flags: Array, where: Array) -> Callable[[Array], Array]:
    """Statistic: the mean over questions of a share, `[Q, N] -> [R]`."""
    return lambda weights: nanmean(metrics.weighted_mean(flags, weights, where))


def auroc(scores: Array, positive: Array, part: Array) -> Callable[[Array], Array]:
    """Statistic: the mean AUROC over questions, `[Q, N] -> [R]`."""

    def statistic(weights: Array) -> Array:
        found = [
            metrics.weighted_auroc(score, yes, weights)
            if inside.all()
            else metrics.weighted_auroc(score[inside], yes[inside], weights[:, inside])
            for score, yes, inside in zip(scores, positive, part, strict=True)
        ]
        return nanmean(np.stack(found, 1))

    return statistic


def together(parts: Sequence[Callable[[Array], Array]]) -> Callable[[Array], Array]:
    """Stack statistics, one per budget."""
    return lambda weights: np.stack([part(weights) for part in parts], 1)


def nanmean(values: Array) -> Array:
    """Mean over the last axis of what is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=-1)
