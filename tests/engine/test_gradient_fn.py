"""Gradients by a stand-in in the pool: it never decides what is broken."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, engine, losses, models, threat
from advjax.engine import Verdict

pytestmark = pytest.mark.unoptimised

KEY = jax.random.key(3)
EPSILONS = np.arange(1, 7) / 255 * 2
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(41, 4, 4, 3)).astype(np.float32)
PARAMS = {
    "w": RNG.normal(size=(48, 8)).astype(np.float32) / 3,
    "v": RNG.normal(size=(8, 2)).astype(np.float32),
}


def net(params, x):
    return jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ params["w"]) @ params["v"]


LOW = models.in_precision(net, jnp.bfloat16)
Y = np.asarray(jnp.argmax(net(PARAMS, X), -1)).astype(np.int32)


def boastful(params, x):
    """Calls everything class 1, with the right gradient of the margin."""
    return net(params, x) + jnp.array([0.0, 1000.0])


def make(gradient_fn, params):
    objective = attacks.from_logits(
        lambda x: net(params, x),
        loss=losses.cw_margin,
        gradient_fn=gradient_fn and (lambda x: gradient_fn(params, x)),
    )
    return attacks.bim(objective, threat.linf(), num_steps=6, step_size=0.25)


@functools.cache
def swept(gradient_fn, order):
    return engine.sweep(
        functools.partial(make, gradient_fn), PARAMS, X, Y, epsilons=EPSILONS, key=KEY, slots=12,
        order=order, return_x_adv=True, diagnose=False,
    )  # fmt: skip


def check(result):
    """Every smallest budget has an image that the model itself gets wrong; no claim was lost."""
    assert not result.float_only.any()
    hit = np.isfinite(result.min_eps)
    wrong = np.asarray(jnp.argmax(net(PARAMS, result.x_adv), -1)) != Y
    np.testing.assert_array_equal(wrong, hit)
    assert hit.sum() > 0


@pytest.mark.sample(1)
@pytest.mark.parametrize("order", ["search", "exhaustive"])
def test_false_claims_change_no_verdict(order):
    # every row of class 0 is claimed at every step; those of class 1 are denied at every step,
    # and judged after the last one
    assert 0 < Y.sum() < len(Y)
    true, result = swept(None, "search"), swept(boastful, order)
    check(true)
    check(result)
    np.testing.assert_array_equal(result.min_eps, true.min_eps)
    assert not (result.tables[0].verdict == Verdict.REJECTED).any()
    # nor is a clean image wrong because the stand-in says so
    assert result.clean_accuracy == 1


def test_bfloat16_finds_nearly_the_same_curve():
    result = swept(LOW, "search")
    check(result)
    gap = np.abs(result.robust_accuracy - swept(None, "search").robust_accuracy)
    assert gap.max() <= 1 / len(X)
