"""Traces of attacks: divergences against their formulas, and against a run of the attack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import analysis, attacks, losses, testing, threat

KEY = jax.random.key(0)
FN, X, Y, WEIGHTS = testing.linear_problem(shape=(6, 5, 1), num_classes=3)
OBJECTIVE = attacks.from_logits(FN, loss=losses.cross_entropy)


def softmax(z):
    z = np.asarray(z, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def follow(attack, target=Y, eps=0.05, **options):
    told = jax.jit(lambda x: analysis.trace(attack, KEY, x, target, eps, **options))(X)
    return jax.tree.map(np.asarray, told)


@pytest.mark.sample(1)
@pytest.mark.parametrize("a2", [0.0, 1.0])
def test_a_trace_follows_smia(a2):
    attack = attacks.smia(OBJECTIVE, threat.linf(), num_steps=4, a2=a2)
    told = follow(attack)
    eps = jnp.full(len(X), 0.05)
    step = jax.jit(lambda state: attack.step(state, X, Y, eps))
    state, points = attack.init(jax.random.split(KEY, len(X)), X, Y, eps), [X]
    for _ in range(4):
        state = step(state)
        points.append(state.x)
    outputs = [softmax(FN(x)) for x in points]
    for t, p in enumerate(outputs):
        before = outputs[max(t - 1, 0)]
        np.testing.assert_allclose(told.from_last[t], kl(p, before), atol=1e-5)
        np.testing.assert_allclose(told.from_clean[t], kl(p, outputs[0]), rtol=1e-3, atol=1e-5)
        entropy = -np.log(p[np.arange(len(Y)), Y])
        np.testing.assert_allclose(told.to_target[t], entropy, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(told.loss[t], entropy, rtol=1e-3, atol=1e-5)
        change = np.asarray(points[t] - X)
        np.testing.assert_allclose(told.distance[t], np.abs(change).max((1, 2, 3)), atol=1e-6)
        np.testing.assert_allclose(told.variance[t], change.var((1, 2, 3)), atol=1e-6)
        np.testing.assert_array_equal(told.success[t], p.argmax(-1) != Y)
    assert (told.from_last[0] == 0).all()
    assert (told.from_last[1:] > 0).any()


def test_the_stabilisation_term_changes_the_trace():
    without, with_it = (
        follow(attacks.smia(OBJECTIVE, threat.linf(), num_steps=4, a2=a2)) for a2 in (0.0, 1.0)
    )
    plain = follow(attacks.bim(OBJECTIVE, threat.linf(), num_steps=4))
    np.testing.assert_allclose(without.from_clean, plain.from_clean, atol=1e-6)
    # the first step knows no perturbation to smooth
    np.testing.assert_allclose(without.loss[1], with_it.loss[1], atol=1e-6)
    assert not np.allclose(without.loss[-1], with_it.loss[-1], atol=1e-6)


def test_findings():
    labels = jnp.asarray(np.random.default_rng(0).integers(-1, 2, (len(X), 3)), jnp.int32)
    objective = attacks.from_logits(FN, loss=losses.binary_cross_entropy)
    told = follow(attacks.pgd(objective, threat.linf(), num_steps=2), labels)
    np.testing.assert_allclose(told.to_target, told.loss, rtol=1e-4, atol=1e-6)
    p = np.asarray(jax.nn.sigmoid(FN(X)), np.float64)
    q = np.roll(p, 1, axis=0)
    expected = (kl(np.stack([p, 1 - p], -1), np.stack([q, 1 - q], -1))).mean(-1)
    found = jax.vmap(analysis.sigmoid_kl)(FN(X), jnp.roll(FN(X), 1, 0))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_masks_are_means_over_pixels():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    other = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    expected = kl(softmax(logits), softmax(other)).mean()
    assert float(analysis.softmax_kl(logits, other)) == pytest.approx(expected, rel=1e-4)
    mask = jnp.asarray([[0, 1, 255], [3, 2, 255]])
    entropy = -np.log(softmax(logits)).reshape(6, 4)[[0, 1, 3, 4], [0, 1, 3, 2]].mean()
    assert float(analysis.softmax_to(logits, mask)) == pytest.approx(entropy, rel=1e-4)


@pytest.mark.slow
def test_a_detector_is_followed_by_its_heatmap():
    mixed = jnp.asarray(np.random.default_rng(1).normal(size=(1, 7)), jnp.float32)

    def maps(x):
        output = x[:, ::3, ::3] @ mixed
        return {"heatmap": output[..., :3], "size": output[..., 3:5], "offset": output[..., 5:]}

    boxes = jnp.broadcast_to(jnp.asarray([[1.0, 0, 0, 4, 4], [-1.0] * 5]), (len(X), 2, 5))
    objective = attacks.from_logits(maps, loss=losses.centernet_loss)
    attack = attacks.bim(objective, threat.linf(), num_steps=2)
    told = follow(attack, boxes)
    x_adv = attacks.run(attack, KEY, X, boxes, 0.05, stop="budget").x_adv
    p, q = (np.asarray(jax.nn.sigmoid(maps(x)["heatmap"]), np.float64) for x in (x_adv, X))
    expected = kl(np.stack([p, 1 - p], -1), np.stack([q, 1 - q], -1)).sum((1, 2, 3))
    np.testing.assert_allclose(told.from_clean[-1], expected, rtol=1e-3, atol=1e-7)
    assert (told.from_clean[0] == 0).all()
    np.testing.assert_allclose(told.to_target, told.loss, rtol=1e-6)
    assert (told.loss[-1] > told.loss[0]).all()


def test_perturbation_variance():
    rng = np.random.default_rng(0)
    x, change = rng.random((4, 3, 3, 1)), rng.normal(size=(4, 3, 3, 1))
    found = analysis.perturbation_variance(x, x + change)
    np.testing.assert_allclose(found.within, change.var((1, 2, 3)))
    np.testing.assert_allclose(found.across, change.var(0))
    # one and the same perturbation does not vary over images; a constant one not over pixels
    assert analysis.perturbation_variance(x, x + change[:1]).mean_across == pytest.approx(0)
    assert analysis.perturbation_variance(x, x + 0.1).mean_within == pytest.approx(0)
    with pytest.raises(ValueError, match="two sets"):
        analysis.perturbation_variance(x, x[:1])


def test_a_target_that_is_no_array():
    attack = attacks.pgd(OBJECTIVE, threat.linf(), num_steps=1)
    with pytest.raises(ValueError, match="one array"):
        analysis.trace(attack, KEY, X, (Y, Y), 0.1)
