"""Losses and criteria against their definitions written out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from advjax import criteria, losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(20, 5)) * 3
LABELS = RNG.integers(0, 5, 20)


def each(loss, *columns):
    return np.asarray([loss(*(jnp.asarray(v) for v in row)) for row in zip(*columns, strict=True)])


def test_cross_entropy():
    expected = -log_softmax(LOGITS, 1)[np.arange(20), LABELS]
    np.testing.assert_allclose(each(losses.cross_entropy, LOGITS, LABELS), expected, rtol=1e-5)
    huge = losses.cross_entropy(jnp.asarray([1e30, 0.0]), jnp.asarray(1))
    assert huge == jnp.float32(1e30)
    for label in (-1, 5):
        assert jnp.isnan(losses.cross_entropy(jnp.asarray(LOGITS[0]), jnp.asarray(label)))


def test_cw_margin_and_its_ceiling():
    own = LOGITS[np.arange(20), LABELS]
    rest = np.where(np.eye(5, dtype=bool)[LABELS], -np.inf, LOGITS).max(1)
    np.testing.assert_allclose(each(losses.cw_margin, LOGITS, LABELS), rest - own, rtol=1e-4)
    capped = each(lambda o, t: losses.cw_margin(o, t, kappa=1.0), LOGITS, LABELS)
    np.testing.assert_allclose(capped, np.minimum(rest - own, 1.0), rtol=1e-4)
    with pytest.raises(ValueError, match="2 classes"):
        losses.cw_margin(jnp.ones(1), jnp.asarray(0))


def test_dlr_and_its_fallbacks():
    ranked = np.sort(LOGITS, 1)[:, ::-1]
    own = LOGITS[np.arange(20), LABELS]
    rest = np.where(np.eye(5, dtype=bool)[LABELS], -np.inf, LOGITS).max(1)
    expected = (rest - own) / (ranked[:, 0] - ranked[:, 2])
    np.testing.assert_allclose(each(losses.dlr, LOGITS, LABELS), expected, rtol=1e-4)
    np.testing.assert_allclose(each(losses.dlr, 7 * LOGITS + 2, LABELS), expected, rtol=1e-3)
    aims = (LABELS + 2) % 5
    wanted = LOGITS[np.arange(20), aims] - own
    scale = ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2

    def targeted(z, y, t):
        return losses.dlr_targeted(z, (y, t))

    np.testing.assert_allclose(each(targeted, LOGITS, LABELS, aims), wanted / scale, rtol=1e-4)
    # fewer classes than the ratios need: plain margins
    few, labels = LOGITS[:, :3], LABELS % 3
    aims = (labels + 1) % 3
    rows = np.arange(20)
    np.testing.assert_allclose(
        each(targeted, few, labels, aims), few[rows, aims] - few[rows, labels], rtol=1e-4
    )
    two, labels = LOGITS[:, :2], LABELS % 2
    margin = two[rows, 1 - labels] - two[rows, labels]
    np.testing.assert_allclose(each(losses.dlr, two, labels), margin, rtol=1e-4)
    first, good, bad = jnp.asarray(LOGITS[0]), jnp.asarray(0), jnp.asarray(-1)
    assert jnp.isnan(losses.dlr(first, bad))
    assert jnp.isnan(targeted(first, good, bad))
    assert jnp.isnan(targeted(first, bad, good))
    with pytest.raises(ValueError, match="2 classes"):
        losses.dlr(jnp.ones(1), jnp.asarray(0))
    with pytest.raises(ValueError, match="2 classes"):
        targeted(jnp.ones(1), jnp.asarray(0), jnp.asarray(0))


def test_dlr_of_the_official_code(golden_dir, x64):
    golden = np.load(golden_dir / "net_rgb_7class.npz")
    found = each(losses.dlr, golden["loss/logits"], golden["loss/y"])
    np.testing.assert_allclose(found, golden["loss/dlr"], rtol=1e-9)


def test_kl_direction():
    other = RNG.normal(size=(20, 5))
    p, q = softmax(other, 1), softmax(LOGITS, 1)
    expected = (p * np.log(p / q)).sum(1)  # KL(reference || prediction)
    np.testing.assert_allclose(each(losses.kl, LOGITS, other), expected, rtol=1e-4)
    np.testing.assert_allclose(each(losses.kl, LOGITS, LOGITS), 0, atol=1e-5)


def test_binary_cross_entropy_leaves_unknown_findings_out():
    labels = RNG.integers(-1, 2, (20, 5))
    labels[0] = -1
    p = expit(LOGITS)
    terms = -(np.where(labels == 1, np.log(p), np.log1p(-p))) * (labels >= 0)
    expected = terms.sum(1) / np.maximum((labels >= 0).sum(1), 1)
    got = each(losses.binary_cross_entropy, LOGITS, labels)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert got[0] == 0
    assert losses.bce is losses.binary_cross_entropy
    # a label that is none is no unknown finding
    for wrong in (2.0, jnp.nan):
        assert jnp.isnan(losses.bce(jnp.ones(2), jnp.asarray([1.0, wrong])))


def test_single_label_criteria():
    for logits, label, missed, reached in (
        ([0.0, 1.0, 0.5], 0, True, False),
        ([2.0, 1.0, 0.5], 0, False, True),
        ([1.0, 1.0, 0.5], 0, False, False),  # a tie is neither
        ([np.nan, 1.0, 0.5], 0, False, False),
        ([0.0, np.inf, 0.5], 0, False, False),
    ):
        output, target = jnp.asarray(logits), jnp.asarray(label)
        assert bool(criteria.misclassified(output, target)) is missed
        assert bool(criteria.reached(output, target)) is reached
        assert bool(criteria.default(output, target)) is missed
        assert bool(criteria.targeted_default(output, target)) is reached


def test_multilabel_criteria():
    labels = jnp.asarray([1, 0, -1])
    for logits, some, every, wanted in (
        ([2.0, -1.0, 5.0], False, False, True),
        ([-2.0, -1.0, 5.0], True, False, False),
        ([-2.0, 1.0, 5.0], True, True, False),
        ([0.0, -1.0, 5.0], False, False, False),
    ):
        output = jnp.asarray(logits)
        assert bool(criteria.any_flipped(output, labels)) is some
        assert bool(criteria.all_flipped(output, labels)) is every
        assert bool(criteria.labels_reached(output, labels)) is wanted
        assert bool(criteria.default(output, labels)) is some
    unknown = jnp.asarray([-1, -1, -1])
    assert not criteria.all_flipped(jnp.ones(3), unknown)
    assert not criteria.labels_reached(jnp.ones(3), unknown)
