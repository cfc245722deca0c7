"""Images made for another model give away a model that only hides its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, engine, losses, threat

KEY = jax.random.key(2)
RNG = np.random.default_rng(11)
N = 24
X = RNG.integers(0, 256, size=(N, 4, 4, 3), dtype=np.uint8)
W = RNG.normal(size=(48, 3)).astype(np.float32) / 4
OTHER = W + RNG.normal(size=W.shape).astype(np.float32) / 20
EPSILONS = np.arange(1, 7) / 60


def logits(w, x):
    return x.reshape(x.shape[0], -1) @ w


Y = np.argmax(logits(W, X / np.float32(255)), 1).astype(np.int32)


def make_attack(params):
    """PGD on a linear model, behind pixels of `levels` values where there are any."""

    def fn(x):
        coarse = jnp.round(x * params["levels"]) / jnp.maximum(params["levels"], 1)
        return logits(params["w"], jnp.where(params["levels"] > 0, coarse, x))

    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    return attacks.pgd(objective, threat.linf(), num_steps=8, step_size=0.25)


PLAIN = {"w": W, "levels": np.float32(0)}
MASKED = {"w": W, "levels": np.float32(50)}


def swept(params):
    return engine.sweep(
        make_attack, params, X, Y, epsilons=EPSILONS, key=KEY, slots=6, diagnose=False,
        return_x_adv=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results():
    return {
        "plain": swept(PLAIN),
        "masked": swept(MASKED),
        "other": swept({**PLAIN, "w": OTHER}),
    }


def check(params, result, x_adv, **options):
    return engine.transfer_check(make_attack, params, X, Y, result, x_adv, key=KEY, **options)


@pytest.mark.slow
def test_the_budgets_are_those_at_which_the_images_were_made(results):
    """Against a sweep that found nothing, the model's own images break all that it broke."""
    result = results["plain"]
    found = check(PLAIN, result._replace(min_eps=np.full(N, np.inf)), result.x_adv)
    broke = np.isfinite(result.min_eps)
    assert broke.sum() > N // 2
    np.testing.assert_array_equal(found.eps[broke], result.min_eps[broke])
    assert found.flag.shown == found.flag.total == broke.sum()


def test_a_masked_copy_is_found(results):
    result, surrogate = results["masked"], results["plain"]
    assert result.robust_accuracy[-1] > 0.5 > surrogate.robust_accuracy[-1]
    found = check(MASKED, result, surrogate.x_adv)
    assert found.flag.name == "transfer_better"
    assert found.flag.verdict == "unreliable"
    assert found.flag.shown == found.broken.sum() == np.isfinite(found.eps).sum() > 2
    # broken at a budget at which the sweep had left them
    assert (found.eps[found.broken] < result.min_eps[found.broken]).all()
    assert np.isin(found.eps[found.broken], result.epsilons).all()
    for i in np.flatnonzero(found.broken):
        assert np.abs(surrogate.x_adv[i] - X[i] / np.float32(255)).max() < found.eps[i] + 1e-5
    doubted = engine.with_flags(result, found.flag)
    assert doubted.trust.verdict == "unreliable"
    assert doubted.trust.flags == (*result.trust.flags, found.flag)


def test_an_honest_model_is_not_accused(results):
    found = check(PLAIN, results["plain"], np.stack([results["other"].x_adv] * 2))
    # the sweep is exact for a linear model: no image of another one is nearer
    assert found.flag.shown == 0
    assert found.flag.verdict == "ok"
    assert not found.broken.any()
    assert found.flag.total > 0


def test_verdicts_do_not_depend_on_the_batch(results):
    whole = check(MASKED, results["masked"], results["plain"].x_adv)
    parts = check(MASKED, results["masked"], results["plain"].x_adv, batch_size=7)
    np.testing.assert_array_equal(whole.eps, parts.eps)
    assert whole.flag == parts.flag


def test_clean_and_distant_images_say_nothing(results):
    clean = X / np.float32(255)
    # far outside of every budget, and surely wrong: the images of other examples
    for x_adv in (clean, X, np.roll(X, 1, axis=0)):
        found = check(MASKED, results["masked"], x_adv)
        assert (found.flag.shown, found.flag.total, found.flag.verdict) == (0, 0, "ok")


def test_the_best_of_several_models_counts(results):
    both = check(MASKED, results["masked"], [X / np.float32(255), results["plain"].x_adv])
    alone = check(MASKED, results["masked"], results["plain"].x_adv)
    np.testing.assert_array_equal(both.eps, alone.eps)


def test_flags_can_be_added_and_replaced(results):
    result = results["plain"]
    flag = engine.Flag("binarisation_unsolved", 1, 10, "suspicious", "weak")
    once = engine.with_flags(result, flag)
    assert once.trust.verdict == "suspicious"
    twice = engine.with_flags(once, flag._replace(verdict="ok"))
    assert twice.trust.verdict == result.trust.verdict == "ok"
    assert len(twice.trust.flags) == len(once.trust.flags) == len(result.trust.flags) + 1


def test_wrong_arguments_are_refused(results):
    x_adv = results["plain"].x_adv
    with pytest.raises(ValueError, match="x_adv: expected images of the shape of x"):
        check(PLAIN, results["plain"], x_adv[:3])
    broken = x_adv.copy()
    broken[2, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image 2 of model 0 has NaN"):
        check(PLAIN, results["plain"], broken)
    with pytest.raises(ValueError, match="result: is about 24 examples, x has 3"):
        engine.transfer_check(
            make_attack, PLAIN, X[:3], Y[:3], results["plain"], x_adv[:3], key=KEY
        )  # fmt: skip
