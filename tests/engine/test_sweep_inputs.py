"""What a sweep is given: wrong words and values, other types of pixels and labels."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, engine, losses, threat
from advjax.engine import Verdict
from advjax.engine._judge import deployed
from tests.engine.test_sweep import (
    CLASSES,
    EPSILONS,
    KEY,
    PARAMS,
    RNG,
    N,
    X,
    Y,
    make_pgd,
    make_wide,
    net,
    sweep,
    swept,
)


@pytest.mark.slow
def test_targeted_and_multi_label():
    wanted = (Y + 1) % CLASSES

    def targeted(params):
        objective = attacks.from_logits(
            lambda x: net(params, x), loss=losses.cross_entropy, targeted=True
        )
        return attacks.bim(objective, threat.linf(), num_steps=8)

    several = np.asarray(net(PARAMS, X / np.float32(255)) > 0).astype(np.int32)

    def multi(params):
        objective = attacks.from_logits(lambda x: net(params, x), loss=losses.binary_cross_entropy)
        return attacks.bim(objective, threat.linf(), num_steps=8)

    for make, target in ((targeted, wanted), (multi, several)):
        epsilons = EPSILONS * 5
        found = sweep(make, y=target, diagnose=False, epsilons=epsilons)
        climbed = sweep(make, y=target, order="ascending", diagnose=False, epsilons=epsilons)
        assert np.mean(found.min_eps == climbed.min_eps) > 0.9
        assert np.isfinite(found.min_eps).mean() > 0.1
        for e, eps in enumerate(epsilons[:2]):
            rows = engine.reference(make, PARAMS, X, target, eps, key=KEY)
            solved = climbed.tables[0].verdict[:, 0, e] == Verdict.VERIFIED
            known = climbed.tables[0].verdict[:, 0, e] != Verdict.UNKNOWN
            np.testing.assert_array_equal(solved[known], rows.success[known])


@pytest.mark.slow
def test_float64(x64):
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), PARAMS)
    x = X / 255.0 * (1 - 1e-9)
    result = engine.sweep(make_pgd, params, x, Y, epsilons=EPSILONS, key=KEY, slots=6)
    assert result.tables[0].loss.dtype == np.float64
    assert np.mean(result.min_eps == swept("search").min_eps) > 0.9


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"epsilons": [0.1, 0.1]}, "strictly increasing"),
        ({"epsilons": [0.0, 0.1]}, "positive"),
        ({"epsilons": []}, "positive"),
        ({"epsilons": [0.1, np.nan]}, "positive"),
        ({"epsilons": [0.1, 8.0]}, "8/255, not 8"),
        ({"order": "random"}, "order"),
        ({"slots": 0}, "slots"),
        ({"restarts": 0}, "restarts"),
        ({"quantise": 7}, "quantise"),
        ({"warm_start": True}, "warm_start"),
        ({"make": []}, "make_attack"),
        ({"y": Y[:5]}, "same non-zero number"),
        ({"x": X[:0], "y": Y[:0]}, "same non-zero number"),
        ({"y": np.eye(3, dtype=int)[Y] * 2}, "has a label 2; findings are 0 or 1"),
        ({"x": X.astype(np.float32)}, "outside of the bounds"),
        ({"x": np.full(X.shape, np.nan, np.float32)}, "NaN"),
        ({"x": X.astype(np.int32)}, "uint8 or floating"),
        ({"restarts": 1.5}, "restarts: must be an integer"),
        ({"slots": 2.5}, "slots: must be an integer"),
        ({"make": make_pgd(PARAMS)}, "the function that builds the attack"),
        ({"slots": 8.0}, "slots: must be an integer, got 8.0"),
        ({"restarts": [1, 2]}, "restarts: expected one number, or 1"),
        ({"make": ["pgd"]}, "make_attack: expected `lambda params"),
        ({"make": lambda params: None}, "make_attack: must return an attack, got None"),
        ({"make": [make_pgd, make_wide]}, "one budget cannot mean linf within"),
        ({"epsilons": [1e-50, 0.1]}, "positive and strictly increasing"),
        ({"epsilons": [0.1, 0.1 + 1e-12]}, "positive and strictly increasing"),
        ({"epsilons": ["8/255"]}, "epsilons: expected numbers such as 8/255"),
        ({"y": None}, r"y: expected labels \[N\]"),
        ({"y": 1}, r"y: expected labels \[N\]"),
        ({"y": Y.astype(float)}, "y: labels .* of 3 classes are integers, got float64"),
        ({"x": None}, r"x: expected images \[N, H, W, C\], got NoneType"),
        ({"mesh": 8}, "mesh: expected advjax.mesh.data_mesh"),
        ({"memory_limit": 0}, "memory_limit: expected a number of bytes"),
        ({"key": jax.random.split(KEY)}, "key: expected one key"),
        ({"ids": np.zeros(N, int)}, "unique"),
        ({"ids": np.arange(N) / 2}, "integers"),
        ({"epsilons": 0.1}, "epsilons: expected a list of budgets, got 0.1 alone"),
        ({"key": None}, "key: expected one key"),
        ({"y": Y[:, None]}, r"y: the loss of the attack takes no label of shape \[1\]"),
        ({"y": np.eye(CLASSES, dtype=int)[Y]}, rf"takes no label of shape \[{CLASSES}\] beside"),
        ({"x": X[:, :3]}, r"x: the model takes no image of shape \[3, 4, 3\]"),
        ({"progress": 3}, "progress: expected a function"),
        ({"take": "x"}, "take: expected a function"),
        ({"diagnose": "maybe"}, "diagnose: expected True or False"),
        ({"resume": 3}, "resume: expected a folder"),
    ],
)
def test_bad_input_is_refused_before_any_compute(options, word):
    with pytest.raises(ValueError, match=word):
        sweep(options.pop("make", make_pgd), **options)


def test_bytes_are_not_taken_for_thousandths_of_a_scale_of_255():
    def make(params):
        objective = attacks.from_logits(lambda x: net(params, x / 255), loss=losses.cross_entropy)
        return attacks.pgd(objective, threat.linf(bounds=(0, 255)), num_steps=3)

    with pytest.raises(ValueError, match="uint8 images stand for k / 255"):
        sweep(make, epsilons=[2.0])


def test_masks_per_row_are_refused():
    def make(params):
        ball = threat.masked(threat.linf(), jnp.ones((N, 4, 4, 1)))
        objective = attacks.from_logits(lambda x: net(params, x), loss=losses.cross_entropy)
        return attacks.pgd(objective, ball)

    with pytest.raises(ValueError, match="mask"):
        sweep(make)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_only_rounding_put_outside_of_a_ball_counts(norm):
    ball = threat.by_name(norm, (0.0, 255.0))
    x0 = jnp.asarray(RNG.uniform(0, 255, (64, 16, 16, 3)), jnp.float32)
    eps = jnp.full(64, 0.25 if norm == "linf" else 3.0, jnp.float32)
    away = jax.vmap(ball.steepest)(jnp.asarray(RNG.normal(size=x0.shape), jnp.float32))
    x = jax.vmap(ball.project)(x0 + 2 * eps[:, None, None, None] * away, x0, eps)
    assert (jax.vmap(ball.distance)(x, x0) > eps * (1 + 1e-6) + 1e-6).any(), "nothing is tested"
    assert deployed(ball, x, x0, eps, None)[1].all()


def test_half_precision_images_lists_and_double_precision():
    x = (X / 255).astype(np.float16)
    result = sweep(x=x)
    assert result.float_only.sum() == 0
    np.testing.assert_array_equal(result.min_eps, sweep(x=x.astype(np.float32)).min_eps)
    wanted = swept("search").min_eps
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(sweep(x=X / 255.0, y=Y.tolist()).min_eps, wanted)


def test_labels_and_ids_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="label 3 of image 1 is no class"):
        sweep(y=np.where(np.arange(N) == 1, 3, Y))
    with pytest.raises(ValueError, match="32 bits"):
        sweep(ids=np.arange(N) + 2**32)
