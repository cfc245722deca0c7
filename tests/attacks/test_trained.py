"""Attacks that were trained before: where they move to, what they cost, in runner and engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, engine, losses, testing, threat
from advjax.types import Cost

KEY = jax.random.key(0)
FN, X, Y, WEIGHTS = testing.linear_problem(num_rows=12)
PULL = jnp.asarray((WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(X.shape[1:]), jnp.float32)
OBJECTIVE = attacks.from_logits(FN, loss=losses.cross_entropy)


def run(attack, eps, x=X, y=Y):
    return attacks.run(attack, KEY, x, y, eps)


@pytest.mark.slow
def test_a_universal_perturbation_is_the_same_for_every_image():
    v = 0.01 * jnp.sign(PULL)
    result = run(attacks.universal(OBJECTIVE, threat.linf(), perturbation=v, scale=False), 0.02)
    np.testing.assert_allclose(result.x_adv - X, jnp.broadcast_to(v, X.shape), atol=1e-6)
    np.testing.assert_array_equal(result.success, jnp.argmax(FN(X + v), -1) != Y)
    assert 0 < result.success.sum() < len(X)
    # one look at the model, and no gradient
    assert (result.num_queries == 1).all()
    assert (result.num_grads == 0).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_scale_uses_the_whole_budget(norm):
    ball = threat.by_name(norm)
    for v in (1e-3 * PULL, 7 * PULL, None):
        result = run(attacks.universal(OBJECTIVE, ball, perturbation=v), 0.1)
        np.testing.assert_allclose(result.distance, 0.1, rtol=1e-4)
        if v is not None:
            moved = (result.x_adv - X)[0]
            np.testing.assert_allclose(moved / moved.max(), PULL / PULL.max(), atol=1e-3)


def test_without_scale_what_is_long_is_projected():
    attack = attacks.universal(OBJECTIVE, threat.linf(), perturbation=0.05 * PULL, scale=False)
    result = run(attack, 0.02)
    np.testing.assert_allclose(result.x_adv, X + jnp.clip(0.05 * PULL, -0.02, 0.02), atol=1e-6)


def test_the_control_is_drawn_from_its_seed():
    first = run(attacks.universal(OBJECTIVE, threat.l2()), 0.1).x_adv
    again = run(attacks.universal(OBJECTIVE, threat.l2()), 0.1).x_adv
    other = run(attacks.universal(OBJECTIVE, threat.l2(), seed=1), 0.1).x_adv
    assert (first == again).all()
    assert not jnp.allclose(first, other)


def test_generated_perturbations_are_shrunk_channel_by_channel():
    made = jnp.stack([0.5 * jnp.ones((4, 5)), 0.004 * jnp.ones((4, 5))], axis=-1).at[0, 0].mul(-0.5)
    attack = attacks.gap(
        OBJECTIVE, threat.linf(), generate=lambda x: jnp.broadcast_to(made, x.shape)
    )
    moved = run(attack, 0.1).x_adv - X
    # one is divided by what it is too long, the other stays, and neither is clipped
    expected = jnp.broadcast_to(made * jnp.asarray([0.2, 1.0]), X.shape)
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    # Euclidean: the image as a whole
    attack = attacks.gap(OBJECTIVE, threat.l2(), generate=lambda x: jnp.broadcast_to(made, x.shape))
    result = run(attack, 0.3)
    np.testing.assert_allclose(result.distance, 0.3, rtol=1e-4)
    share = 0.3 / jnp.linalg.norm(made)
    np.testing.assert_allclose(result.x_adv - X, jnp.broadcast_to(share * made, X.shape), atol=1e-6)


def test_the_budget_of_a_normalised_ball_holds_for_every_channel():
    # oracle: max |d_c| <= mag / (255 std_c) after normalisation, mag / 255 in pixels
    std = (0.1, 0.3)
    attack = attacks.gap(
        OBJECTIVE, threat.normalised("linf", std), generate=lambda x: jnp.sign(jnp.sin(50 * x))
    )
    moved = run(attack, 0.2).x_adv - X
    np.testing.assert_allclose(jnp.abs(moved).max((0, 1, 2)), 0.2 * np.asarray(std), rtol=1e-4)


def test_a_generator_sees_the_clean_image():
    attack = attacks.gap(OBJECTIVE, threat.linf(), generate=lambda x: jnp.where(x > 0.5, 1.0, -1.0))
    result = attacks.run(attack, KEY, X, Y, 0.2, x_start=X + 0.1)
    np.testing.assert_allclose(result.x_adv, X + jnp.where(X > 0.5, 0.2, -0.2), atol=1e-6)


@pytest.mark.slow
def test_engine_and_brute_force_agree():
    def make_attack(params):
        return attacks.universal(OBJECTIVE, threat.linf(), perturbation=params["v"])

    params, budgets = {"v": PULL}, (0.005, 0.01, 0.02)
    assert make_attack(params).spec.cost == Cost(0, 0)
    found = engine.sweep(make_attack, params, X, Y, epsilons=budgets, key=KEY)
    broken = np.stack([
        engine.reference(make_attack, params, np.asarray(X), np.asarray(Y), eps, key=KEY).success
        for eps in budgets
    ])  # fmt: skip
    smallest = np.where(broken.any(0), np.asarray(budgets)[broken.argmax(0)], np.inf)
    np.testing.assert_allclose(found.min_eps, smallest, rtol=1e-6)
    assert np.isfinite(smallest).sum() > 0
    assert len(np.unique(smallest)) > 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: attacks.gap(OBJECTIVE, threat.linf()), "train_gap"),
        (lambda: attacks.universal(OBJECTIVE, threat.l0()), "scale=False"),
        (lambda: attacks.universal(OBJECTIVE, "linf"), "ball"),
        (lambda: run(attacks.universal(OBJECTIVE, threat.linf(), perturbation=X), 0.1), "shape"),
        (lambda: run(attacks.gap(OBJECTIVE, threat.linf(), generate=lambda x: x[..., :1]), 0.1),
         "generate"),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
