"""Optimisers: schedules, decay of kernels only, learning rates that are arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax.config import OptimizerConfig
from advjax.training import build_optimizer, learning_rate_at, set_learning_rate

PARAMS = {"dense": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}}


def _grads(value):
    return jax.tree.map(lambda p: jnp.full_like(p, value), PARAMS)


def _moves(optimizer, gradients, params=PARAMS):
    state, out = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        out.append(updates)
    return out


def test_sgd_is_nesterov_momentum_with_decay_of_kernels_only():
    config = OptimizerConfig(
        name="sgd", learning_rate=0.5, schedule="constant", momentum=0.9, weight_decay=0.1
    )
    moves = _moves(build_optimizer(config, 10), [_grads(1.0), _grads(1.0)])
    for leaf, gradient in (("kernel", 1.0 + 0.1 * 2.0), ("bias", 1.0)):
        velocity = 0.0
        for move in moves:
            velocity = 0.9 * velocity + gradient
            wanted = -0.5 * (gradient + 0.9 * velocity)
            np.testing.assert_allclose(move["dense"][leaf], wanted, rtol=1e-6)


def test_adam_decouples_decay():
    config = OptimizerConfig(name="adam", learning_rate=0.5, schedule="constant", weight_decay=0.1)
    (move,) = _moves(build_optimizer(config, 10), [_grads(3.0)])
    np.testing.assert_allclose(move["dense"]["bias"], -0.5, rtol=1e-5)
    np.testing.assert_allclose(move["dense"]["kernel"], -0.5 * (1 + 0.1 * 2.0), rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    config = OptimizerConfig(
        learning_rate=1.0, schedule="constant", momentum=0.0, weight_decay=0.0, grad_clip=0.5
    )
    (move,) = _moves(build_optimizer(config, 10), [_grads(100.0)])
    assert float(optax.tree.norm(move)) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
def test_steps_follow_the_schedule(schedule):
    config = OptimizerConfig(learning_rate=0.3, schedule=schedule, momentum=0.0, weight_decay=0.0)
    moves = _moves(build_optimizer(config, 20), [_grads(1.0)] * 20)
    rates = [-float(m["dense"]["bias"][0]) for m in moves]
    wanted = [learning_rate_at(config, 20, i) for i in range(20)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-5)
    if schedule == "onecycle":
        assert np.argmax(rates) == 6  # 30 %
        assert rates[0] == pytest.approx(0.3 / 25)
        assert rates[-1] < 0.02
    if schedule == "cosine":
        assert rates[0] == pytest.approx(0.3)
        assert np.all(np.diff(rates) < 0)
    if schedule == "constant":
        assert rates == [pytest.approx(0.3)] * 20


def test_the_learning_rate_is_a_leaf():
    config = OptimizerConfig(learning_rate=0.3, momentum=0.0, weight_decay=0.0)
    optimizer = build_optimizer(config, 20)
    state = optimizer.init(PARAMS)
    rates = jnp.asarray([0.1, 0.2, 0.4])

    def move(rate):
        updates, _ = optimizer.update(_grads(1.0), set_learning_rate(state, rate), PARAMS)
        return updates["dense"]["bias"][0]

    moves = jax.vmap(move)(rates)
    np.testing.assert_allclose(moves / moves[0], [1, 2, 4], rtol=1e-5)
    same = jax.tree.structure(set_learning_rate(state, 0.1)) == jax.tree.structure(state)
    assert same


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("name", "lion", "optimizer.name: unknown 'lion'"),
        ("schedule", "step", "optimizer.schedule: unknown 'step'"),
        ("learning_rate", 0.0, "learning_rate: must be positive"),
        ("momentum", 1.0, "momentum: must be in"),
        ("weight_decay", -1.0, "weight_decay: must not be negative"),
        ("grad_clip", 0.0, "grad_clip: must be positive"),
    ],
)
def test_impossible_configs_are_refused(field, value, match):
    with pytest.raises(ValueError, match=match):
        build_optimizer(OptimizerConfig(**{field: value}), 10)


def test_a_schedule_needs_steps():
    with pytest.raises(ValueError, match="total_steps: expected at least 1"):
        build_optimizer(OptimizerConfig(), 0)
