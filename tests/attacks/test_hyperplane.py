"""Steps to a hyperplane within a box: official ones, bisection in float64, and degenerate cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks._hyperplane import NORMS, step_to_hyperplane


@functools.partial(jax.jit, static_argnums=0)
def steps(norm, x, w, residual, low, high):
    def one(x, w, residual):
        return step_to_hyperplane(norm, x, w, residual, low, high)

    return jax.vmap(one)(x, w, residual)


def bisect(rises, target):
    """The number at which a function that does not fall passes the target."""
    low, high = 0.0, 1.0
    while rises(high) < target:
        high *= 2
        if high > 1e12:
            return np.inf
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < target else (low, middle)
    return high


def shortest(norm, x, w, residual, low, high):
    """Length of the shortest step; to the nearest point of the box where none is long enough."""
    scale = np.abs(w).max() or 1
    weight, missing = np.abs(w) / scale, abs(residual) / scale
    room = np.where(np.sign(w) * residual > 0, x - low, high - x) * (weight > 0)
    if weight @ room <= missing:
        return {"linf": room.max(), "l2": np.linalg.norm(room), "l1": room.sum()}[norm]
    if norm == "linf":
        return bisect(lambda level: weight @ np.minimum(room, level), missing)
    if norm == "l2":
        level = bisect(lambda level: weight @ np.minimum(room, level * weight), missing)
        return np.linalg.norm(np.minimum(room, level * weight))
    # the dual problem: the price of a unit of weight at which enough is sold
    price = bisect(lambda price: (weight * room)[price * weight > 1].sum(), missing)
    return price * missing - (np.maximum(price * weight - 1, 0) * room).sum()


def cases():
    """Rows of 12 coordinates in [-1, 2], named by what is special about them."""
    rng = np.random.default_rng(0)
    x, w = rng.uniform(-1, 2, size=(30, 12)), rng.normal(size=(30, 12))
    residual = rng.uniform(-1, 1, size=30) * np.abs(w).sum(1)
    w[5:10] *= rng.integers(0, 2, size=(5, 12))  # zeros
    residual[10] = 0  # on the hyperplane
    residual[11:14] *= 100  # out of reach
    w[14] = 0
    w[15:18] = np.sign(w[15:18])  # ties
    x[18:21] = rng.choice([-1.0, 2.0], size=(3, 12))  # corners
    w[21, 1:] = 0  # one weight
    w[22:24] *= 1e-12
    residual[22:24] *= 1e-12
    w[24, :6] *= 1e-15  # hardly any weight, next to some
    x[25], w[25], residual[25] = 2, -1, 5  # at the bound already
    return x, w, residual


@pytest.mark.parametrize("norm", NORMS)
def test_shortest_step_that_bisection_finds(norm, x64):
    x, w, residual = cases()
    d = np.asarray(steps(norm, *map(jnp.asarray, (x, w, residual)), -1.0, 2.0))
    assert ((x + d >= -1 - 1e-12) & (x + d <= 2 + 1e-12)).all()
    room = np.where(np.sign(w) * residual[:, None] > 0, x + 1, 2 - x)
    reach = (np.abs(w) * room).sum(1)
    left = residual + (w * d).sum(1)
    expected = np.sign(residual) * np.maximum(np.abs(residual) - reach, 0)
    scale = np.abs(w).max(1) + (w == 0).all(1)
    np.testing.assert_allclose(left / scale, expected / scale, atol=1e-10)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    lengths = [shortest(norm, *row, -1, 2) for row in zip(x, w, residual, strict=True)]
    np.testing.assert_allclose(np.linalg.norm(d, order, axis=1), lengths, rtol=1e-9, atol=1e-12)
    assert (d[10] == 0).all()
    assert (d[14] == 0).all()
    assert (reach < np.abs(residual)).any()
    assert (reach > np.abs(residual)).sum() > 10


@pytest.mark.parametrize("norm", NORMS)
def test_float32_and_large_points(norm):
    rng = np.random.default_rng(1)
    x, w = rng.uniform(size=(4, 20_000)), rng.normal(size=(4, 20_000)) * 1e-25
    residual = np.asarray([0.1, -3, 0.0, 0.3]) * np.abs(w).sum(1)
    d = steps(norm, *(jnp.asarray(a, jnp.float32) for a in (x, w, residual)), 0.0, 1.0)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    lengths = [shortest(norm, *row, 0, 1) for row in zip(x, w, residual, strict=True)]
    found = np.linalg.norm(np.asarray(d, np.float64), order, axis=1)
    np.testing.assert_allclose(found, lengths, rtol=1e-4, atol=1e-12)
    half = steps(norm, *(jnp.asarray(a, jnp.float16) for a in (x, w * 1e25, residual * 1e20)), 0, 1)
    assert half.dtype == jnp.float32
    assert np.isfinite(half).all()


@pytest.mark.parametrize("norm", NORMS)
def test_without_bounds_it_is_the_dual_norm(norm):
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(3, 9)), rng.normal(size=(3, 9))
    residual = np.asarray([2.0, -0.5, 0.0])
    d = steps(norm, *(jnp.asarray(a, jnp.float32) for a in (x, w, residual)), -np.inf, np.inf)
    order, dual = {"linf": (np.inf, 1), "l2": (2, 2), "l1": (1, np.inf)}[norm]
    expected = np.abs(residual) / np.linalg.norm(w, dual, axis=1)
    np.testing.assert_allclose(np.linalg.norm(d, order, axis=1), expected, rtol=1e-5)


def test_unknown_norm():
    with pytest.raises(ValueError, match="linf, l2, l1"):
        step_to_hyperplane("l0", jnp.zeros(2), jnp.ones(2), jnp.ones(()), 0, 1)


@pytest.mark.golden
@pytest.mark.parametrize("net", ["net_rgb_7class", "net_gray_2class"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_official_steps(net, norm, golden_dir, x64):
    golden = np.load(golden_dir / f"{net}.npz")
    x, w, b = (jnp.asarray(golden[f"fab_projection/{name}"]) for name in ("points", "w", "b"))
    d = steps(norm.lower(), x, w, (w * x).sum(1) - b, 0.0, 1.0)
    np.testing.assert_allclose(d, golden[f"fab_projection/{norm}"], atol=1e-5)
