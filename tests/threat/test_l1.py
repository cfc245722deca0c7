"""The l1 and the l0 ball: exact projections, samples, directions, masks, infinite budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import threat

RNG = np.random.default_rng(0)
INF = jnp.inf


def bisected(x, x0, eps, low=0.0, high=1.0):
    """Project one vector by bisection of the threshold, in float64: slow, and plain to see."""
    size, side = np.abs(x - x0), np.sign(x - x0)
    room = np.where(side > 0, high - x0, x0 - low)
    if np.minimum(size, room).sum() <= eps:
        return np.clip(x, low, high)
    below, above = 0.0, size.max()
    for _ in range(200):
        middle = (below + above) / 2
        if np.clip(size - middle, 0, room).sum() > eps:
            below = middle
        else:
            above = middle
    return x0 + side * np.clip(size - above, 0, room)


def points(rows, shape, spread, seed=0):
    """Images, some pixels of which stand at the bounds, and points far from them."""
    rng = np.random.default_rng(seed)
    x0 = np.clip(rng.uniform(-0.2, 1.2, (rows, *shape)), 0, 1)
    return x0, x0 + rng.normal(size=(rows, *shape)) * spread


@pytest.mark.sample(2)
@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_l1_projection_is_the_one_of_bisection(spread, x64):
    x0, x = points(40, (37,), spread)
    eps = np.geomspace(1e-3, 20, 40)
    project = jax.jit(threat.over_rows(threat.l1()).project)
    exact = np.stack([bisected(*row) for row in zip(x, x0, eps, strict=True)])
    np.testing.assert_allclose(project(x, x0, eps), exact, atol=1e-13 * max(1, spread))
    single = [jnp.asarray(a, jnp.float32) for a in (x, x0, eps)]
    np.testing.assert_allclose(project(*single), exact, atol=1e-6 * max(1, spread))


def test_l1_projection_of_ties_and_whole_numbers(x64):
    x0 = np.asarray([[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.25, 0.75]])
    x = x0 + np.asarray([[1.0, 1, 1, 1], [1.0, 1, -1, 1], [-1.0, 1, 0.5, -0.5]])
    eps = np.asarray([1.0, 1.0, 0.5])
    expected = np.asarray([[0.75] * 4, [1 / 3, 1 / 3, 2 / 3, 1.0], [0.0, 1.0, 0.5, 0.5]])
    project = threat.over_rows(threat.l1()).project
    np.testing.assert_allclose(project(x, x0, eps), expected, atol=1e-15)


@pytest.mark.golden
@pytest.mark.parametrize("net", ["net_rgb_7class", "net_gray_2class"])
def test_l1_projection_is_the_official_one(net, golden_dir, x64):
    golden = np.load(golden_dir / f"{net}.npz")
    x0, delta = golden["l1_box_projection/x"], golden["l1_box_projection/delta"]
    eps = np.full(len(x0), golden["l1_box_projection/eps"])
    projected = threat.over_rows(threat.l1()).project(x0 + delta, x0, eps)
    # the official code is that far from its own optimum: the bisection is nearer to ours
    official = golden["l1_box_projection/projected_delta"]
    np.testing.assert_allclose(projected - x0, official, atol=1e-5, rtol=0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_l1_budget_is_kept_where_many_values_round(dtype, x64):
    x0, x = (jnp.asarray(a, dtype) for a in points(3, (64, 64, 3), 0.05))
    rows = threat.over_rows(threat.l1())
    for eps in (0.5, 12.0, 100.0):
        once = rows.project(x, x0, jnp.full(3, eps, dtype))
        changes = np.abs(np.asarray(once, np.float64) - np.asarray(x0, np.float64))
        total = changes.reshape(3, -1).sum(1)
        np.testing.assert_allclose(total, eps, rtol=1e-3 if dtype == jnp.float32 else 1e-11)
        assert (total <= eps * (1 + 4 * jnp.finfo(dtype).eps)).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_an_infinite_budget_leaves_the_bounds_only(norm):
    ball = threat.by_name(norm, (-1.0, 2.0))
    x0, x = (jnp.asarray(a[0], jnp.float32) for a in points(1, (4, 5, 2), 3.0))
    assert (ball.project(x, x0, INF) == jnp.clip(x, -1, 2)).all()
    filled = ball.sample(jax.random.key(0), x0, INF)
    assert jnp.isfinite(filled).all()
    assert (ball.project(filled, x0, INF) == filled).all()


def test_l1_samples_are_uniform():
    flat, eps = jnp.full((3,), 0.5), jnp.asarray(0.1)
    keys = jax.random.split(jax.random.key(2), 500)
    away = jax.vmap(lambda k: threat.l1().sample(k, flat, eps))(keys) - 0.5
    radius = jnp.abs(away).sum(1)
    # of d dimensions, as in every ball: below r with probability (r / eps) ** d
    np.testing.assert_allclose((radius < 0.08).mean(), 0.8**3, atol=0.08)
    np.testing.assert_allclose(away.mean(0), 0, atol=0.01)
    assert radius.max() > 0.098


def test_l1_direction_changes_the_first_of_the_largest_gradients():
    ball = threat.l1()
    g = jnp.asarray([[1.0, -3.0], [3.0, 0.5]])
    np.testing.assert_array_equal(ball.steepest(g), [[0, -1], [0, 0]])
    assert ball.dual_norm(g) == 3
    assert ball.distance(g, jnp.zeros_like(g)) == 7.5


def test_l0_keeps_the_largest_changes():
    ball = threat.l0()
    x0 = jnp.asarray([0.1, 0.5, 0.9, 0.3, 0.4])
    x = jnp.asarray([0.4, 0.5, 0.4, 0.1, 0.6])
    for eps, expected in (
        (0.9, x0),
        (1, [0.1, 0.5, 0.4, 0.3, 0.4]),
        (2.7, [0.4, 0.5, 0.4, 0.3, 0.4]),
        (4, x),
    ):
        projected = ball.project(x, x0, jnp.asarray(eps))
        np.testing.assert_array_equal(projected, jnp.asarray(expected))
        assert ball.distance(projected, x0) == min(int(eps), 4)


def test_l0_projection_is_the_nearest_point():
    """Of all choices of 2 values out of 5, also where values are beyond the bounds."""
    x0s, xs = points(30, (5,), 0.8, seed=1)
    project = threat.over_rows(threat.l0()).project
    found = project(jnp.asarray(xs), jnp.asarray(x0s), jnp.full(30, 2.0))
    for x, x0, one in zip(xs, x0s, found, strict=True):
        distances = []
        for chosen in np.ndindex(*(2,) * 5):
            if sum(chosen) <= 2:
                z = np.where(np.asarray(chosen) > 0, np.clip(x, 0, 1), x0)
                distances.append(np.sum((z - x) ** 2))
        np.testing.assert_allclose(np.sum((one - x) ** 2), min(distances), rtol=1e-5, atol=1e-6)


def test_l0_ties_go_to_the_first_and_the_count_holds():
    x0, x = jnp.full((2, 3), 0.5), jnp.full((2, 3), 0.75)
    projected = threat.l0().project(x, x0, jnp.asarray(2.0))
    np.testing.assert_array_equal(projected, [[0.75, 0.75, 0.5], [0.5, 0.5, 0.5]])


def test_l0_samples_change_as_many_values_as_they_may():
    x0 = jnp.full((4, 3, 2), 0.5)
    keys = jax.random.split(jax.random.key(0), 200)
    x = jax.vmap(lambda k: threat.l0().sample(k, x0, jnp.asarray(3.0)))(keys)
    changed = np.asarray(x != x0)
    assert (changed.reshape(200, -1).sum(1) == 3).all()
    # each of the 24 values in one of eight samples
    np.testing.assert_allclose(changed.mean(0), 3 / 24, atol=0.09)
    assert x.min() < 0.02
    assert x.max() > 0.98


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_masks_hold_the_changes(norm):
    mask = RNG.uniform(size=(3, 4, 5, 1)) > 0.5
    ball = threat.masked(threat.by_name(norm), mask)
    assert ball.name == f"{norm}-masked"
    rows = threat.over_rows(ball)
    x0, x = (jnp.asarray(a, jnp.float32) for a in points(3, (4, 5, 2), 0.5))
    eps = jnp.asarray([1.0, 3.0, INF])
    keys = jax.random.split(jax.random.key(0), 3)
    for moved in (rows.project(x, x0, eps), rows.sample(keys, x0, eps)):
        assert ((moved == x0) | mask).all()
        assert (rows.distance(moved, x0) <= eps * (1 + 1e-5)).all()
    one = threat.by_name(norm)
    for i in range(3):
        inside = jnp.where(mask[i], x[i], x0[i])
        np.testing.assert_allclose(
            rows.project(x, x0, eps)[i], one.project(inside, x0[i], eps[i]), atol=1e-6
        )


def test_l0_has_no_steepest_direction():
    with pytest.raises(ValueError, match="l0"):
        threat.masked(threat.l0(), jnp.ones((2, 2, 1))).steepest(jnp.ones((2, 2, 1)))
