"""Percentile bootstrap: the same resamples for everything measured on the same examples.

A resample of N examples is a vector of N counts. A metric that can weigh its examples is
therefore bootstrapped by one call with weights `[R, N]`, and metrics that share the seed share
the resamples: the bands of a curve over budgets, and the difference of two models, are paired.

    share = lambda weights: metrics.weighted_mean(correct, weights)      # correct: [E, N]
    value, low, high = metrics.bootstrap(share, num_examples)            # each [E]

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from advjax.metrics._types import Array, Interval

_CHUNK = 4_000_000  # weights held at once: 32 MB of float64


def weighted_mean(values: ArrayLike, weights: ArrayLike, where: ArrayLike | None = None) -> Array:
    """Mean over examples, for many weightings at once.

    Accuracy, sensitivity, specificity, mean confidence and mean norms all are such means.

    Args:
      values: `[..., N]` numbers or flags.
      weights: `[R, N]`, not negative.
      where: flags that broadcast to `[..., N]`, the examples that take part; None: all.

    Returns:
      `[R, ...]` float64; 0/0 is NaN: no example with a positive weight takes part.
    """
    values = np.asarray(values, np.float64)
    weights = np.asarray(weights, np.float64)
    part = np.ones(values.shape[-1:], bool) if where is None else np.asarray(where, bool)
    part = np.broadcast_to(part, np.broadcast_shapes(part.shape, values.shape))
    kept = np.where(part, values, 0.0)
    total = weights @ kept.reshape(-1, kept.shape[-1]).T
    mass = weights @ part.reshape(-1, part.shape[-1]).T
    mean = np.divide(total, mass, out=np.full(total.shape, np.nan), where=mass > 0)
    return mean.reshape(weights.shape[0], *kept.shape[:-1])


def resamples(num_examples: int, *, num: int = 1000, seed: int = 0) -> Iterator[Array]:
    """Yield the counts of `num` resamples with replacement, in chunks `[r, N]` of bounded size.

    Args:
      num_examples: N.
      num: how many resamples in all.
      seed: the same seed and N give the same resamples, whatever the chunks are.

    Raises:
      ValueError: there is no example or no resample.
    """
    if num_examples < 1 or num < 1:
        raise ValueError(
            f"bootstrap: needs at least one example and one resample, got {num_examples} and {num}"
        )
    rng = np.random.default_rng([seed, num_examples])
    rows = max(1, _CHUNK // num_examples)
    for start in range(0, num, rows):
        count = min(rows, num - start)
        drawn = rng.integers(num_examples, size=(count, num_examples))
        drawn += np.arange(count)[:, None] * num_examples
        counts = np.bincount(drawn.ravel(), minlength=count * num_examples)
        # one example's weights lie side by side: picking and summing examples is what follows
        yield counts.reshape(count, num_examples).astype(np.float64, order="F")


def bootstrap(
    statistic: Callable[[Array], Array],
    num_examples: int,
    *,
    num: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of anything that can weigh its examples.

    Args:
      statistic: weights `[R, N] -> [R, ...]`, such as `weighted_mean` of some values.
      num_examples: N.
      num: how many resamples.
      seed: of the resamples.
      level: coverage, 0.95 for a 95 % interval.

    Returns:
      The statistic of the data itself and the percentiles, each `[...]`. A resample in which the
      statistic does not exist (0/0) is left out; where it exists in none, all three are NaN.
      A share of exactly 0 or 1 gets an interval of no width: that is the method's limit.

    Raises:
      ValueError: there is no example or resample, or the level is not between 0 and 1.
    """
    tail = _tail(level)
    value = np.asarray(statistic(np.ones((1, num_examples))), np.float64)[0]
    chunks = [statistic(counts) for counts in resamples(num_examples, num=num, seed=seed)]
    drawn = np.asarray(np.concatenate(chunks), np.float64).reshape(num, -1)
    flat = np.full((2, drawn.shape[1]), np.nan)
    whole = ~np.isnan(drawn).any(axis=0)
    flat[:, whole] = np.quantile(drawn[:, whole], [tail, 1 - tail], axis=0)
    for column in np.flatnonzero(~whole & ~np.isnan(value.reshape(-1))):
        exists = drawn[~np.isnan(drawn[:, column]), column]
        if exists.size:
            flat[:, column] = np.quantile(exists, [tail, 1 - tail])
    low, high = flat.reshape(2, *value.shape)
    return Interval(value, low, high)


def proportion_interval(flags: ArrayLike, *, level: float = 0.95) -> Interval:
    """The percentile bootstrap of a share, without drawing: its limit of infinitely many resamples.

    A resampled share of N flags, k of them true, is exactly Binomial(N, k/N) / N.

    Args:
      flags: `[..., N]` bool.
      level: coverage.

    Returns:
      Shares and percentiles, each `[...]`.

    Raises:
      ValueError: there is no example, or the level is not between 0 and 1.
    """
    flags = np.asarray(flags, bool)
    if flags.ndim == 0 or flags.shape[-1] == 0:
        raise ValueError("proportion_interval: needs at least one example on the last axis")
    total, tail = flags.shape[-1], _tail(level)
    hits = flags.sum(-1)
    found = {int(k): _binomial_quantiles(int(k), total, tail) for k in np.unique(hits)}
    bounds = np.array([found[int(k)] for k in hits.ravel()]).reshape(*hits.shape, 2) / total
    return Interval(hits / total, bounds[..., 0], bounds[..., 1])


def _binomial_quantiles(hits: int, total: int, tail: float) -> tuple[int, int]:
    """Return both quantiles of Binomial(total, hits/total)."""
    if hits in (0, total):
        return hits, hits
    share = hits / total
    reach = int(12 * math.sqrt(total * share * (1 - share))) + 12  # beyond: less than 1e-30
    k = np.arange(max(0, hits - reach), min(total, hits + reach) + 1)
    # the ratio of neighbouring terms: no factorial of a large number
    ratios = np.log((total - k[:-1]) / (k[:-1] + 1) * share / (1 - share))
    log_mass = np.concatenate([[0.0], np.cumsum(ratios)])
    mass = np.exp(log_mass - log_mass.max())
    below = np.cumsum(mass) / mass.sum()
    low, high = np.searchsorted(below, [tail, 1 - tail])
    return int(k[low]), int(k[min(high, k.size - 1)])


def _tail(level: float) -> float:
    """Return the mass of one tail."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a coverage between 0 and 1 such as 0.95, got {level}")
    return (1 - level) / 2
