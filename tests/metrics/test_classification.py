import re

import numpy as np
import pytest
from sklearn import metrics as sk

from advjax import metrics


@pytest.fixture
def graded():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 4, 200)
    prediction = np.where(rng.random(200) < 0.6, target, rng.integers(0, 4, 200))
    return prediction, target


def test_accuracy_against_sklearn(graded):
    assert metrics.accuracy(*graded) == pytest.approx(sk.accuracy_score(*graded[::-1]))
    assert metrics.balanced_accuracy(*graded).mean == pytest.approx(
        sk.balanced_accuracy_score(*graded[::-1])
    )
    np.testing.assert_array_equal(
        metrics.confusion_matrix(*graded), sk.confusion_matrix(*graded[::-1])
    )


def test_multi_label_accuracy_skips_unknown_labels():
    target = np.array([[1, 0, -1], [0, 0, 1], [-1, -1, -1]])
    prediction = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1]])
    assert metrics.accuracy(prediction, target) == pytest.approx(2 / 3)
    assert metrics.label_accuracy(prediction, target) == pytest.approx(4 / 5)
    assert np.isnan(metrics.label_accuracy(prediction[2:], target[2:]))


def test_balanced_accuracy_names_the_absent_class():
    found = metrics.balanced_accuracy([0, 1, 1], [0, 0, 1], names=["nv", "mel", "vasc"])
    assert found.undefined == ("vasc",)
    assert found.mean == pytest.approx(0.75)
    np.testing.assert_array_equal(found.values, [0.5, 1.0, np.nan])


def test_binary_rates_by_hand():
    target = np.array([1, 1, 1, 0, 0])
    prediction = np.array([1, 1, 0, 0, 1])
    rates = metrics.sensitivity_specificity(prediction, target, names=["no", "yes"])
    assert rates.sensitivity.mean == pytest.approx(2 / 3)
    assert rates.specificity.mean == pytest.approx(1 / 2)
    assert rates.sensitivity.values.shape == (1,)


def test_rates_without_a_positive_are_undefined_by_name():
    rates = metrics.sensitivity_specificity([0, 1], [0, 0], names=["no", "yes"])
    assert np.isnan(rates.sensitivity.mean)
    assert rates.sensitivity.undefined == ("yes",)
    assert rates.specificity.mean == pytest.approx(0.5)


def test_multi_class_rates_against_sklearn(graded):
    prediction, target = graded
    rates = metrics.sensitivity_specificity(prediction, target, num_classes=4)
    assert rates.sensitivity.mean == pytest.approx(
        sk.recall_score(target, prediction, average="macro")
    )
    for c in range(4):
        tn, fp, _, _ = sk.confusion_matrix(target == c, prediction == c).ravel()
        assert rates.specificity.values[c] == pytest.approx(tn / (tn + fp))


def test_multi_label_rates_leave_unknown_entries_out():
    target = np.array([[1, -1], [0, 1], [-1, 0]])
    prediction = np.array([[1, 1], [1, 0], [0, 0]])
    rates = metrics.sensitivity_specificity(prediction, target)
    np.testing.assert_array_equal(rates.sensitivity.values, [1.0, 0.0])
    np.testing.assert_array_equal(rates.specificity.values, [0.0, 1.0])


def test_kappa_against_sklearn_and_its_zero_over_zero(graded):
    expected = sk.cohen_kappa_score(*graded, weights="quadratic")
    assert metrics.quadratic_kappa(*graded) == pytest.approx(expected)
    assert metrics.quadratic_kappa([0, 1, 2], [0, 1, 2]) == pytest.approx(1.0)
    assert np.isnan(metrics.quadratic_kappa([1, 1], [1, 1]))


def test_confidence_by_hand():
    softmax = np.array([[0.7, 0.3], [0.1, 0.9]])
    np.testing.assert_allclose(metrics.confidence(softmax), [0.7, 0.9])
    sigmoid = np.array([[0.1, 0.6], [0.5, 0.5]])
    np.testing.assert_allclose(metrics.confidence(sigmoid, multi_label=True), [0.75, 0.5])
    assert metrics.mean_confidence(softmax) == pytest.approx(0.8)
    np.testing.assert_array_equal(metrics.predicted(softmax), [0, 1])
    np.testing.assert_array_equal(metrics.predicted(sigmoid, multi_label=True), [[0, 1], [0, 0]])


def test_calibration_by_hand_and_against_a_naive_loop():
    # bin (0, 0.5]: confidence 0.5, accuracy 0; bin (0.5, 1]: confidence 0.8, accuracy 0.5
    error = metrics.expected_calibration_error([0.5, 0.9, 0.7], [0, 1, 0], num_bins=2)
    assert error == pytest.approx(1 / 3 * 0.5 + 2 / 3 * 0.3)
    rng = np.random.default_rng(1)
    values, right = rng.random(300), rng.random(300) < 0.5
    naive = 0.0
    for b in range(15):
        inside = (values > b / 15) & (values <= (b + 1) / 15)
        if inside.any():
            naive += inside.mean() * abs(values[inside].mean() - right[inside].mean())
    assert metrics.expected_calibration_error(values, right) == pytest.approx(naive)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.accuracy([], []), "no example"),
        (lambda: metrics.accuracy([1, 2], [1]), "same number"),
        (lambda: metrics.accuracy([0.5, 0.7], [1, 0]), "predicted"),
        (lambda: metrics.confusion_matrix([3], [1], num_classes=3), "0..2"),
        (lambda: metrics.sensitivity_specificity([1], [1]), "num_classes"),
        (lambda: metrics.balanced_accuracy([0], [2], names=["a"]), "0..0"),
        (lambda: metrics.expected_calibration_error([1.5], [1]), "[0, 1]"),
        (lambda: metrics.confidence([0.5]), "[N, C]"),
    ],
)
def test_bad_input_is_one_clear_line(call, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        call()
    assert "\n" not in str(caught.value)
