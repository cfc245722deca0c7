"""Dice and IoU of images from counts of pixels."""

import numpy as np
import pytest

from advjax import metrics


def test_by_hand():
    counts = np.array([
        [[5, 6, 7], [2, 4, 3], [0, 0, 0]],  # one class: 4 / 7 and 2 / 5
        [[5, 6, 7], [2, 4, 3], [1, 1, 2]],  # two: with 2 / 3 and 1 / 2
        [[9, 9, 9], [0, 0, 0], [0, 0, 0]],  # nothing there, nothing said
        [[9, 9, 9], [0, 3, 0], [0, 0, 0]],  # said where nothing is
    ])  # fmt: skip
    dice, iou = metrics.image_dice(counts), metrics.image_iou(counts)
    np.testing.assert_allclose(dice, [4 / 7, (4 / 7 + 2 / 3) / 2, 1, 0])
    np.testing.assert_allclose(iou, [2 / 5, (2 / 5 + 1 / 2) / 2, 1, 0])


def test_what_is_not_known_stays_so_and_shapes_are_checked():
    assert np.isnan(metrics.image_dice(np.full((2, 3, 3), np.nan))).all()
    with pytest.raises(ValueError, match="N, K, 3"):
        metrics.image_dice(np.zeros((4, 3)))
