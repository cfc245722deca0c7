"""Fooling rate, targeted success and flip probability against their definitions."""

import numpy as np
import pytest

from advjax import metrics


def test_nothing_changes_under_no_perturbation():
    for predictions in (np.arange(5), np.eye(4, dtype=int), np.zeros((2, 3, 3), int)):
        assert metrics.fooling_rate(predictions, predictions) == 0


def test_fooling_rate_counts_changes_right_or_wrong():
    assert metrics.fooling_rate([0, 1, 2, 2], [0, 2, 2, 1]) == 0.5
    # of findings every decision counts
    assert metrics.fooling_rate([[0, 1], [1, 1]], [[0, 0], [1, 1]]) == 0.25


def test_target_rate():
    assert metrics.target_rate([2, 2, 0, 1], 2) == 0.5
    assert metrics.target_rate([2, 2, 0, 1], [2, 0, 0, 0]) == 0.5
    # all findings have to be as wanted
    assert metrics.target_rate([[0, 0], [0, 1]], [0, 0]) == 0.5


def test_flip_probability():
    still = np.repeat([[3], [1]], 10, axis=1)
    assert metrics.flip_probability(still) == 0
    assert metrics.flip_probability(still, reference="first") == 0
    turning = np.tile([0, 1], (3, 5))
    assert metrics.flip_probability(turning) == 1
    assert metrics.flip_probability(turning, reference="first") == pytest.approx(5 / 9)
    once = np.array([[0, 0, 0, 1, 1]])
    assert metrics.flip_probability(once) == 0.25
    assert metrics.flip_probability(once, reference="first") == 0.5


def test_flip_probability_of_findings_is_not_divided_by_the_frames():
    still = np.ones((2, 4, 3), bool)
    assert metrics.label_flip_probability(still) == 0
    frames = np.zeros((1, 4, 14), int)
    frames[0, 1, 0] = frames[0, 3, :7] = 1  # one flip, none, seven
    assert metrics.label_flip_probability(frames) == pytest.approx(8 / 14)
    assert metrics.label_flip_probability(frames, per_frame=True) == pytest.approx(8 / 14 / 3)
    # against the first frame always: to turn back is no flip
    assert metrics.label_flip_probability(frames[:, [0, 3, 0, 3]]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.fooling_rate([0, 1], [[0], [1]]), "shape"),
        (lambda: metrics.fooling_rate([], []), "no example"),
        (lambda: metrics.target_rate([0, 1], [0, 1, 2]), "target"),
        (lambda: metrics.flip_probability([[1], [2]]), "two frames"),
        (lambda: metrics.flip_probability([[1, 2]], reference="last"), "reference"),
        (lambda: metrics.label_flip_probability([[1, 2]]), r"\[N, F, K\]"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
