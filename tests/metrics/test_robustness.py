import numpy as np
import pytest

from advjax import metrics

SUCCESS = np.array(
    [
        # solved at 1 only, at 2 only, never, always
        [True, False, False, True, False],
        [False, True, False, True, False],
        [False, False, False, True, False],
    ]
)
WRONG = np.array([False, False, False, False, True])


def test_the_two_figures_by_hand():
    np.testing.assert_allclose(metrics.accuracy_under_attack(SUCCESS, WRONG), [0.4, 0.4, 0.6])
    np.testing.assert_allclose(metrics.robust_accuracy(SUCCESS, WRONG), [0.4, 0.2, 0.2])


def test_robust_accuracy_is_the_share_above_the_minimal_budget():
    rng = np.random.default_rng(0)
    success, wrong = rng.random((6, 80)) < 0.2, rng.random(80) < 0.1
    eps = np.linspace(0.01, 0.06, 6)
    least = metrics.minimal_budget(success, wrong, eps)
    np.testing.assert_allclose(
        metrics.robust_accuracy(success, wrong), (least[None] > eps[:, None]).mean(1)
    )
    assert (least[wrong] == 0).all()
    assert np.isinf(metrics.minimal_budget(SUCCESS, WRONG, [1, 2, 3])[2])


def test_robust_accuracy_never_rises_and_never_exceeds_the_other():
    rng = np.random.default_rng(1)
    success, wrong = rng.random((9, 60)) < 0.3, rng.random(60) < 0.2
    robust = metrics.robust_accuracy(success, wrong)
    assert (np.diff(robust) <= 0).all()
    assert (robust <= metrics.accuracy_under_attack(success, wrong)).all()


def test_norms_by_hand():
    clean = np.zeros((2, 2, 2, 1), np.float32)
    changed = clean.copy()
    changed[0, 0, 0, 0], changed[0, 1, 1, 0] = 0.3, -0.4
    norms = metrics.perturbation_norms(changed, clean)
    np.testing.assert_allclose(norms.linf, [0.4, 0], rtol=1e-6)
    np.testing.assert_allclose(norms.l2, [0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(norms.l1, [0.7, 0], rtol=1e-6)
    np.testing.assert_array_equal(norms.l0, [2, 0])
    summary = metrics.norm_summary([1.0, 2.0, 3.0])
    assert (summary.mean, summary.median, summary.largest, summary.num) == (2, 2, 3, 3)
    assert summary.p95 == pytest.approx(2.9)
    empty = metrics.norm_summary([])
    assert empty.num == 0
    assert np.isnan(empty.mean)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.robust_accuracy(SUCCESS[0], WRONG),
        lambda: metrics.robust_accuracy(SUCCESS, WRONG[:2]),
        lambda: metrics.accuracy_under_attack(np.zeros((0, 3)), np.zeros(3)),
        lambda: metrics.minimal_budget(SUCCESS, WRONG, [1, 3, 2]),
        lambda: metrics.norm_summary([np.nan]),
        lambda: metrics.perturbation_norms(np.zeros((2, 3)), np.zeros((2, 4))),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"must|expected|differ"):
        call()
