import numpy as np
import pytest

from advjax import metrics
from advjax.metrics import _bootstrap


def _naive(values, num, seed):
    n = values.shape[-1]
    drawn = np.random.default_rng([seed, n]).integers(n, size=(num, n))
    means = np.stack([values[..., row].mean(-1) for row in drawn])
    return np.quantile(means, [0.025, 0.975], axis=0)


def test_equals_the_naive_bootstrap():
    values = np.random.default_rng(0).random((3, 50)) < 0.4
    got = metrics.bootstrap(lambda w: metrics.weighted_mean(values, w), 50, num=300, seed=7)
    low, high = _naive(values, 300, 7)
    np.testing.assert_allclose(got.value, values.mean(1))
    np.testing.assert_allclose(got.low, low)
    np.testing.assert_allclose(got.high, high)


def test_chunks_do_not_change_the_resamples(monkeypatch):
    whole = np.concatenate(list(metrics.resamples(37, num=100, seed=3)))
    monkeypatch.setattr(_bootstrap, "_CHUNK", 37 * 7)
    parts = list(metrics.resamples(37, num=100, seed=3))
    assert len(parts) > 10
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole.sum(1) == 37).all()


def test_paired_difference_is_narrower_than_the_bands():
    rng = np.random.default_rng(1)
    first = rng.random(200) < 0.5
    second = first & (rng.random(200) < 0.95)  # agrees with the first nearly everywhere
    both = np.stack([first, second])
    band = metrics.bootstrap(lambda w: metrics.weighted_mean(both, w), 200)
    gap = metrics.bootstrap(
        lambda w: np.subtract(*metrics.weighted_mean(both, w).T[:, :, None]), 200
    )
    assert gap.value == pytest.approx(first.mean() - second.mean())
    assert np.all(gap.high - gap.low < (band.high - band.low).max() / 2)


def test_fast_path_is_the_limit_of_many_resamples():
    flags = np.random.default_rng(2).random((4, 90)) < np.array([[0.1], [0.5], [0.9], [0.02]])
    fast = metrics.proportion_interval(flags)
    slow = metrics.bootstrap(lambda w: metrics.weighted_mean(flags, w), 90, num=40_000)
    np.testing.assert_allclose(fast.value, slow.value)
    np.testing.assert_allclose(fast.low, slow.low, atol=1.01 / 90)
    np.testing.assert_allclose(fast.high, slow.high, atol=1.01 / 90)


def test_fast_path_against_scipy_also_for_many_examples():
    from scipy.stats import binom

    for hits, total in [(1, 3), (64, 128), (7, 1000), (999_000, 1_000_000)]:
        flags = np.arange(total) < hits
        got = metrics.proportion_interval(flags)
        expected = binom.ppf([0.025, 0.975], total, hits / total) / total
        np.testing.assert_allclose([got.low, got.high], expected, rtol=0, atol=1e-12)


def test_zero_and_one_have_no_width():
    got = metrics.proportion_interval([[True] * 5, [False] * 5])
    np.testing.assert_array_equal(got.low, [1, 0])
    np.testing.assert_array_equal(got.high, [1, 0])


def test_zero_over_zero():
    values, where = np.array([1.0, 2.0]), np.array([False, False])
    assert np.isnan(metrics.weighted_mean(values, np.ones((1, 2)), where)).all()
    got = metrics.bootstrap(lambda w: metrics.weighted_mean(values, w, where), 2, num=20)
    assert np.isnan([got.value, got.low, got.high]).all()
    # one example takes part: resamples without it are left out, the others all say 2
    where = np.array([False, True])
    got = metrics.bootstrap(lambda w: metrics.weighted_mean(values, w, where), 2, num=20)
    assert (got.value, got.low, got.high) == (2.0, 2.0, 2.0)


def test_nan_outside_the_part_does_not_leak():
    values = np.array([[np.nan, 1.0], [3.0, np.nan]])
    got = metrics.weighted_mean(values, np.ones((1, 2)), ~np.isnan(values))
    np.testing.assert_array_equal(got, [[1.0, 3.0]])


def test_bad_input():
    with pytest.raises(ValueError, match="at least one example"):
        list(metrics.resamples(0))
    with pytest.raises(ValueError, match="coverage"):
        metrics.proportion_interval([True], level=95)
    with pytest.raises(ValueError, match="last axis"):
        metrics.proportion_interval([])
