"""AutoAttack: closed forms on linear models, numbers of classes, several budgets, resume."""

import jax
import numpy as np
import pytest

from advjax import engine
from advjax.engine import _autoattack

pytestmark = pytest.mark.unoptimised

KEY = jax.random.key(5)
SHAPE = (3, 4, 2)
N = 24


def problem(classes, seed=0):
    """Return images, labels (three of them wrong) and weights of a linear model."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.35, 0.65, (N, *SHAPE)).astype(np.float32)
    w = rng.normal(size=(x[0].size, classes)).astype(np.float32)
    y = (x.reshape(N, -1) @ w).argmax(1)
    y[:3] = (y[:3] + 1) % classes
    return x, y, w


def logits(w, x):
    return x.reshape(x.shape[0], -1) @ w


def minimal(x, y, w, norm):
    """Return `[N]`, the smallest budget that breaks each image while no pixel is clipped."""
    z, order = x.reshape(N, -1) @ w, {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    best = np.full(N, np.inf)
    for j in range(w.shape[1]):
        other = y != j
        away = np.linalg.norm(w[:, j][None] - w[:, y].T, ord=order, axis=1)
        reach = (z[np.arange(N), y] - z[:, j])[other] / away[other]
        best[other] = np.minimum(best[other], reach)
    return np.maximum(best, 0)


def attacked(classes, norm="linf", fn=logits, **options):
    x, y, w = problem(classes)
    exact = minimal(x, y, w, norm)
    budgets = np.quantile(exact[exact > 0], [0.2, 0.5, 0.8])
    given = {"epsilons": budgets, "num_steps": 30, "num_queries": 40, "key": KEY, "slots": 8}
    result = engine.autoattack(fn, w, x, y, norm=norm, **{**given, **options})
    return result, exact, budgets


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("classes", "norm", "names"),
    [
        (2, "linf", ("apgd-ce", "apgd-t", "fab-t", "square")),
        (3, "l2", ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")),
        (8, "linf", ("apgd-ce", "apgd-t", "fab-t", "square")),
        (5, "l1", ("apgd-ce", "apgd-t", "fab-t")),
    ],
)
def test_linear_models_are_broken_where_they_can_be(classes, norm, names):
    result, exact, budgets = attacked(classes, norm)
    assert result.attacks == names
    # an image whose distance is within 1 % of a budget may fall on either side
    clear = np.abs(exact[:, None] / budgets - 1).min(1) > 0.01
    clear |= exact == 0
    assert clear.sum() >= 15
    np.testing.assert_array_equal(result.robust.T[clear], exact[clear, None] > budgets)
    np.testing.assert_array_equal(result.broken_by == "clean", exact == 0)
    np.testing.assert_array_equal(result.broken_by == "", result.robust[-1])
    np.testing.assert_allclose(result.robust_accuracy, result.robust.mean(1))
    assert result.clean_accuracy == (exact > 0).mean()
    assert any("two classes" in note for note in result.notes) == (classes == 2)
    assert any("three classes" in note for note in result.notes) == (classes == 3)
    assert any("Square" in note for note in result.notes) == (norm == "l1")
    assert any(f"{classes - 1} target" in note for note in result.notes)


def test_what_is_returned_is_so():
    """The images break the model inside of their budgets; costs belong to who paid them."""
    result, _, budgets = attacked(8)
    x, y, w = problem(8)
    broken = np.isfinite(result.min_eps) & (result.min_eps > 0)
    assert broken.any()
    assert (logits(w, result.x_adv).argmax(1) != y)[broken].all()
    distance = np.abs(result.x_adv - x).reshape(N, -1).max(1)
    assert (distance[broken] <= result.min_eps[broken] * (1 + 1e-5)).all()
    np.testing.assert_array_equal(result.x_adv[~broken], x[~broken])
    assert (result.num_grads[result.min_eps == 0] == 0).all()
    assert (result.num_steps[~broken] == 0).all()
    # what nothing broke has paid for the whole cascade
    assert (result.num_grads[result.robust[-1]] >= 30 * (1 + 7 + 7)).all()
    assert (result.num_queries[result.robust[-1]] >= 30 * (1 + 7 + 7) + 40).all()
    assert result.num_grads.max() <= 30 * (1 + 7 + 7) * len(budgets)


@pytest.mark.slow
def test_one_budget_and_several_agree():
    several, _, budgets = attacked(8)
    alone, _, _ = attacked(8, epsilons=None, eps=float(budgets[1]))
    assert alone.robust.shape == (N,)
    assert isinstance(alone.robust_accuracy, float)
    np.testing.assert_array_equal(alone.robust, several.robust[1])


@pytest.mark.slow
def test_verdicts_do_not_depend_on_order_or_slots():
    result, _, budgets = attacked(8)
    x, y, w = problem(8)
    order = np.random.default_rng(1).permutation(N)
    again = engine.autoattack(
        logits, w, x[order], y[order], ids=order, norm="linf", epsilons=budgets, num_steps=30,
        num_queries=40, key=KEY, slots=5,
    )  # fmt: skip
    np.testing.assert_array_equal(again.min_eps, result.min_eps[order])
    np.testing.assert_array_equal(again.broken_by, result.broken_by[order])


def test_a_killed_evaluation_goes_on(tmp_path, monkeypatch):
    from advjax.engine import _stage

    monkeypatch.setattr(_stage, "HARVEST", -1.0)
    monkeypatch.setattr(_stage, "SECONDS", 0.0)
    whole, _, _ = attacked(8)
    calls = 0

    def progress(at):
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attacked(8, resume=tmp_path / "kept", progress=progress)
    kept = {path.name.split("-")[1] for path in (tmp_path / "kept").glob("attack-*.npz")}
    assert "0" in kept
    assert "3" not in kept
    again, _, _ = attacked(8, resume=tmp_path / "kept")
    np.testing.assert_array_equal(again.min_eps, whole.min_eps)
    np.testing.assert_array_equal(again.x_adv, whole.x_adv)
    np.testing.assert_array_equal(again.broken_by, whole.broken_by)
    np.testing.assert_array_equal(again.num_grads, whole.num_grads)


@pytest.mark.slow
def test_random_models_are_judged_by_several_draws():
    def noisy(w, x, keys):
        noise = jax.vmap(lambda k, v: jax.random.normal(k, v.shape))(keys, x)
        return logits(w, x + 0.05 * noise)

    result, exact, budgets = attacked(8, fn=noisy, version="rand")
    assert result.attacks == ("apgd-ce", "apgd-dlr")
    # the majority of the draws decides nearly as the model without noise
    agree = (exact[:, None] > budgets) == result.robust.T
    assert agree.mean() > 0.85
    with pytest.raises(ValueError, match='use "rand"'):
        attacked(8, fn=noisy)
    calm, _, _ = attacked(8, version="rand")
    assert any("no random numbers" in note for note in calm.notes)


def test_plus_has_more_attacks():
    members, notes = _autoattack._members(
        _autoattack._Model(logits, "linf", (0.0, 1.0), 10, 10), "plus", 9, 12
    )
    assert [(m.name, m.runs) for m in members] == [
        ("apgd-ce", 5), ("apgd-dlr", 5), ("fab", 5), ("square", 1), ("apgd-t", 9), ("fab-t", 9),
    ]  # fmt: skip
    assert notes == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "l3"}, "norm: 'l3' is unknown"),
        ({"version": "best"}, "version: 'best' is unknown"),
        ({"eps": 0.1}, "give one of them"),
        ({"epsilons": None}, "give one of them"),
        ({"epsilons": [0.2, 0.1]}, "strictly increasing"),
        ({"num_targets": 0}, "num_targets"),
        ({"num_targets": 1.5}, "num_targets: must be an integer"),
        ({"num_queries": 0}, "num_queries"),
        ({"num_steps": "5"}, "num_steps: must be an integer, at least 1, got '5'"),
        ({"epsilons": None, "eps": "8/255"}, "expected numbers such as 8/255"),
        ({"bounds": (1, 0)}, "the lower one first"),
        ({"bounds": None}, "bounds: expected two numbers"),
        ({"fn": None}, "logits_fn: expected"),
        ({"key": 0}, "key: expected jax.random.key"),
        ({"fn": lambda w, x: logits(w, x)[:1]}, "of two images it returns"),
        ({"fn": lambda w, x: logits(w, x)[:, :1]}, "one logit"),
        ({"fn": lambda w, x: logits(w, x)[:, :4]}, "is no class of a model with 4"),
    ],
)
def test_mistakes_get_one_line(options, words):
    x, y, w = problem(8)
    given = {"fn": logits, "norm": "linf", "epsilons": [0.1], "key": KEY} | options
    with pytest.raises(ValueError, match=words):
        engine.autoattack(given.pop("fn"), w, x, y, **given)


def test_a_model_without_an_axis_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"logits_fn: must return one array of logits \[B, C\]"):
        engine.autoattack(
            lambda w, x: x.reshape(len(x), -1) @ w, np.ones(12, np.float32),
            np.full((3, 2, 2, 3), 0.5, np.float32), np.zeros(3, np.int32), norm="linf", eps=0.1,
            key=jax.random.key(0),
        )  # fmt: skip


def test_labels_must_be_one_an_image():
    x, y, w = problem(8)
    with pytest.raises(ValueError, match="one label an image"):
        engine.autoattack(logits, w, x, np.eye(8)[y], norm="linf", eps=0.1, key=KEY)
    with pytest.raises(ValueError, match="same non-zero number"):
        engine.autoattack(logits, w, x, y[:-1], norm="linf", eps=0.1, key=KEY)


@pytest.mark.slow
def test_restarts_count_as_a_sign_and_targets_do_not():
    # in l1 apgd-ce starts five times; the runs of apgd-t are about classes
    for norm, classes, counted in (("l1", 5, True), ("linf", 8, False)):
        result, _, _ = attacked(classes, norm)
        found = {flag.name: flag for flag in result.trust.flags}
        assert ("more_restarts_break" in found) == counted
        if counted:
            right = int((result.min_eps > 0).sum())
            assert found["more_restarts_break"].total == right
