"""Linear models: the worst case is `margin - eps * dual norm`, and every attack must meet it."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, testing, threat

# a random start is not at the corner after one step of 1.25 eps: only an upper bound for RS-FGSM
STEPPED = [
    n
    for n, f in sorted(attacks.ATTACKS.items())
    if "step_size_abs" in inspect.signature(f).parameters
]
# test_blackbox.py has those that estimate, test_dense.py DAG, whose steps are no steepest ones
EXACT = [n for n in STEPPED if n not in ("rs_fgsm", "dag", "nes", "simba", "spsa")]


def worst_margin(fn, x, y, weights, eps, norm):
    """The margin after the best perturbation of a binary linear model (no bound is active)."""
    logits = np.asarray(fn(x), np.float64)
    w = weights[:, 1] - weights[:, 0]
    dual = {"linf": np.abs(w).sum(), "l2": np.linalg.norm(w), "l1": np.abs(w).max()}[norm]
    clean = np.where(np.asarray(y) == 0, logits[:, 0] - logits[:, 1], logits[:, 1] - logits[:, 0])
    return clean - np.asarray(eps) * dual


def margin(fn, x, y):
    logits = np.asarray(fn(x), np.float64)
    return np.where(np.asarray(y) == 0, logits[:, 0] - logits[:, 1], logits[:, 1] - logits[:, 0])


def build(name, norm, **options):
    fn, x, y, weights = testing.linear_problem(shape=(5, 4, 1))
    factory = attacks.ATTACKS[name]
    if "num_steps" in inspect.signature(factory).parameters:
        options = {"num_steps": 40, "step_size": 0.25} | options
    ball = threat.by_name(norm)
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    return fn, x, y, weights, factory(objective, ball, **options)


@pytest.mark.sample(2)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", EXACT)
def test_closed_form(name, norm, x64):
    # smoothing and resizing leave the optimum of a linear model on purpose
    options = {"tifgsm": {"ksize": 1}, "difgsm": {"resize_rate": 1.0}}.get(name, {})
    if (name, norm) == ("apgd", "l1"):
        options = {"step_size": None}  # a tenth of a quarter of eps is too short for 40 steps
    fn, x, y, weights, attack = build(name, norm, **options)
    x = x.astype(jnp.float64)
    eps = jnp.linspace(0.001, 0.3, len(x))
    result = attacks.run(attack, jax.random.key(0), x, y, eps, stop="budget")
    expected = worst_margin(fn, x, y, weights, eps, norm)
    found = margin(fn, result.x_adv, y)
    if (name, norm) == ("apgd", "l1"):
        # two thirds of two values, rounded up, are two: published APGD never changes a single one,
        # and 40 steps may leave it with a few more
        assert (found >= expected - 1e-5).all()
        assert (result.success >= (expected + np.asarray(eps) * 1.2 < 0)).all()
        return
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(result.success, expected < 0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rs_fgsm_never_beats_the_closed_form(norm):
    fn, x, y, weights, attack = build("rs_fgsm", norm)
    result = attacks.run(attack, jax.random.key(0), x, y, 0.1)
    expected = worst_margin(fn, x, y, weights, 0.1, norm)
    assert (margin(fn, result.x_adv, y) >= expected - 1e-5).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_with_absolute_size_moves_by_it(norm):
    fn, x, y, weights, _ = build("fgsm", norm)
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    attack = attacks.fgsm(objective, threat.by_name(norm), step_size_abs=0.05)
    result = attacks.run(attack, jax.random.key(0), x, y, 0.2)
    np.testing.assert_allclose(
        margin(fn, result.x_adv, y), worst_margin(fn, x, y, weights, 0.05, norm), atol=1e-4
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_masked_closed_form(norm, x64):
    fn, x, y, weights = testing.linear_problem(shape=(5, 4, 1))
    x = x.astype(jnp.float64)
    mask = np.zeros((5, 4, 1), bool)
    mask[1:4, :3] = True
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    ball = threat.masked(threat.by_name(norm), mask)
    attack = attacks.pgd(objective, ball, num_steps=40, step_size=0.25)
    result = attacks.run(attack, jax.random.key(0), x, y, 0.1, stop="budget")
    inside = weights * mask.reshape(-1, 1)
    expected = worst_margin(fn, x, y, inside, 0.1, norm)
    np.testing.assert_allclose(margin(fn, result.x_adv, y), expected, atol=1e-5)
