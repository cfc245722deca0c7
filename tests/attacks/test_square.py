"""Square: its schedule and windows by hand, a linear model, odd shapes, and a trained net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, testing, threat
from advjax.attacks import _square, _square_l2, _windows
from advjax.random import example_keys

KEY = jax.random.key(3)


def test_schedule_is_the_published_one():
    shares = _square.schedule(9000, 0.8, False)
    for step, halvings in ((0, 0), (10, 0), (11, 1), (51, 2), (201, 3), (501, 4), (1001, 5),
                           (2001, 6), (4001, 7), (6001, 8), (8000, 8), (8001, 9)):  # fmt: skip
        assert shares[step] == 0.8 / 2**halvings
    rescaled = _square.schedule(1000, 0.8, True)
    assert rescaled[1] == 0.8
    assert rescaled[2] == 0.4
    assert rescaled[801] == 0.8 / 2**9


def layers(height, width):
    """A pyramid by its definition: squares around the centre, each 1 / k^2 higher, length 1."""
    grid = np.zeros((height, width))
    for k in range(max(height // 2, width // 2) + 1):
        top, left = height // 2 - k, width // 2 - k
        grid[max(top, 0) : height // 2 + k + 1, max(left, 0) : width // 2 + k + 1] += (
            k + 1.0
        ) ** -2
    return grid / np.linalg.norm(grid)


@pytest.mark.parametrize("sides", [(3, 3), (7, 7), (5, 3), (1, 5), (3, 9)])
def test_pyramids_by_their_definition(sides, x64):
    rows, columns = np.mgrid[:9, :12]
    found = _square_l2.pyramids(
        jnp.asarray(rows) - 1, jnp.asarray(columns) - 2, jnp.asarray(sides), jnp.float64
    )
    top = sides[0] // 2
    wanted = np.zeros((9, 12))
    halves = [layers(top, sides[1])] if top else []
    halves.append(-layers(sides[0] - top, sides[1]))
    wanted[1 : 1 + sides[0], 2 : 2 + sides[1]] = np.concatenate(halves)
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-9)


def test_windows_take_every_place_inside_of_the_mask():
    mask = jnp.zeros((6, 7, 1), bool).at[2:5, 1:6].set(True)
    region = _windows.region_of(threat.masked(threat.linf(), mask), jnp.zeros((6, 7, 1)), "square")
    assert region.corner.tolist() == [2, 1]
    assert region.extent.tolist() == [3, 5]
    assert _windows.side_of(region, jnp.float32(0.3)) == 2  # sqrt(4.5) = 2.1
    draws = jax.vmap(lambda k: _windows.place(k, region, jnp.full(2, 2)))(
        jax.random.split(KEY, 400)
    )
    assert set(map(tuple, draws.tolist())) == {(r, c) for r in (2, 3) for c in (1, 2, 3, 4)}


@pytest.mark.slow
def test_the_start_is_stripes_or_of_full_length():
    x0 = jnp.full((7, 5, 3), 0.5)
    stripes = _square._start(threat.linf(), KEY, x0, jnp.float32(0.1)) - x0
    np.testing.assert_allclose(jnp.abs(stripes), 0.1, atol=1e-6)
    np.testing.assert_allclose(stripes, jnp.broadcast_to(stripes[:1], stripes.shape))
    assert 0 < (stripes[0] > 0).sum() < 15
    for shape in ((7, 5, 3), (12, 28, 1), (9,)):
        x0 = jnp.full(shape, 0.5)
        tiles = _square_l2.start(threat.l2(), KEY, x0, jnp.float32(0.1)) - x0
        np.testing.assert_allclose(jnp.linalg.norm(tiles), 0.1, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_loses_most_of_what_it_can(norm, x64):
    fn, x, y, weights = testing.linear_problem(shape=(5, 4, 1))
    x = x.astype(jnp.float64)
    objective = attacks.from_logits(fn, loss=losses.cw_margin)
    attack = attacks.square(objective, threat.by_name(norm), num_steps=600, rescale_schedule=True)
    eps = jnp.linspace(0.001, 0.3, len(x))
    result = attacks.run(attack, KEY, x, y, eps, stop="budget")
    w = weights[:, 1] - weights[:, 0]
    dual = np.abs(w).sum() if norm == "linf" else np.linalg.norm(w)
    clean = jax.vmap(losses.cw_margin)(fn(x), y)
    gain = (result.loss - clean) / (eps * dual)
    assert (gain <= 1 + 1e-9).all()
    assert (gain >= (0.99 if norm == "linf" else 0.65)).all()
    assert (result.num_queries == 601).all()
    assert (result.num_grads == 0).all()


def attacked(norm, ball=None, **options):
    """Compiled once for each shape: `(keys, x, y, eps, stop)` on a fixed smooth function."""

    def call(keys, x, y, eps):
        flat = x.reshape(x.shape[0], -1)
        weights = jnp.sin(jnp.arange(3 * flat.shape[1]) * 0.7).reshape(-1, 3)
        objective = attacks.from_logits(
            lambda x: jnp.tanh(x.reshape(x.shape[0], -1) - 0.5) @ weights, loss=losses.cw_margin
        )
        attack = attacks.square(objective, ball or threat.by_name(norm), num_steps=30)
        return attacks.run(attack, keys, x, y, eps, **options)

    return jax.jit(call)


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(5, 9, 1), (8, 6, 3), (11,)], ids=str)
def test_shapes_batch_and_order(norm, shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(0, 1, (8, *shape)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 3, 8), jnp.int32)
    eps = jnp.linspace(0.0, 0.7, 8)
    keys = example_keys(KEY, jnp.arange(8))
    call = attacked(norm, stop="budget")
    whole = call(keys, x, y, eps)
    assert (whole.distance <= eps * (1 + 1e-6) + 1e-7).all()
    assert ((whole.x_adv >= 0) & (whole.x_adv <= 1)).all()
    assert (whole.x_adv[0] == x[0]).all()
    assert (whole.distance[1:] > 0.5 * eps[1:]).all()
    for at in (jnp.asarray([6, 1, 4]), jnp.asarray([5])) if shape == (8, 6, 3) else ():
        part = call(keys[at], x[at], y[at], eps[at])
        np.testing.assert_allclose(part.x_adv, whole.x_adv[at], atol=1e-6)
        np.testing.assert_array_equal(part.success, whole.success[at])


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_mask_for_each_row(norm):
    mask = jnp.zeros((4, 6, 5, 1), bool).at[:2, 1:4, 2:].set(True).at[2:, :2].set(True)
    x = jax.random.uniform(KEY, (4, 6, 5, 2), minval=0.2, maxval=0.8)
    call = attacked(norm, threat.masked(threat.by_name(norm), mask), stop="budget")
    result = call(jax.random.split(KEY, 4), x, jnp.zeros(4, jnp.int32), 0.1)
    moved = result.x_adv != x
    assert not (moved & ~mask).any()
    # a Euclidean window may have been emptied for another one
    share = moved.sum((1, 2, 3)) / (2 * mask.sum((1, 2, 3)))
    assert (share > (0.8 if norm == "linf" else 0.3)).all()
    np.testing.assert_allclose(result.distance, 0.1, rtol=1e-3)


def test_what_it_refuses():
    objective = attacks.from_logits(lambda x: x.mean((1, 2)), loss=losses.cross_entropy)
    with pytest.raises(ValueError, match="num_steps"):
        attacks.square(objective, threat.linf(), num_steps=0)
    with pytest.raises(ValueError, match="p_init"):
        attacks.square(objective, threat.linf(), p_init=0.0)
    with pytest.raises(ValueError, match="l0"):
        attacks.square(objective, threat.linf()._replace(name="l0"))
    with pytest.raises(ValueError, match=r"\[B, H, W, C\]"):
        attacks.run(
            attacks.square(objective, threat.linf()), KEY, jnp.zeros((2, 3, 3)),
            jnp.zeros(2, jnp.int32), 0.1,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.golden
def test_a_trained_net_loses_what_autoattack_breaks(golden_dir):
    net = dict(np.load(golden_dir / "autoattack_ham10000_32.npz"))
    right = np.flatnonzero(net["logits"].argmax(1) == net["y"])
    robust = net["autoattack/Linf/0.015686/robust"][:, right].all(0)

    def logits(x):
        x = (x - 0.5) / 0.25
        for name, stride in (("1", 1), ("2", 2), ("3", 2)):
            x = jax.lax.conv_general_dilated(
                x, jnp.asarray(net["w" + name]), (stride, stride), ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            x = jax.nn.relu(x + net["b" + name])
        return x.mean((1, 2)) @ net["w4"] + net["b4"]

    @jax.jit
    def call(x, y):
        objective = attacks.from_logits(logits, loss=losses.cw_margin)
        attack = attacks.square(objective, threat.linf(), num_steps=1000, rescale_schedule=True)
        return attacks.run(attack, KEY, x, y, 4 / 255)

    x, y = net["x"][right], net["y"][right].astype(np.int32)
    broken = np.asarray(call(x, y).success)
    print(f"of {len(right)}: {broken.sum()} broken, by AutoAttack {(~robust).sum()}; "
          f"{(broken & robust).sum()} that it calls robust")  # fmt: skip
    assert broken.sum() >= 0.6 * (~robust).sum()
    assert (broken & robust).sum() <= 2
