"""APGD in l1, its schedule of large budgets, and averages over random draws."""

import functools
import importlib.util
import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, testing, threat
from advjax.attacks._apgd_l1 import _largest_signs, sparse_direction, sparse_state, sum_as_torch
from advjax.attacks._phases import at, schedule
from advjax.random import row_keys

KEY = jax.random.key(0)


def quadratic(x):
    """Two logits that are not linear in the pixels."""
    flat = x.reshape(x.shape[0], -1)
    w = jnp.cos(jnp.arange(flat.shape[1], dtype=x.dtype))
    return jnp.stack([jnp.zeros(len(x), x.dtype), flat @ w + 0.3 * (flat**2) @ jnp.roll(w, 3)], 1)


def problem(rows=8, shape=(5, 3, 2), seed=0):
    x = jax.random.uniform(jax.random.key(seed), (rows, *shape))
    return x, jnp.argmax(quadratic(x), -1)


def objective(loss=losses.cw_margin):
    return attacks.from_logits(quadratic, loss=loss)


def entry(steps, step, **options):
    return at(schedule(steps, **{"large_eps": False, "sparse": True} | options).table, step)


def added_as_torch(values):
    """Four rows of eight lanes; blocks of at least 16 terms in four levels."""
    whole = len(values) // 8
    tall = whole // 4
    power = max(4, int(np.ceil(np.log2(max(tall, 1)))) // 4)
    levels = np.zeros((4, 32), np.float32)
    for done in range(1, tall + 1):
        levels[0] += values[32 * (done - 1) : 32 * done]
        in_blocks = tall >> power << power
        for level in range(1, 4):
            if done > in_blocks or done % (1 << power * level):
                break
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
    rows = (levels[0] + levels[1] + levels[2] + levels[3]).reshape(4, 8)
    for vector in range(4 * tall, whole):
        rows[0] += values[8 * vector : 8 * vector + 8]
    lanes = ((rows[0] + rows[1]) + rows[2]) + rows[3]
    total = np.float32(0)
    for value in [*values[8 * whole :], *lanes]:
        total += value
    return total


@pytest.mark.parametrize("size", [3, 120, 2191, 40000])
def test_sums_are_those_of_torch_in_every_bit(size):
    values = np.random.default_rng(size).uniform(0, 1, (4, size)).astype(np.float32)
    sums = jax.jit(jax.vmap(sum_as_torch))(values)
    np.testing.assert_array_equal(sums, [added_as_torch(row) for row in values])
    if platform.machine() != "x86_64" or importlib.util.find_spec("torch") is None:
        return
    import torch

    np.testing.assert_array_equal(sums, torch.tensor(values).sum(1).numpy())


def test_windows_of_l1_have_four_percent_of_the_steps():
    table = schedule(100, large_eps=False, sparse=True).table
    np.testing.assert_array_equal(np.flatnonzero(table.check), np.arange(4, 101, 4))
    assert schedule(10, large_eps=False, sparse=True).table.check[1:].all()
    assert not entry(100, jnp.asarray(104)).check


def test_phases_of_large_eps():
    table = schedule(20, large_eps=True, sparse=True).table
    np.testing.assert_array_equal(table.radius, [3] * 6 + [2] * 6 + [1] * 9)
    np.testing.assert_array_equal(table.since, [*range(6), *range(6), *range(9)])
    np.testing.assert_array_equal(np.flatnonzero(table.turn), [5, 11])
    # no steps for the first two phases
    short = schedule(3, large_eps=True, sparse=False)
    assert (short.first_radius, short.several) == (1, False)
    beyond = entry(20, jnp.asarray(30), large_eps=True)
    assert (beyond.radius, beyond.since, beyond.turn) == (1, 18, False)


def test_a_step_changes_the_largest_gradients_by_equal_parts():
    g = jnp.asarray([0.1, -0.5, 0.0, 0.3, -0.2])
    signs = _largest_signs(g, jnp.ones(5, bool), jnp.asarray(3))
    np.testing.assert_allclose(signs, [0, -0.5, 0, 0.5, 0])
    masked = _largest_signs(g, jnp.asarray([True, False, True, False, True]), jnp.asarray(1))
    np.testing.assert_allclose(masked, [0.5, 0, 0, 0, -0.5])
    assert (_largest_signs(g, jnp.zeros(5, bool), jnp.asarray(0)) == 0).all()
    assert (_largest_signs(g * 0, jnp.ones(5, bool), jnp.asarray(1)) == 0).all()


@functools.partial(jax.jit, static_argnames="steps")
def noted(steps, step, x, x0, g, loss, memory):
    x, _, memory = sparse_direction(threat.l1(), x, x0, g, loss, entry(steps, step), memory)
    return x, memory


def follow(points, losses_, x0, g, *, measured, steps=20):
    """Feed a trace to the rule of one row and return its memory after each evaluation."""
    memory = jax.tree.map(lambda leaf: leaf[0], sparse_state(x0[None], measured))
    found = []
    for i, (x, loss) in enumerate(zip(points, losses_, strict=True)):
        x, memory = noted(steps, i, x, x0, g, jnp.asarray(loss, jnp.float32), memory)
        found.append((x, memory))
    return found


def test_sparsity_follows_the_best_point():
    x0, g = jnp.full(30, 0.5), jnp.arange(30.0)
    points = [x0.at[:n].add(0.01) for n in (30, 24, 24, 12)]
    # a check after every move: sparser, as sparse, worse
    found = follow(points, [0.0, 1.0, 2.0, 1.5], x0, g, measured=True)
    assert [int(m.changed) for _, m in found] == [30, 24, 24, 24]
    # a third of 30 in float32 is just below 10, as in the official code
    assert [int(m.skipped) for _, m in found] == [9, 13, 13, 13]
    np.testing.assert_allclose([m.size for _, m in found], [1, 1, 1 / 1.5, 1 / 1.5**2])
    np.testing.assert_array_equal(found[-1][0], points[-1])
    # a start of our own counts as dense, and moves a fifth of the values
    first = follow(points[1:2], [0.0], x0, g, measured=False)[0][1]
    assert (int(first.changed), int(first.skipped)) == (30, 24)
    # two thirds of four are three
    four = follow([x0.at[:4].add(0.1)], [0.0], x0, g, measured=True)[0][1]
    assert int(four.skipped) == 27
    # a sparser best point is gone back to, with the whole step
    back = follow([points[0], points[0], points[3], points[1]], [0, 1, 2, 1], x0, g, measured=True)
    np.testing.assert_allclose([m.size for _, m in back], [1, 1 / 1.5, 1, 1 / 1.5], rtol=1e-6)
    tenth = follow([points[0]] * 12, [0.0] * 12, x0, g, measured=True)[-1][1]
    np.testing.assert_allclose(tenth.size, 0.1)


@functools.partial(jax.jit, static_argnames=("norm", "large", "steps", "given", "stop"))
def attacked(keys, x, y, eps, *, norm="l1", large=False, steps=30, given=False, stop="budget"):
    attack = attacks.apgd(objective(), threat.by_name(norm), num_steps=steps, large_eps=large)
    return attacks.run(attack, keys, x, y, eps, x_start=x if given else None, stop=stop)


@pytest.mark.slow
def test_rows_do_not_depend_on_batch_or_order():
    x, y = problem()
    eps, keys = jnp.linspace(0.05, 2, 8), row_keys(KEY, 8)
    for large in (False, True):
        whole = attacked(keys, x, y, eps, large=large)
        order = jnp.asarray([5, 2, 7])
        some = attacked(keys[order], x[order], y[order], eps[order], large=large)
        np.testing.assert_allclose(some.x_adv, whole.x_adv[order], atol=1e-6)
        one = attacked(keys[3:4], x[3:4], y[3:4], eps[3:4], large=large)
        np.testing.assert_allclose(one.x_adv[0], whole.x_adv[3], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_large_eps_ends_within_eps_and_is_as_good(norm):
    x, y = problem()
    eps = jnp.full(8, {"l1": 0.6, "l2": 0.2, "linf": 0.03}[norm])
    keys = row_keys(KEY, 8)
    plain = attacked(keys, x, y, eps, norm=norm)
    large = attacked(keys, x, y, eps, norm=norm, large=True)
    ball = threat.over_rows(threat.by_name(norm))
    assert (ball.distance(large.x_adv, x) <= eps * (1 + 1e-5)).all()
    np.testing.assert_array_equal(large.success, jnp.argmax(quadratic(large.x_adv), -1) != y)
    # of a smooth convex problem both find the optimum
    np.testing.assert_allclose(large.loss, plain.loss, rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(large.num_grads, 30)
    stopped = attacked(keys, x, y, eps, norm=norm, large=True, stop="success")
    np.testing.assert_array_equal(stopped.success, large.success)
    # no success before the last phase
    assert (stopped.num_steps[stopped.success] >= 18).all()


def test_a_success_outside_of_eps_does_not_count():
    """At three times the budget every row is broken, at the budget none."""
    fn, x, y, weights = testing.linear_problem(shape=(5, 4, 1))
    slope = np.abs(weights[:, 1] - weights[:, 0]).max()
    logits = fn(x)
    eps = 0.5 * jnp.abs(logits[:, 1] - logits[:, 0]) / slope
    target = attacks.from_logits(fn, loss=losses.cross_entropy)
    attack = attacks.apgd(target, threat.l1(), num_steps=20, large_eps=True)
    step = jax.jit(lambda state: attack.step(state, x, y, eps, True))
    state = jax.jit(attack.init)(row_keys(KEY, len(x)), x, y, eps)
    wide = False
    for _ in range(20):
        wide |= (jnp.argmax(fn(state.x), -1) != y).all()
        state = step(state)
        assert not state.success.any()
    assert wide
    result = jax.jit(lambda state: attack.finalize(state, x, y, eps, True))(state)
    assert not result.success.any()
    assert (threat.over_rows(threat.l1()).distance(result.x_adv, x) <= eps * (1 + 1e-5)).all()


def test_a_model_without_a_finite_loss_is_told_and_stays_within_eps():
    x, y = problem()
    broken = attacks.from_logits(lambda x: quadratic(x) * jnp.nan, loss=losses.cross_entropy)
    attack = attacks.apgd(broken, threat.l1(), num_steps=8, large_eps=True)
    result = jax.jit(lambda x: attacks.run(attack, KEY, x, y, 0.3, stop="budget"))(x)
    assert (result.distance <= 0.3 * (1 + 1e-5)).all()
    assert not result.success.any()
    assert (result.status == 2).all()


@pytest.mark.slow
def test_masks_vectors_and_odd_shapes():
    x, y = problem()
    mask = jnp.zeros((8, 5, 3, 1), bool).at[:, 1:4, :2].set(True).at[4:, 0].set(True)
    ball = threat.masked(threat.l1(), mask)
    for large in (False, True):
        attack = attacks.apgd(objective(), ball, num_steps=12, large_eps=large)
        result = attacks.run(attack, KEY, x, y, 0.8, stop="budget")
        assert ((result.x_adv == x) | mask).all()
        assert (result.x_adv != x).reshape(8, -1).any(1).all()
        assert (result.distance <= 0.8 * (1 + 1e-5)).all()
    vectors = x.reshape(8, -1)
    attack = attacks.apgd(objective(), threat.l1(), num_steps=12)
    flat = attacks.run(attack, KEY, vectors, y, 0.8, x_start=vectors, stop="budget")
    image = attacks.run(attack, KEY, x, y, 0.8, x_start=x, stop="budget")
    np.testing.assert_allclose(flat.x_adv, image.x_adv.reshape(8, -1), atol=1e-6)


def test_apgd_averages_the_gradients_of_a_random_model():
    """One draw of a loud model succeeds by luck; the average over draws judges by the model."""
    fn, x, y, weights = testing.linear_problem(shape=(5, 4, 1))
    rows = np.arange(len(x))
    gap = np.asarray(fn(x)[rows, y] - fn(x)[rows, 1 - y])
    loud = gap.min() / 3

    def noisy(x, keys):
        noise = jax.vmap(lambda k: jax.random.normal(k, (2,), x.dtype))(keys)
        return fn(x) + 2 * loud * noise

    single = attacks.from_logits(noisy, loss=losses.cross_entropy, randomised=True)

    @functools.partial(jax.jit, static_argnames="draws")
    def run(eps, draws):
        attack = attacks.apgd(attacks.with_eot(single, draws), threat.linf(), num_steps=10)
        assert not attack.spec.deterministic
        return attacks.run(attack, KEY, x, y, eps, stop="budget")

    breaking = gap / np.abs(weights[:, 1] - weights[:, 0]).sum()
    enough, less = run(2 * breaking, 64), run(0.5 * breaking, 64)
    assert enough.success.all()
    assert not less.success.any()
    np.testing.assert_array_equal(less.num_grads, 640)
    assert run(0.5 * breaking, 1).success.any()


def test_other_norms_are_refused():
    with pytest.raises(ValueError, match="l1"):
        attacks.apgd(objective(), threat.l0())
    with pytest.raises(ValueError, match="num_steps"):
        attacks.apgd(objective(), threat.l1(), num_steps=0)
