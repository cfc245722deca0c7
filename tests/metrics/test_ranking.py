import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from advjax import metrics


def test_binary_with_ties_against_sklearn():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 150)
    scores = np.round(rng.normal(size=150) + target, 1)
    assert metrics.auroc(scores, target).mean == pytest.approx(roc_auc_score(target, scores))
    two = np.stack([1 - scores, scores], 1)
    assert metrics.auroc(two, target).mean == pytest.approx(roc_auc_score(target, scores))


def test_by_hand():
    # pairs (positive, negative): 0.8>0.1, 0.8>0.5, 0.5>0.1, 0.5=0.5 -> 3.5 of 4
    assert metrics.auroc([0.1, 0.5, 0.5, 0.8], [0, 0, 1, 1]).mean == pytest.approx(3.5 / 4)
    assert metrics.auroc([1.0, 1.0], [0, 1]).mean == pytest.approx(0.5)


def test_one_against_the_rest_and_multi_label_against_sklearn():
    rng = np.random.default_rng(1)
    target = rng.integers(0, 3, 120)
    scores = rng.dirichlet(np.ones(3), 120)
    found = metrics.auroc(scores, target)
    assert found.mean == pytest.approx(
        roc_auc_score(target, scores, multi_class="ovr", average="macro")
    )
    labels = rng.integers(0, 2, (120, 4))
    logits = rng.normal(size=(120, 4)) + labels
    found = metrics.auroc(logits, labels)
    np.testing.assert_allclose(found.values, roc_auc_score(labels, logits, average=None))


def test_undefined_labels_are_named_and_left_out():
    target = np.array([[1, 0, 1], [0, 0, 1], [1, 0, -1]])
    scores = np.array([[0.9, 0.1, 0.2], [0.2, 0.3, 0.4], [0.6, 0.2, 0.9]])
    found = metrics.auroc(scores, target, names=["edema", "hernia", "mass"])
    assert found.undefined == ("hernia", "mass")
    assert found.mean == 1.0
    alone = metrics.auroc([0.3, 0.4], [1, 1], names=["no", "yes"])
    assert np.isnan(alone.mean)
    assert alone.undefined == ("yes",)


def test_weights_mean_repetition():
    rng = np.random.default_rng(2)
    positive = rng.integers(0, 2, 40)
    scores = np.round(rng.normal(size=40) + positive, 1)
    counts = rng.multinomial(40, np.ones(40) / 40, size=5)
    expected = [roc_auc_score(np.repeat(positive, row), np.repeat(scores, row)) for row in counts]
    np.testing.assert_allclose(metrics.weighted_auroc(scores, positive, counts), expected)
    assert np.isnan(metrics.weighted_auroc(scores, positive, positive[None])).all()


@pytest.mark.parametrize(
    ("scores", "target", "words"),
    [
        ([0.1, np.nan], [0, 1], "NaN"),
        ([[0.1, 0.9]], [2], "0..1"),
        (np.zeros((2, 3)), np.zeros((2, 2)), "do not fit"),
        ([[0.1], [0.2]], [0, 1], "do not fit"),
        ([], [], "no example"),
    ],
)
def test_bad_input(scores, target, words):
    with pytest.raises(ValueError, match=words.replace("[", r"\[").replace(".", r"\.")):
        metrics.auroc(scores, target)
