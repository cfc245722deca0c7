"""Planted gradient maskers are found; an honest model is not accused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, engine, losses, threat
from advjax.engine import SIGNS, Verdict, _trust

pytestmark = pytest.mark.unoptimised

KEY = jax.random.key(1)
RNG = np.random.default_rng(4)
N, CLASSES = 24, 3
X = RNG.integers(0, 256, size=(N, 4, 4, 3), dtype=np.uint8)
W = RNG.normal(size=(48, CLASSES)).astype(np.float32) / 4
Y = np.argmax((X / np.float32(255)).reshape(N, -1) @ W, 1).astype(np.int32)


def logits(w, x):
    return x.reshape(x.shape[0], -1) @ w


def quantised(w, x):
    return logits(w, jnp.round(x * 8) / 8)


def cold(w, x):
    return logits(w, x) / 1e-4


def softmax(w, x):
    return jax.nn.softmax(logits(w, x))


def sigmoid(w, x):
    return jax.nn.sigmoid(logits(w, x))


def preprocessed(w, x):
    """A pre-processor outside of jax: no derivative."""

    def blur(v):
        return (v + np.roll(v, 1, axis=1)) / 2

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    out = jax.pure_callback(blur, shape, jax.lax.stop_gradient(x), vmap_method="sequential")
    return logits(w, out)


def dropped(w, x, keys):
    keep = jax.vmap(lambda k, v: jax.random.bernoulli(k, 0.5, v.shape))(keys, x)
    return logits(w, x * keep * 2)


def batch_statistics(w, x):
    return logits(w, (x - x.mean(0)) / (x.std(0) + 0.1))


def flags(fn, *, randomised=False, y=Y):
    def make(w):
        inner = (lambda x, k: fn(w, x, k)) if randomised else (lambda x: fn(w, x))
        objective = attacks.from_logits(inner, loss=losses.cross_entropy, randomised=randomised)
        return attacks.pgd(objective, threat.linf(), num_steps=8, step_size=0.25)

    result = engine.sweep(make, W, X, y, epsilons=np.arange(1, 5) / 255, key=KEY, slots=6)
    return result, {flag.name: flag for flag in result.trust.flags}


def test_an_honest_model_is_trusted():
    result, found = flags(logits)
    assert result.trust.verdict == "ok"
    # two signs are looked for by whoever asks for them, two need restarts or a black box
    asked = {"binarisation_unsolved", "transfer_better"}
    assert set(SIGNS) - set(found) == asked | {"more_restarts_break", "black_box_better"}
    assert set(found) < set(SIGNS)
    assert all(flag.verdict == "ok" and flag.shown == 0 for flag in found.values())
    assert found["unbounded_eps_fails"].total > 0
    assert found["more_effort_breaks"].total > 0
    assert result.rows_probed > 0


@pytest.mark.parametrize("fn", [quantised, preprocessed], ids=lambda f: f.__name__)
def test_hidden_gradients_are_found(fn):
    result, found = flags(fn)
    assert result.trust.verdict == "unreliable"
    assert found["zero_gradient"].verdict == "unreliable"
    assert "zero" in found["zero_gradient"].text
    assert found["unbounded_eps_fails"].verdict == "unreliable"
    assert found["loss_not_rising"].verdict != "ok"


def test_saturated_losses_are_found():
    # the gradient is rounding noise, not zero: what gives it away is that the loss stays
    result, found = flags(cold)
    assert result.trust.verdict == "unreliable"
    assert found["loss_not_rising"].verdict == "unreliable"


@pytest.mark.sample(1)
@pytest.mark.parametrize(("fn", "random"), [(dropped, True), (batch_statistics, False)])
def test_random_outputs_are_found(fn, random):
    _, found = flags(fn, randomised=random)
    assert found["randomised_output"].verdict == "unreliable"


def test_an_expectation_is_judged_as_one():
    """Single draws differ, their majority does not: no sign, and verdicts are the majority's."""

    def noisy(w, x, keys):
        return logits(w, x + jax.vmap(lambda k, v: jax.random.normal(k, v.shape) / 5)(keys, x))

    def make(w):
        objective = attacks.from_logits(
            lambda x, k: noisy(w, x, k), loss=losses.cross_entropy, randomised=True
        )
        return attacks.pgd(attacks.with_eot(objective, 16), threat.linf(), num_steps=4)

    top = np.sort(logits(W, (X / np.float32(255))), 1)
    clear = (top[:, -1] - top[:, -2]) > 0.8
    assert 5 <= clear.sum() < N
    result = engine.sweep(
        make, W, X[clear], Y[clear], epsilons=[0.05, 0.1, 0.2], key=KEY, slots=6,
        return_x_adv=True,
    )  # fmt: skip
    found = {flag.name: flag for flag in result.trust.flags}
    assert found["randomised_output"] == found["randomised_output"]._replace(shown=0, verdict="ok")
    assert result.clean_accuracy == 1
    broken = np.isfinite(result.min_eps)
    assert broken.sum() > 0
    # without noise nearly all of them are broken too; a single lucky draw is no success
    assert (logits(W, result.x_adv).argmax(1) != Y[clear])[broken].mean() > 0.8


def test_climbs_of_a_random_model_are_not_ended_by_lucky_draws():
    """The first success of a draw seldom survives its judgement: every step counts."""

    def masked(w, x, keys):
        kept = jax.vmap(lambda k, v: jax.random.bernoulli(k, 0.7, v.shape))(keys, x)
        return logits(w, jnp.where(kept, x, 0.5))

    def make(w):
        objective = attacks.from_logits(
            lambda x, k: masked(w, x, k), loss=losses.cross_entropy, randomised=True
        )
        return attacks.pgd(attacks.with_eot(objective, 8), threat.linf(), num_steps=8)

    epsilons = np.array([0.01, 0.02, 0.04, 0.08])
    climbed, every = (
        engine.sweep(make, W, X, Y, epsilons=epsilons, key=KEY, slots=6, order=order,
                     diagnose=False)
        for order in ("ascending", "exhaustive")
    )  # fmt: skip
    lost = every.tables[0].verdict == Verdict.REJECTED
    assert lost.any()
    known = climbed.tables[0].verdict != Verdict.UNKNOWN
    np.testing.assert_array_equal(climbed.tables[0].verdict[known], every.tables[0].verdict[known])
    assert (climbed.robust_accuracy <= every.robust_accuracy).all()


def test_an_ensemble_is_broken_when_all_members_are():
    def make(w):
        members = [
            attacks.from_logits(lambda x, s=s: logits(w * s, x), loss=losses.cross_entropy)
            for s in (1.0, -1.0)
        ]
        return attacks.pgd(attacks.ensemble(members), threat.linf(), num_steps=4)

    result = engine.sweep(make, W, X, Y, epsilons=[0.1], key=KEY, slots=6, diagnose=False)
    # the second member is wrong on most images, the first on none, so that none is wrong when clean
    assert result.clean_accuracy == 1


@pytest.mark.parametrize("fn", [softmax, sigmoid], ids=lambda f: f.__name__)
def test_probabilities_are_found(fn):
    result, found = flags(fn)
    assert found["probabilities"].verdict == "suspicious"
    assert result.trust.verdict == "suspicious"


def test_an_attack_that_is_too_weak_is_found():
    def make(w):
        objective = attacks.from_logits(lambda x: logits(w, x), loss=losses.cross_entropy)
        # two small steps reach a fifth of the budget
        return attacks.bim(objective, threat.linf(), num_steps=2, step_size=0.1)

    result = engine.sweep(make, W, X, Y, epsilons=[0.05, 0.2, 0.4], key=KEY, slots=6)
    found = {flag.name: flag for flag in result.trust.flags}
    assert found["more_effort_breaks"].shown > 0
    assert result.trust.verdict != "ok"


def test_shares_become_verdicts():
    trust = _trust.judge({"zero_gradient": (3, 100), "loss_not_rising": (20, 100)})
    assert [flag.verdict for flag in trust.flags] == ["ok", "suspicious"]
    assert trust.verdict == "suspicious"
    assert _trust.judge({"non_finite": (20, 100)}).verdict == "unreliable"
    assert _trust.judge({"more_effort_breaks": (0, 0)}).verdict == "ok"
    added = _trust.merge({"a": (1, 2)}, {"a": (3, 4), "b": (0, 1)})
    assert added == {"a": (4, 6), "b": (0, 1)}


@pytest.mark.slow
def test_what_only_a_black_box_finds_is_a_sign():
    """Gradients of zero, and an attack that needs none."""

    def square(w):
        objective = attacks.from_logits(lambda x: quantised(w, x), loss=losses.cross_entropy)
        return attacks.square(objective, threat.linf(), num_steps=60)

    def pgd(w):
        objective = attacks.from_logits(lambda x: quantised(w, x), loss=losses.cross_entropy)
        return attacks.pgd(objective, threat.linf(), num_steps=4, random_start=False)

    options = {"epsilons": [0.1, 0.2], "key": KEY, "slots": 6, "diagnose": False}
    result = engine.sweep([pgd, square], W, X, Y, **options)
    found = {flag.name: flag for flag in result.trust.flags}["black_box_better"]
    assert found.shown == (result.solved_by == 1).sum() > 2
    assert found.verdict == "unreliable"


def test_restarts_that_break_more_are_a_sign():
    tables = _tables(best=[0, 1, 1, 3])
    # restart 0 breaks example 0 only; restart 1 breaks examples 1 and 2; nothing breaks example 3
    tables.verdict[0, 0, 0] = tables.verdict[1, 1, 1] = tables.verdict[2, 1, 1] = 3
    tables.verdict[1:, 0, 1] = 1
    found = _trust.compared([tables], [_attack()], [False])
    assert found == {"more_restarts_break": (2, 4)}
    assert _trust.compared([tables], [_attack()], [True]) == {}


def _attack():
    objective = attacks.from_logits(lambda x: logits(W, x), loss=losses.cross_entropy)
    return attacks.pgd(objective, threat.linf(), num_steps=3)


def _tables(best):
    n, shape = len(best), (len(best), 2, 3)
    flags = ("wrong", "broken", "unsteady", "bounded", "idle")
    columns = {name: np.zeros(n, bool) for name in flags}
    columns |= {"best": np.array(best), "clean_loss": np.zeros(n), "zero": np.zeros(shape, bool)}
    names = ("verdict", "loss", "steps", "grads", "queries", "status")
    return engine.Tables(**columns, **{name: np.zeros(shape, int) for name in names})


def test_probes_can_be_left_out():
    def make(w):
        objective = attacks.from_logits(lambda x: logits(w, x), loss=losses.cross_entropy)
        return attacks.pgd(objective, threat.linf(), num_steps=3)

    result = engine.sweep(make, W, X, Y, epsilons=[0.01], key=KEY, slots=6, diagnose=False)
    assert result.rows_probed == 0
    assert "more_effort_breaks" not in {flag.name for flag in result.trust.flags}


def test_a_success_that_is_not_verified_is_a_sign():
    from advjax.engine import _trust

    found = _trust.judge({"unverified_success": (30, 40)})
    assert found.verdict == "unreliable"
    assert "30 of 40" in found.flags[0].text
    # one of a few probes says little
    assert _trust.judge({"more_effort_breaks": (1, 8)}).verdict == "ok"
    assert _trust.judge({"more_effort_breaks": (2, 8)}).verdict == "suspicious"


def test_decisions_as_booleans():
    """What a black box answers may have no difference and no negative."""

    def make(w):
        objective = attacks.from_logits(
            lambda x: jax.nn.one_hot(jnp.argmax(logits(w, x), -1), CLASSES, dtype=bool),
            loss=lambda output, target: 1.0 - output[target],
            criterion=lambda output, target: ~output[target],
        )
        return attacks.hopskipjump(objective, threat.l2(), num_steps=2)

    result = engine.sweep(make, W, X, Y, epsilons=[50.0], key=KEY, slots=6)
    assert not result.tables[0].idle.any()
    assert np.isfinite(result.min_eps).any()
    rows = engine.reference(make, W, X, Y, 50.0, key=KEY)
    np.testing.assert_array_equal(rows.success, np.isfinite(result.min_eps))
