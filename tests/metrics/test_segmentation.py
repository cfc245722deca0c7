"""Overlap of masks by hand, and against what the criteria see; labels that go together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import criteria, metrics

# 2 x 3 pixels: class 0 background, 1 and 2 foreground, 3 never there
FOUND = np.array([[[0, 1, 1], [2, 2, 0]], [[0, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]])
MASK = np.array([[[0, 1, 2], [2, 255, 1]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
# image 0, without the ignored pixel: class 0 found 2 true 1 both 1; 1: 2, 2, 1; 2: 1, 2, 1
COUNTS = [
    [[1, 2, 1], [1, 2, 2], [1, 1, 2], [0, 0, 0]],
    [[5, 5, 6], [0, 1, 0], [0, 0, 0], [0, 0, 0]],
    [[6, 6, 6], [0, 0, 0], [0, 0, 0], [0, 0, 0]],
]


def test_overlap_counts_pixels():
    counts = metrics.overlap(FOUND, MASK, 4)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, COUNTS)
    np.testing.assert_array_equal(
        metrics.overlap(FOUND.astype(float), MASK.astype("u1"), 4), COUNTS
    )
    np.testing.assert_array_equal(
        metrics.overlap(FOUND == 1, MASK == 1, 2)[1], [[5, 5, 6], [0, 1, 0]]
    )
    for found, mask, k, words in (
        (FOUND, MASK, 2, "a prediction has class 2"), (FOUND % 2, MASK, 2, "a mask has class 2"),
        (FOUND, MASK - 1, 4, "class -1"), (FOUND[0], MASK[0], 4, r"\[N, H, W\]"),
        (FOUND + 0.5, MASK, 4, "whole"), (FOUND[:0], MASK[:0], 4, "no example"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            metrics.overlap(found, mask, k)


def test_dice_and_iou_per_class_by_image_and_pooled():
    names = ("back", "a", "b", "c")
    by_image = metrics.dice(COUNTS, names=names)
    # class 1: images 0 and 1 have it (2/4 and 0); class 2: image 0 alone
    np.testing.assert_allclose(by_image.values, [0.25, 2 / 3, np.nan])
    assert by_image.mean == pytest.approx((0.25 + 2 / 3) / 2)
    assert by_image.undefined == ("c",)
    pooled = metrics.dice(COUNTS, pooled=True, background=True, names=names)
    np.testing.assert_allclose(pooled.values, [24 / 26, 2 / 5, 2 / 3, np.nan])
    np.testing.assert_allclose(
        metrics.iou(COUNTS, pooled=True, background=True).values, [12 / 14, 1 / 4, 1 / 2, np.nan]
    )
    assert metrics.mean_iou(COUNTS) == pytest.approx((12 / 14 + 1 / 4 + 1 / 2) / 3)
    np.testing.assert_allclose(metrics.iou(COUNTS).values, [(1 / 3 + 0) / 2, 1 / 2, np.nan])
    # batches are joined by joining their counts
    halves = np.concatenate([metrics.overlap(FOUND[:1], MASK[:1], 4),
                             metrics.overlap(FOUND[1:], MASK[1:], 4)])  # fmt: skip
    np.testing.assert_array_equal(halves, COUNTS)


def test_images_and_accuracies():
    np.testing.assert_allclose(metrics.image_dice(COUNTS), [(0.5 + 2 / 3) / 2, 0, 1])
    np.testing.assert_allclose(metrics.image_iou(COUNTS), [(1 / 3 + 1 / 2) / 2, 0, 1])
    assert metrics.pixel_accuracy(COUNTS) == pytest.approx(14 / 17)
    np.testing.assert_allclose(metrics.image_pixel_accuracy(COUNTS), [3 / 5, 5 / 6, 1])
    per_class = metrics.class_pixel_accuracy(COUNTS)
    np.testing.assert_allclose(per_class.values, [12 / 13, 1 / 2, 1 / 2, np.nan])
    assert per_class.undefined == ("3",)


def test_perfect_masks_empty_masks_and_0_over_0():
    perfect = metrics.overlap(FOUND, FOUND, 4)
    assert metrics.dice(perfect).mean == metrics.mean_iou(perfect) == 1
    assert metrics.pixel_accuracy(perfect) == 1
    empty = metrics.overlap(FOUND * 0, FOUND * 0, 2)
    np.testing.assert_array_equal(metrics.image_dice(empty), 1)
    assert np.isnan(metrics.dice(empty).mean)
    assert metrics.dice(empty).undefined == ("1",)
    ignored = metrics.overlap(FOUND, np.full_like(FOUND, 255), 4)
    assert np.isnan(metrics.pixel_accuracy(ignored))
    assert np.isnan(metrics.image_pixel_accuracy(ignored)).all()
    as_floats = metrics.dice(np.asarray(COUNTS, np.float32))
    np.testing.assert_array_equal(as_floats.values, metrics.dice(COUNTS).values)
    for bad in (np.ones((2, 3)), np.full((2, 3, 3), 0.5), np.zeros((0, 2, 3), int)):
        with pytest.raises(ValueError, match=r"counts|no example"):
            metrics.dice(bad)


def test_the_criteria_compare_the_same_numbers():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5, 4, 6, 3))
    mask = rng.choice([0, 0, 0, 1, 2, 255], size=(5, 4, 6))
    counts = metrics.overlap(logits.argmax(-1), mask, 3)
    same = {
        criteria.dice: metrics.image_dice(counts),
        criteria.iou: metrics.image_iou(counts),
        criteria.pixel_accuracy: metrics.image_pixel_accuracy(counts),
    }
    for score, values in same.items():
        found = jax.vmap(score)(jnp.asarray(logits), jnp.asarray(mask))
        np.testing.assert_allclose(found, values, rtol=1e-6)


def test_co_occurrence():
    labels = np.array([[1, 1, 0], [1, 1, 1], [1, 0, -1], [0, 0, 0], [0, 0, 1], [0, 0, 1]])
    found = metrics.co_occurrence(labels)
    np.testing.assert_array_equal(found, [[1, 2, 1], [2, 0, 1], [1, 1, 2]])
    rng = np.random.default_rng(0)
    many = rng.integers(0, 2, (40, 5))
    found = metrics.co_occurrence(many)
    np.testing.assert_array_equal(found, found.T)
    for i in range(5):
        for j in range(5):
            both = many[:, i] & many[:, j]
            alone = many[:, i] & (many.sum(1) == 1)
            assert found[i, j] == (alone if i == j else both).sum()
    with pytest.raises(ValueError, match="co_occurrence"):
        metrics.co_occurrence(many * 0.5)


def test_label_correlation():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    b[:, 2] = 0.1 * 3  # a label the attack made constant
    found = metrics.label_correlation(a, b)
    np.testing.assert_allclose(found[:, :2], np.corrcoef(a.T, b[:, :2].T)[:3, 3:], atol=1e-12)
    assert np.isnan(found[:, 2]).all()
    np.testing.assert_allclose(metrics.label_correlation(a, -2 * a + 1).diagonal(), -1)
    per_label = metrics.paired_correlation(a, b, names=("x", "y", "z"))
    np.testing.assert_allclose(per_label.values[:2], found.diagonal()[:2])
    assert per_label.undefined == ("z",)
    with pytest.raises(ValueError, match="finite"):
        metrics.label_correlation(a, a * np.nan)
    with pytest.raises(ValueError, match="twice"):
        metrics.label_correlation(a, a[:, :2])
