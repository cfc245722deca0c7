"""TRIM finds the clean regression among poisoned points."""

import itertools

import jax
import numpy as np
import pytest

from advjax import poisoning

pytestmark = pytest.mark.unoptimised

KEY = jax.random.key(0)
WEIGHTS, BIAS = np.array([2.0, -1.0, 0.5, 3.0]), 0.7


def points(share, seed, noise=0.01):
    """A hundred points, some poisoned: all of them on another plane, where it hurts most."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (100, 4))
    y = x @ WEIGHTS + BIAS + noise * rng.normal(size=100)
    bad = rng.permutation(100) < round(100 * share)
    x[bad] = np.sign(x[bad])
    y[bad] = 8 - x[bad] @ WEIGHTS
    return x, y, bad


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_the_clean_regression_is_recovered(share, seed):
    x, y, bad = points(share, seed)
    found = poisoning.trim(x, y, num_kept=80, key=KEY)
    assert found.kept.sum() == 80
    assert not (np.asarray(found.kept) & bad).any()
    np.testing.assert_allclose(found.weights, WEIGHTS, atol=0.02)
    np.testing.assert_allclose(found.bias, BIAS, atol=0.02)
    if share == 0.2:
        # what is left is the least squares of the clean points
        rows = np.c_[x, np.ones(100)][~bad]
        exact = np.linalg.lstsq(rows, y[~bad], rcond=None)[0]
        np.testing.assert_allclose(found.weights, exact[:-1], atol=1e-4)
        plain = np.linalg.lstsq(np.c_[x, np.ones(100)], y, rcond=None)[0]
        assert abs(plain[:-1] - WEIGHTS).max() > 0.3


def test_all_points_are_a_ridge_regression():
    x, y, _ = points(0.2, 0)
    found = poisoning.trim(x, y, num_kept=100, key=KEY, ridge=2.5, num_restarts=1)
    centred = x - x.mean(0)
    exact = np.linalg.solve(centred.T @ centred + 2.5 * np.eye(4), centred.T @ (y - y.mean()))
    np.testing.assert_allclose(found.weights, exact, rtol=1e-4)
    np.testing.assert_allclose(found.bias, y.mean() - x.mean(0) @ exact, rtol=1e-4)


def test_turns_never_raise_the_loss():
    x, y, _ = points(0.3, 1, noise=0.5)
    losses = [
        float(poisoning.trim(x, y, num_kept=60, key=KEY, num_restarts=1, num_steps=n).loss)
        for n in range(6)
    ]
    assert all(after <= before * (1 + 1e-5) for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kept", [5, 101])
def test_how_many_can_be_kept(kept):
    x, y, _ = points(0.0, 0)
    with pytest.raises(ValueError, match="within D \\+ 2 = 6 and N = 100"):
        poisoning.trim(x, y, num_kept=kept, key=KEY)


def test_bad_points():
    x, y, _ = points(0.0, 0)
    with pytest.raises(ValueError, match="expected"):
        poisoning.trim(x, y[:3], num_kept=80, key=KEY)
    y[4] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        poisoning.trim(x, y, num_kept=80, key=KEY)
