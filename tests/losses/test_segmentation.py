"""Losses and criteria of segmentation and of label sets against their definitions by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from advjax import attacks, criteria, losses, threat

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 6, 5, 3)) * 2
MASKS = RNG.integers(0, 3, (4, 6, 5))
MASKS[1, :2] = losses.IGNORE
MASKS[2][MASKS[2] == 2] = 0
MASKS[3] = losses.IGNORE


def each(fn, logits=LOGITS, masks=MASKS):
    return np.asarray(jax.vmap(fn)(jnp.asarray(logits), jnp.asarray(masks)))


def naive_dice(p, t, known):
    """Per-class Dice of probabilities or of one-hot predictions `[H, W, K]`."""
    p, t = p * known[..., None], t * known[..., None]
    return (2 * (p * t).sum((0, 1)) + 1e-6) / ((p + t).sum((0, 1)) + 1e-6)


def test_pixel_cross_entropy_is_a_mean_over_pixels_that_count():
    terms = -np.take_along_axis(log_softmax(LOGITS, -1), (MASKS % 255)[..., None], -1)[..., 0]
    known = MASKS != 255
    expected = (terms * known).sum((1, 2)) / np.maximum(known.sum((1, 2)), 1)
    got = each(losses.pixel_cross_entropy)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert got[3] == 0
    as_bytes = each(losses.pixel_cross_entropy, masks=MASKS.astype(np.uint8))
    np.testing.assert_array_equal(as_bytes, got)


@pytest.mark.sample(1)
@pytest.mark.parametrize("loss", [losses.pixel_cross_entropy, losses.dice_loss])
def test_a_class_that_does_not_exist_is_nan_and_ignored_pixels_have_no_gradient(loss):
    for wrong in (-1, 3, 254):
        assert jnp.isnan(loss(jnp.asarray(LOGITS[0]), jnp.asarray(MASKS[0]).at[0, 0].set(wrong)))
    gradient = jax.grad(loss)(jnp.asarray(LOGITS[1]), jnp.asarray(MASKS[1]))
    assert (gradient[:2] == 0).all()
    assert (gradient[2:] != 0).any()
    assert (jax.grad(loss)(jnp.asarray(LOGITS[3]), jnp.asarray(MASKS[3])) == 0).all()
    with pytest.raises(AssertionError, match=r"\[H, W, K\]"):
        loss(jnp.asarray(LOGITS[0]), jnp.asarray(MASKS[0])[..., None])


def test_dice_loss():
    hot = np.eye(3)[MASKS % 255 % 3]
    known = MASKS != 255
    parts = zip(softmax(LOGITS, -1), hot, known, strict=True)
    per_class = [naive_dice(*part) for part in parts]
    np.testing.assert_allclose(each(losses.dice_loss), 1 - np.mean(per_class, 1), atol=1e-6)
    without = each(lambda z, m: losses.dice_loss(z, m, background=False))
    np.testing.assert_allclose(without, 1 - np.mean(np.array(per_class)[:, 1:], 1), atol=1e-6)
    p, t = softmax(LOGITS, -1) * known[..., None], hot * known[..., None]
    pooled = (2 * (p * t).sum((1, 2, 3)) + 1e-6) / ((p + t).sum((1, 2, 3)) + 1e-6)
    got = each(lambda z, m: losses.dice_loss(z, m, pooled=True))
    np.testing.assert_allclose(got, 1 - pooled, atol=1e-6)
    sure = jnp.asarray(200.0 * hot[0])
    assert losses.dice_loss(sure, jnp.asarray(MASKS[0])) == 0  # perfect
    empty = jnp.zeros((6, 5), int)
    # no foreground and none predicted: 1 by smoothing
    assert losses.dice_loss(200.0 * jnp.eye(3)[empty], empty, background=False) == 0
    with pytest.raises(ValueError, match="background"):
        losses.dice_loss(sure[..., :1], empty, background=False)


def naive_scores(logits, mask):
    """Dice, IoU and pixel accuracy of one image with loops over classes."""
    known, found = mask != 255, logits.argmax(-1)
    dice, iou = [], []
    for k in range(1, logits.shape[-1]):
        a, b = (found == k) & known, (mask == k) & known
        if a.any() or b.any():
            dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
            iou.append((a & b).sum() / (a | b).sum())
    right = (found == mask)[known]
    return [np.mean(v) if len(v) else 1.0 for v in (dice, iou, right)]


def test_scores_of_an_image():
    expected = np.array([naive_scores(z, m) for z, m in zip(LOGITS, MASKS, strict=True)])
    for column, score in enumerate((criteria.dice, criteria.iou, criteria.pixel_accuracy)):
        np.testing.assert_allclose(each(score), expected[:, column], rtol=1e-6)
    # class 2 in neither mask nor prediction: only class 1 is averaged
    two = jnp.asarray([[[0.0, 1.0, -1.0], [1.0, 0.0, -1.0]]])
    assert criteria.dice(two, jnp.asarray([[1, 1]])) == pytest.approx(2 / 3)
    assert criteria.iou(two, jnp.asarray([[1, 1]])) == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="2 classes"):
        criteria.dice(jnp.ones((2, 2, 1)), jnp.zeros((2, 2), int))


def test_thresholds():
    scores = np.array([naive_scores(z, m) for z, m in zip(LOGITS, MASKS, strict=True)])
    for column, factory in ((0, criteria.dice_below), (2, criteria.pixel_accuracy_below)):
        for threshold in (0.2, 0.35, 0.6, 1.0):
            expected = scores[:, column] < threshold
            expected[3] = False  # nothing counts
            np.testing.assert_array_equal(each(factory(threshold)), expected)
    # exactly at the threshold is not below
    one = jnp.asarray([[[0.0, 1.0], [1.0, 0.0]]])
    assert not criteria.pixel_accuracy_below(0.5)(one, jnp.asarray([[1, 1]]))
    for factory in (criteria.dice_below, criteria.mask_reached, criteria.pixels_reached,
                    criteria.pixel_accuracy_below):  # fmt: skip
        assert factory(0.3) == factory(0.3)
        assert hash(factory(0.3)) == hash(factory(0.3))
        assert factory(0.3) != factory(0.4)
        for bad in (0, 1.1, float("nan")):
            with pytest.raises(ValueError, match=r"\(0, 1\]"):
                factory(bad)


def test_wanted_masks():
    wanted = jnp.asarray([[1, 1, 1, 1, 2], [0, 0, 0, 0, 255]])
    exact = jnp.eye(3)[wanted % 255 % 3]
    nine = exact.at[0, 0].set(jnp.asarray([1.0, 0.0, 0.0]))  # IoU (3/4 + 1) / 2, 8 of 9 pixels
    for criterion, met in (
        (criteria.mask_reached(0.875), True), (criteria.mask_reached(0.88), False),
        (criteria.pixels_reached(8 / 9), True), (criteria.pixels_reached(0.9), False),
    ):  # fmt: skip
        assert bool(criterion(nine, wanted)) is met
        assert criterion(exact, wanted)
        assert not criterion(exact, jnp.full_like(wanted, 255))  # nothing is wanted
    nothing = jnp.zeros((2, 5), int)
    assert criteria.mask_reached()(jnp.eye(3)[nothing], nothing)
    # a tie with the wanted class is not the wanted class
    assert not criteria.mask_reached(0.1)(jnp.ones((2, 5, 3)), jnp.ones((2, 5), int))


def test_defaults_by_rank():
    z, m = jnp.asarray(LOGITS), jnp.asarray(MASKS)
    found = jax.vmap(criteria.default)(z, m)
    np.testing.assert_array_equal(found, each(criteria.dice_below(0.5)))
    wanted = jnp.argmax(z, -1)
    assert jax.vmap(criteria.targeted_default)(z, wanted).all()
    assert not jax.vmap(criteria.targeted_default)(z, (wanted + 1) % 3).any()
    with pytest.raises(ValueError, match="criterion"):
        criteria.default({"boxes": z[0]}, jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="criterion"):
        criteria.default(z, jnp.zeros((2, 2, 2), int))


def test_flipped_counts_known_labels():
    labels = jnp.asarray([1, 0, 1, -1])
    for logits, wrong in (([2.0, -1.0, 1.0, 3.0], 0), ([-2.0, -1.0, 1.0, -3.0], 1),
                          ([-2.0, 1.0, 0.0, 3.0], 2), ([-2.0, 1.0, -1.0, 3.0], 3)):  # fmt: skip
        for k in (1, 2, 3, 4):
            assert bool(criteria.flipped(at_least=k)(jnp.asarray(logits), labels)) is (wrong >= k)
        one = criteria.flipped(1)(jnp.asarray(logits), labels)
        assert one == criteria.any_flipped(jnp.asarray(logits), labels)
    assert criteria.flipped(2) == criteria.flipped(at_least=2)
    with pytest.raises(ValueError, match="at_least"):
        criteria.flipped(0)


def test_targets_that_hide_and_fabricate():
    labels = jnp.asarray([[1, 0, 1], [0, -1, 1]])
    np.testing.assert_array_equal(criteria.hide_finding(labels, 2), [[-1, -1, 0]] * 2)
    np.testing.assert_array_equal(
        criteria.fabricate_finding(labels, 1, keep_others=True), [[1, 1, 1], [0, 1, 1]]
    )
    per_row = criteria.hide_finding(labels, jnp.asarray([0, 2]), keep_others=True)
    np.testing.assert_array_equal(per_row, [[0, 0, 1], [0, -1, 0]])
    np.testing.assert_array_equal(
        jax.jit(criteria.hide_finding)(labels, 0), criteria.hide_finding(labels, 0)
    )
    for bad in (3, -1):
        with pytest.raises(ValueError, match=r"0\.\.2"):
            criteria.hide_finding(labels, bad)
    with pytest.raises(ValueError, match="signed"):
        criteria.fabricate_finding(labels.astype(jnp.uint8), 0)
    # what they are for: only the chosen finding decides
    target = criteria.hide_finding(labels[0], 0)
    assert criteria.targeted_default(jnp.asarray([-1.0, 9.0, 9.0]), target)
    assert not criteria.targeted_default(jnp.asarray([1.0, -9.0, -9.0]), target)


def test_label_margin():
    logits, labels = jnp.asarray([2.0, -1.0, 0.5, 9.0]), jnp.asarray([1, 1, 0, -1])
    for reduce, chosen, expected in (
        ("max", None, 1.0), ("min", None, -2.0), ("mean", None, -1 / 6),
        ("max", [0, 2], 0.5), ("min", [1, 2], 0.5), ("mean", [1], 1.0), ("max", [3], 0.0),
    ):  # fmt: skip
        loss = losses.label_margin(chosen, reduce=reduce)
        np.testing.assert_allclose(loss(logits, labels), expected, rtol=1e-6)
    # the chosen label alone has a gradient; beyond kappa it has none
    gradient = jax.grad(losses.label_margin([1]))(logits, labels)
    np.testing.assert_array_equal(gradient, [0, -1, 0, 0])
    capped = losses.label_margin(reduce="mean", kappa=0.75)
    np.testing.assert_allclose(capped(logits, labels), (-2 + 0.75 + 0.5) / 3)
    np.testing.assert_allclose(jax.grad(capped)(logits, labels), [-1 / 3, 0, 1 / 3, 0])
    assert losses.label_margin([1, 2]) == losses.label_margin((1, 2))
    for bad in ({"labels": []}, {"labels": [-1]}, {"reduce": "sum"}):
        with pytest.raises(ValueError, match="label_margin"):
            losses.label_margin(**bad)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        losses.label_margin([4])(logits, labels)


@pytest.mark.slow
def test_a_targeted_attack_on_a_chosen_finding_moves_that_finding():
    weights = jnp.asarray(RNG.normal(size=(12, 4)), jnp.float32)
    x = jnp.full((1, 12), 0.5)
    fn = lambda x: (x - 0.5) @ weights
    target = criteria.fabricate_finding(jnp.zeros((1, 4), int), 2)
    objective = attacks.from_logits(fn, loss=losses.label_margin([2]), targeted=True)
    result = attacks.run(attacks.fgsm(objective, threat.linf()), jax.random.key(0), x, target, 0.1)
    np.testing.assert_allclose(result.x_adv[0], 0.5 + 0.1 * np.sign(weights[:, 2]), atol=1e-6)
    assert result.success.all()
