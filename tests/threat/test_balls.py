"""Balls: nearest points, samples that fill the ball, masks, bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import threat
from advjax.attacks import fgsm, from_logits
from advjax.losses import cross_entropy

RNG = np.random.default_rng(0)
X0 = jnp.asarray(RNG.uniform(0.3, 0.7, (4, 5, 2)), jnp.float32)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_project_is_the_nearest_point_while_no_pixel_is_clipped(norm):
    ball = threat.by_name(norm)
    x = X0 + jnp.asarray(RNG.normal(size=X0.shape) * 0.05, jnp.float32)
    projected = ball.project(x, X0, jnp.asarray(0.04))
    best = jnp.linalg.norm(x - projected)
    for key in jax.random.split(jax.random.key(0), 200):
        assert jnp.linalg.norm(x - ball.sample(key, X0, jnp.asarray(0.04))) >= best - 1e-6


def test_points_inside_are_not_touched():
    for ball in (threat.linf(), threat.l2()):
        inside = ball.sample(jax.random.key(1), X0, jnp.asarray(0.05))
        assert (ball.project(inside, X0, jnp.asarray(0.06)) == inside).all()


def test_samples_reach_the_rim_and_both_sides():
    keys = jax.random.split(jax.random.key(2), 300)
    flat = jnp.full((3,), 0.5)
    linf = jax.vmap(lambda k: threat.linf().sample(k, flat, jnp.asarray(0.1)))(keys) - 0.5
    assert linf.max() > 0.097
    assert linf.min() < -0.097
    l2 = jax.vmap(lambda k: threat.l2().sample(k, flat, jnp.asarray(0.1)))(keys) - 0.5
    radius = jnp.linalg.norm(l2, axis=1)
    # uniform in a 3-ball: the radius is below r with probability (r / eps) ** 3
    np.testing.assert_allclose((radius < 0.08).mean(), 0.8**3, atol=0.1)
    np.testing.assert_allclose(l2.mean(0), 0, atol=0.01)


def test_bounds_may_be_arrays_per_channel():
    low, high = jnp.asarray([0.35, 0.0]), jnp.asarray([0.65, 1.0])
    ball = threat.linf(bounds=(low, high))
    x = ball.project(X0 + 1, X0, jnp.asarray(0.5))
    np.testing.assert_allclose(x[..., 0], np.minimum(0.65, X0[..., 0] + 0.5), atol=1e-6)
    assert x[..., 1].max() > 0.7


def test_l2_of_tiny_and_huge_vectors():
    ball = threat.l2()
    g = jnp.asarray([3e-30, 4e-30])
    np.testing.assert_allclose(ball.steepest(g), [0.6, 0.8], rtol=1e-5)
    np.testing.assert_allclose(ball.dual_norm(jnp.asarray([3e30, 4e30])), 5e30, rtol=1e-5)


def test_mask_per_row_and_shared_agree():
    mask = RNG.uniform(size=(3, 4, 5, 1)) > 0.5
    rows = threat.over_rows(threat.masked(threat.l2(), mask))
    x0 = jnp.stack([X0] * 3)
    x = x0 + 0.2
    eps = jnp.asarray([0.1, 0.2, 0.3])
    for i in range(3):
        one = threat.masked(threat.l2(), mask[i])
        np.testing.assert_allclose(rows.project(x, x0, eps)[i], one.project(x[i], x0[i], eps[i]))
        np.testing.assert_allclose(rows.steepest(x)[i], one.steepest(x[i]), rtol=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="low"):
        threat.linf(bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match="known"):
        threat.by_name("l7")
    with pytest.raises(ValueError, match=r"got \(\)"):
        threat.masked(threat.linf(), jnp.asarray(True))
    twice = threat.masked(threat.linf(), jnp.ones((2, 4, 5, 1)))
    with pytest.raises(ValueError, match="already"):
        threat.masked(twice, jnp.ones((4, 5, 1)))
    assert fgsm(from_logits(lambda x: x, loss=cross_entropy), twice).spec.ball.name == "linf-masked"
