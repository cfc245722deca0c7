"""Universal perturbations: on linear models the best one is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, metrics, testing, threat, training

KEY = jax.random.key(0)


def one_sided(num=16, shape=(4, 4, 1)):
    """Return a binary linear problem all of whose images are of class 0, and its weights."""
    fn, x, _, weights = testing.linear_problem(num_rows=num, shape=shape)
    slope = jnp.asarray((weights[:, 1] - weights[:, 0]).reshape(shape), jnp.float32)
    lift = jnp.asarray([0.2, 0.0]) + jnp.asarray([1.0, 0.0]) * jnp.max(fn(x)[:, 1] - fn(x)[:, 0])

    def logits(params, x):
        return fn(x) * params["scale"] + lift

    return logits, {"scale": jnp.float32(1)}, x, slope


LOGITS, PARAMS, X, SLOPE = one_sided()


def signs(params):
    objective = attacks.from_logits(lambda x: LOGITS(params, x), loss=losses.cross_entropy)
    return attacks.fgsm(objective, threat.linf())


def to_target(params):
    objective = attacks.from_logits(
        lambda x: LOGITS(params, x), loss=losses.cross_entropy, targeted=True
    )
    return attacks.fgsm(objective, threat.linf())


def nearest(params):
    objective = attacks.from_logits(lambda x: LOGITS(params, x), loss=losses.cross_entropy)
    return attacks.deepfool(objective, threat.l2(), num_steps=3, search_steps=0)


def needed():
    """The l-infinity budgets that bring each image to class 1."""
    margin = LOGITS(PARAMS, X)[:, 0] - LOGITS(PARAMS, X)[:, 1]
    return np.asarray(margin / jnp.abs(SLOPE).sum())


def test_the_sign_version_finds_the_corner_of_a_linear_model():
    # one class only: every step goes the same way, eps sign(w) is reached and stays
    eps = float(np.median(needed()))
    found = training.train_uap(signs, PARAMS, X, eps=eps, key=KEY, max_passes=4, delta=0)
    np.testing.assert_allclose(found.perturbation, eps * jnp.sign(SLOPE), atol=1e-6)
    assert found.rate == np.mean(needed() < eps)
    assert 0 < found.rate < 1
    assert len(found.rates) == 4
    clean = np.argmax(LOGITS(PARAMS, X), -1)
    moved = np.argmax(LOGITS(PARAMS, X + found.perturbation), -1)
    assert metrics.fooling_rate(clean, moved) == found.rate
    np.testing.assert_array_equal(
        metrics.confusion_matrix(moved, clean, num_classes=2).sum(0)[1], moved.sum()
    )


def test_targeted_is_untargeted_where_there_is_one_other_class():
    options = {"eps": 0.5, "key": KEY, "max_passes": 1, "attack_eps": 1e-3}
    free = training.train_uap(signs, PARAMS, X, **options)
    bound = training.train_uap(to_target, PARAMS, X, target=1, **options)
    np.testing.assert_allclose(free.perturbation, bound.perturbation, atol=1e-6)
    assert free.rate == bound.rate
    every = training.train_uap(to_target, PARAMS, X, target=np.ones(len(X), int), **options)
    np.testing.assert_array_equal(bound.perturbation, every.perturbation)
    # what is there already needs no perturbation
    still = training.train_uap(to_target, PARAMS, X, target=0, **options)
    assert still.rate == 1
    assert still.updates == 0
    assert (still.perturbation == 0).all()


def test_steps_add_up_one_image_at_a_time():
    # far from the boundary nobody is fooled: N images, N steps; in batches of 4, N / 4
    options = {"eps": 0.1, "key": KEY, "max_passes": 1, "attack_eps": 1e-5}
    one = training.train_uap(signs, PARAMS, X, **options)
    np.testing.assert_allclose(one.perturbation, 16e-5 * jnp.sign(SLOPE), rtol=1e-2)
    four = training.train_uap(signs, PARAMS, X, batch_size=4, **options)
    np.testing.assert_allclose(four.perturbation, 4e-5 * jnp.sign(SLOPE), rtol=1e-2)
    assert (one.updates, four.updates) == (16, 4)
    # a batch that is not full counts what it has
    odd = training.train_uap(signs, PARAMS, X, batch_size=5, **options)
    assert odd.updates == 4
    np.testing.assert_allclose(odd.perturbation, 4e-5 * jnp.sign(SLOPE), rtol=1e-2)


def test_only_successes_move_where_that_is_asked():
    options = {"eps": 0.1, "key": KEY, "max_passes": 2, "attack_eps": 1e-5}
    found = training.train_uap(signs, PARAMS, X, accept="success", **options)
    assert found.updates == 0
    assert (found.perturbation == 0).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_stops_when_enough_are_fooled(norm):
    ball = threat.by_name(norm)
    size = 2 * needed().max() * (1 if norm == "linf" else SLOPE.size**0.5)
    found = training.train_uap(
        nearest, PARAMS, X, eps=float(size), ball=ball, key=KEY, delta=0.2, max_passes=9
    )
    assert found.rate >= 0.8
    assert len(found.rates) < 9
    assert found.rate == found.rates.max()
    # steps of DeepFool on a linear model are along its slope, and so is their sum
    cosine = np.sum(found.perturbation * SLOPE) / (
        np.linalg.norm(found.perturbation) * np.linalg.norm(SLOPE)
    )
    assert cosine > 0.999
    # the perturbation is an attack: engine and runner judge it as training did
    objective = attacks.from_logits(lambda x: LOGITS(PARAMS, x), loss=losses.cross_entropy)
    attack = attacks.universal(objective, ball, perturbation=found.perturbation, scale=False)
    result = attacks.run(attack, KEY, X, jnp.zeros(len(X), jnp.int32), float(size))
    assert np.mean(result.success) == found.rate


def test_the_ball_bounds_it_whatever_the_attack_does():
    for norm, size in (("linf", 0.004), ("l2", 0.01)):
        ball = threat.by_name(norm)
        found = training.train_uap(
            nearest, PARAMS, X, eps=size, ball=ball, key=KEY, delta=0, max_passes=2
        )
        v = jnp.asarray(found.perturbation)
        np.testing.assert_allclose(ball.distance(v, jnp.zeros_like(v)), size, rtol=1e-3)


def test_findings_and_bytes():
    # two findings, both absent; the perturbation that shows the first one
    weights = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)

    def make_attack(params):
        del params
        objective = attacks.from_logits(
            lambda x: (x - 0.5).reshape(len(x), -1) @ weights - 1,
            loss=losses.binary_cross_entropy, targeted=True,
        )  # fmt: skip
        return attacks.fgsm(objective, threat.linf())

    x = np.full((6, 4, 4, 1), 128, np.uint8)
    found = training.train_uap(
        make_attack, {}, x, eps=0.2, key=KEY, target=np.array([1, -1]), max_passes=5
    )
    assert found.rate == 1
    logits = found.perturbation.reshape(-1) @ weights - 1
    assert logits[0] > 0


def test_radius_is_a_share_of_the_mean_norm():
    x = np.stack([np.full((2, 2, 1), 0.5), np.full((2, 2, 1), 1.0)]).astype(np.float32)
    assert training.uap_radius(x, 0.1, "l2") == pytest.approx(0.1 * 1.5)
    assert training.uap_radius(x, 0.1, "linf") == pytest.approx(0.1 * 0.75)
    assert training.uap_radius((x * 255).astype(np.uint8)) == pytest.approx(0.04 * 1.5, rel=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": 0.0}, "eps"),
        ({"eps": 0.1, "delta": 1.0}, "delta"),
        ({"eps": 0.1, "batch_size": 99}, "batch_size"),
        ({"eps": 0.1, "max_passes": 0}, "max_passes"),
        ({"eps": 0.1, "accept": "never"}, "accept"),
        ({"eps": 0.1, "target": 0.5}, "target"),
        ({"eps": 0.1, "target": 9}, "target: the model has classes 0 to"),
        ({"eps": 0.1, "x": X * 255}, "outside of the bounds"),
        ({"eps": 0.1, "x": X * np.nan}, "NaN"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        training.train_uap(signs, PARAMS, options.pop("x", X), key=KEY, **options)
