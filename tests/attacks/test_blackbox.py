"""SimBA, SPSA, NES, HopSkipJump: closed forms on linear models, and what a black box is owed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Status, attacks, criteria, losses, testing, threat
from advjax.attacks import _estimate, _simba
from advjax.random import example_keys

KEY = jax.random.key(11)
SMALL = {
    "square": {"num_steps": 7},
    "simba": {"num_steps": 7},
    "spsa": {"num_steps": 3, "num_samples": 8},
    "nes": {"num_steps": 3, "num_samples": 8, "chunk": 4},
    "hopskipjump": {"num_steps": 4, "num_samples": 6, "chunk": 3},
}
NAMES = sorted(SMALL)


def problem(num_rows=8):
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.uniform(0.2, 0.8, (num_rows, 5, 4, 2)), jnp.float32)
    weights = rng.normal(size=(40, 3))
    return x, weights - weights.mean(0)


def numpy_model(weights, seen):
    """A model that JAX cannot differentiate, which counts its images."""

    def host(x):
        seen.append(len(x))
        return np.tanh(np.asarray(x).reshape(len(x), -1) @ weights).astype(np.float32)

    def fn(x):
        return jax.pure_callback(host, jax.ShapeDtypeStruct((x.shape[0], 3), jnp.float32), x)

    return fn


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NAMES)
def test_queries_are_the_images_that_the_model_saw(name):
    x, weights = problem()
    seen = []
    fn = numpy_model(weights, seen)
    y = jnp.argmax(fn(x), -1)
    objective = attacks.from_logits(fn, loss=losses.cw_margin)
    attack = attacks.ATTACKS[name](objective, threat.linf(), **SMALL[name])
    call = jax.jit(lambda k, x, y: attacks.run(attack, k, x, y, 0.05, stop="budget"))
    for row in range(3):
        seen.clear()
        result = jax.block_until_ready(call(KEY, x[row : row + 1], y[row : row + 1]))
        assert result.num_queries[0] == sum(seen)
        assert result.num_grads[0] == 0
        assert attack.spec.cost.backwards == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_see_each_other(name):
    x, weights = problem()
    eps = jnp.linspace(0.05, 0.3, 8)
    keys = example_keys(KEY, jnp.arange(8))

    def call(keys, x, eps):
        objective = attacks.from_logits(
            lambda x: x.reshape(x.shape[0], -1) @ jnp.asarray(weights, x.dtype),
            loss=losses.cross_entropy,
        )
        attack = attacks.ATTACKS[name](objective, threat.l2(), **SMALL[name])
        y = jnp.argmax(objective.apply(x, keys), -1)
        return attacks.run(attack, keys, x, y, eps)

    compiled = jax.jit(call)
    whole = compiled(keys, x, eps)
    for at in (jnp.asarray([7, 2, 4]), jnp.asarray([5])):
        part = compiled(keys[at], x[at], eps[at])
        np.testing.assert_allclose(part.x_adv, whole.x_adv[at], atol=1e-5)
        np.testing.assert_array_equal(part.success, whole.success[at])
        np.testing.assert_array_equal(part.num_queries, whole.num_queries[at])
    np.testing.assert_allclose(call(keys, x, eps).x_adv, whole.x_adv, atol=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NAMES)
def test_several_findings_and_a_mask(name):
    x, weights = problem(4)
    mask = jnp.zeros((5, 4, 1), bool).at[:, 1:].set(True)
    objective = attacks.from_logits(
        lambda x: (x.reshape(x.shape[0], -1) - 0.5) @ jnp.asarray(weights, x.dtype),
        loss=losses.binary_cross_entropy,
    )
    labels = (objective.apply(x, None) > 0).astype(jnp.int32)
    attack = attacks.ATTACKS[name](objective, threat.masked(threat.linf(), mask), **SMALL[name])
    result = jax.jit(lambda x: attacks.run(attack, KEY, x, labels, 0.2, stop="budget"))(x)
    assert not ((result.x_adv != x) & ~mask).any()
    assert (result.loss >= jax.vmap(losses.binary_cross_entropy)(objective.apply(x, None), labels)
            - 1e-6).all()  # fmt: skip
    assert result.success.any()
    flipped = jax.vmap(criteria.any_flipped)(objective.apply(result.x_adv, None), labels)
    np.testing.assert_array_equal(flipped, result.success)


def linear(norm, shape=(5, 4, 1)):
    """A linear problem, the gain of loss that eps buys at most, and the distance of each row."""
    fn, x, y, weights = testing.linear_problem(shape=shape)
    w = weights[:, 1] - weights[:, 0]
    dual = np.abs(w).sum() if norm == "linf" else np.linalg.norm(w)
    x = x.astype(jnp.float64)
    clean = np.asarray(jax.vmap(losses.cw_margin)(fn(x), y))
    return fn, x, y, dual, clean


def test_simba_decides_every_pixel_once(x64):
    fn, x, y, dual, clean = linear("linf")
    objective = attacks.from_logits(fn, loss=losses.cw_margin)
    # two queries for each of 20 pixels at most
    attack = attacks.simba(objective, threat.linf(), num_steps=40, step_size=1.0)
    eps = jnp.linspace(0.001, 0.3, len(x))
    result = attacks.run(attack, KEY, x, y, eps, stop="budget")
    np.testing.assert_allclose(result.loss, clean + eps * dual, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"basis": "dct", "num_frequencies": 3}], ids=str)
def test_the_loss_of_simba_never_falls(options, x64):
    fn, x, y, dual, clean = linear("l2")
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    attack = attacks.simba(objective, threat.l2(), num_steps=60, **options)
    eps = jnp.full(len(x), 0.4)
    state = attack.init(jax.random.split(KEY, len(x)), x, y, eps)
    step = jax.jit(lambda state: attack.step(state, x, y, eps))
    losses_seen = []
    for _ in range(60):
        state = step(state)
        losses_seen.append(state.best_loss)
    seen = np.stack(losses_seen)
    assert (np.diff(seen, axis=0) >= 0).all()
    # logits may fall by eps times the norm of the weights, by some part of it in few waves
    margin = np.asarray(jax.vmap(losses.cw_margin)(fn(state.best_x), y))
    assert ((margin - clean) / (0.4 * dual) > (0.8 if not options else 0.3)).all()


def test_cosine_waves_are_orthonormal(x64):
    shape = (5, 4, 2)
    waves = jax.vmap(lambda i: _simba._direction(i, shape, shape, "dct", jnp.float64))(
        jnp.arange(40)
    ).reshape(40, -1)
    np.testing.assert_allclose(waves @ waves.T, np.eye(40), atol=1e-9)
    assert np.ptp(waves[0][::2]) < 1e-12  # the first one is flat


@pytest.mark.slow
@pytest.mark.parametrize("noise", [jax.random.rademacher, jax.random.normal])
def test_estimates_converge_to_the_gradient(noise, x64):
    fn, x, y, _, _ = linear("l2")
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    keys = jax.random.split(KEY, len(x))
    mask = jnp.ones((5, 4, 1), bool).at[0].set(False)

    def gradient(objective):
        return jax.grad(lambda x: objective.evaluate(x, y, (), keys)[0].ascent.sum())(x)

    ball = threat.masked(threat.linf(), mask)
    true = gradient(objective) * mask
    found = [
        gradient(
            _estimate.with_estimated_gradient(
                objective, ball, noise, num_samples=1200, delta=0.01, chunk=chunk
            )
        )
        for chunk in (None, 300)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)
    flat, wanted = (np.asarray(g).reshape(len(x), -1) for g in (found[0], true))
    cosine = (flat * wanted).sum(1) / np.linalg.norm(flat, axis=1) / np.linalg.norm(wanted, axis=1)
    assert (cosine > 0.95).all()
    np.testing.assert_allclose(
        np.linalg.norm(flat, axis=1) / np.linalg.norm(wanted, axis=1), 1, atol=0.15
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["nes", "spsa"])
def test_estimated_steps_reach_the_closed_form(name, norm, x64):
    fn, x, y, dual, clean = linear(norm)
    objective = attacks.from_logits(fn, loss=losses.cw_margin)
    attack = attacks.ATTACKS[name](
        objective, threat.by_name(norm), num_steps=40, num_samples=200, step_size=0.25
    )
    eps = jnp.linspace(0.01, 0.3, len(x))
    result = attacks.run(attack, KEY, x, y, eps, stop="budget")
    gain = (result.loss - clean) / (eps * dual)
    assert (gain <= 1 + 1e-9).all()
    # Adam makes steps of the same size in every pixel, which is not steepest in the Euclidean ball
    assert (gain > (0.85 if (name, norm) == ("spsa", "l2") else 0.95)).all()
    assert (result.num_queries == 40 * 201 + 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hopskipjump_finds_the_nearest_point(norm, x64):
    fn, x, y, dual, clean = linear(norm)
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    attack = attacks.hopskipjump(objective, threat.by_name(norm), num_steps=30)
    result = jax.jit(lambda x: attacks.run(attack, KEY, x, y, jnp.inf))(x)
    optimum = -clean / dual
    assert result.success.all()
    assert (result.distance >= optimum * (1 - 1e-9)).all()
    print(norm, np.asarray(result.distance / optimum))
    assert (result.distance <= 1.05 * optimum).all()
    near = jax.jit(lambda x: attacks.run(attack, KEY, x, y, jnp.asarray(0.9 * optimum)))(x)
    assert not near.success.any()
    assert (near.distance == jnp.inf).all()
    assert (near.x_adv == x).all()


def test_hopskipjump_from_a_given_image_of_the_wanted_class():
    fn, x, y, _ = testing.linear_problem(num_classes=3)
    y = (y + 1) % 3
    far = jnp.clip(x + 0.3 * jnp.sign(jax.grad(lambda x: fn(x)[jnp.arange(6), y].sum())(x)), 0, 1)
    objective = attacks.from_logits(fn, loss=losses.cross_entropy, targeted=True)
    attack = attacks.hopskipjump(objective, threat.l2(), num_steps=8, start_tries=1)
    result = jax.jit(lambda x: attacks.run(attack, KEY, x, y, jnp.inf, x_start=far))(x)
    assert result.success.all()
    assert (jnp.argmax(fn(result.x_adv), -1) == y).all()
    start = jnp.linalg.norm((far - x).reshape(6, -1), axis=1)
    assert (result.distance < 0.7 * start).all()


@pytest.mark.slow
def test_hopskipjump_leaves_an_image_that_is_wrong_and_one_that_nothing_breaks():
    x = jnp.full((2, 4, 4, 1), 0.5)
    objective = attacks.from_logits(
        lambda x: jnp.stack([x[:, 0, 0, 0] * 0, x[:, 0, 0, 0] * 0 + 1], -1),
        loss=losses.cross_entropy,
    )
    attack = attacks.hopskipjump(objective, threat.l2(), num_steps=3, start_tries=5)
    result = attacks.run(attack, KEY, x, jnp.asarray([0, 1]), jnp.inf)
    assert result.success.tolist() == [True, False]
    assert result.distance.tolist() == [0.0, jnp.inf]
    assert (result.x_adv == x).all()
    assert result.num_queries.tolist() == [4, 3 * 6 + 1]
    assert (result.status == Status.OK).all()


def test_what_they_refuse():
    objective = attacks.from_logits(lambda x: x.mean((1, 2)), loss=losses.cross_entropy)
    ball = threat.linf()
    for call, what in (
        (lambda: attacks.simba(objective, ball, basis="wavelet"), "basis"),
        (lambda: attacks.simba(objective, ball, num_frequencies=3), "num_frequencies"),
        (lambda: attacks.simba(objective, ball, step_size=1.0, step_size_abs=0.1), "step_size_abs"),
        (lambda: attacks.nes(objective, ball, num_samples=5), "num_samples"),
        (lambda: attacks.spsa(objective, ball, chunk=48), "chunk"),
        (lambda: attacks.spsa(objective, ball, delta=0.0), "delta"),
        (lambda: attacks.hopskipjump(objective, ball._replace(name="l1")), "l1"),
        (lambda: attacks.hopskipjump(objective, ball, chunk=0), "chunk"),
        (lambda: attacks.hopskipjump(objective, ball, gamma=0.0), "gamma"),
    ):
        with pytest.raises(ValueError, match=what):
            call()
