"""Wrapped objectives: averages, input diversity, ensembles; honest costs and honest successes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, testing, threat

KEY = jax.random.key(1)


def noisy(fn, scale=0.05):
    def randomised(x, keys):
        noise = jax.vmap(lambda k, i: jax.random.normal(k, i.shape, i.dtype))(keys, x)
        return fn(x + scale * noise)

    return randomised


def test_eot_of_a_deterministic_model_changes_nothing():
    fn, x, y, _ = testing.linear_problem()
    plain = attacks.from_logits(fn, loss=losses.cross_entropy)
    eot = attacks.with_eot(plain, 4)
    assert eot.cost == (4, 4)
    a = attacks.run(attacks.pgd(plain, threat.linf(), num_steps=3), KEY, x, y, 0.05, stop="budget")
    b = attacks.run(attacks.pgd(eot, threat.linf(), num_steps=3), KEY, x, y, 0.05, stop="budget")
    np.testing.assert_allclose(a.x_adv, b.x_adv, atol=1e-6)
    np.testing.assert_allclose(a.loss, b.loss, atol=1e-5)
    assert (b.num_grads == 12).all()


def test_eot_averages_gradients_over_the_draws():
    fn, x, y, _ = testing.linear_problem(num_classes=3)
    objective = attacks.from_logits(noisy(fn), loss=losses.cross_entropy, randomised=True)
    keys = jax.random.split(KEY, len(x))
    eot = attacks.with_eot(objective, 8)

    def total(objective, x, keys):
        return objective.evaluate(x, y, (), keys)[0].ascent.sum()

    g = jax.grad(lambda x: total(eot, x, keys))(x)
    draws = jax.vmap(lambda k: jax.random.split(k, 8))(keys)
    singles = [jax.grad(lambda x, d=d: total(objective, x, draws[:, d]))(x) for d in range(8)]
    np.testing.assert_allclose(g, sum(singles) / 8, atol=1e-5)


def test_eot_needs_a_majority():
    objective = attacks.from_logits(
        lambda x, keys: jnp.stack(
            [jnp.zeros(x.shape[0]), jax.vmap(jax.random.uniform)(keys) - 0.8], -1
        ),
        loss=losses.cross_entropy,
        randomised=True,
    )
    x, y = jnp.zeros((64, 3)), jnp.zeros(64, jnp.int32)
    keys = jax.random.split(KEY, 64)
    assert objective.judge(x, y, keys).success.any()  # one draw in five "succeeds"
    assert attacks.with_eot(objective, 25).judge(x, y, keys).success.mean() < 0.05


def test_diversity_judges_the_image_itself():
    fn, x, y, _ = testing.linear_problem(shape=(8, 8, 1))
    diverse = attacks.with_input_diversity(
        attacks.from_logits(fn, loss=losses.cross_entropy), resize_rate=1.5, probability=1.0
    )
    keys = jax.random.split(KEY, len(x))
    evaluation, _ = diverse.evaluate(x, y, (), keys)
    np.testing.assert_allclose(evaluation.loss, jax.vmap(losses.cross_entropy)(fn(x), y), rtol=1e-5)
    assert not np.allclose(evaluation.ascent, evaluation.loss)
    assert diverse.cost == (2, 1)
    result = attacks.run(attacks.difgsm(attacks.from_logits(fn, loss=losses.cross_entropy),
                                        threat.linf(), num_steps=5), KEY, x, y, 0.02)  # fmt: skip
    np.testing.assert_array_equal(result.success, jnp.argmax(fn(result.x_adv), -1) != y)


def test_diversity_draws_per_row_and_switches_off():
    fn, x, y, _ = testing.linear_problem(shape=(8, 8, 1))
    plain = attacks.from_logits(fn, loss=losses.cross_entropy)
    keys = jax.random.split(KEY, len(x))
    off = attacks.with_input_diversity(plain, probability=0.0).evaluate(x, y, (), keys)[0]
    np.testing.assert_allclose(off.ascent, off.loss, rtol=1e-6)
    half = attacks.with_input_diversity(plain, resize_rate=1.5).evaluate(x, y, (), keys)[0]
    changed = ~np.isclose(half.ascent, half.loss)
    assert 0 < changed.sum() < len(x)
    row = attacks.with_input_diversity(plain, resize_rate=1.5)
    single = row.evaluate(x[2:3], y[2:3], (), keys[2:3])[0]
    np.testing.assert_allclose(single.ascent[0], half.ascent[2], rtol=1e-5)


def test_diversity_with_rate_one_is_the_identity():
    fn, x, y, _ = testing.linear_problem(shape=(8, 8, 1))
    plain = attacks.from_logits(fn, loss=losses.cross_entropy)
    same = attacks.with_input_diversity(plain, resize_rate=1.0, probability=1.0)
    evaluation, _ = same.evaluate(x, y, (), jax.random.split(KEY, len(x)))
    np.testing.assert_allclose(evaluation.ascent, evaluation.loss, rtol=1e-4)


def test_ensemble_averages_losses_and_needs_every_member():
    fn, x, y, _ = testing.linear_problem(seed=0)
    other, _, _, _ = testing.linear_problem(seed=1)
    members = [attacks.from_logits(f, loss=losses.cross_entropy) for f in (fn, other)]
    both = attacks.ensemble(members, weights=[3, 1])
    keys = jax.random.split(KEY, len(x))
    state = both.init(x, y, jnp.ones(len(x)))
    evaluation, _ = both.evaluate(x, y, state, keys)
    parts = [m.evaluate(x, y, (), keys)[0] for m in members]
    np.testing.assert_allclose(
        evaluation.loss, 0.75 * parts[0].loss + 0.25 * parts[1].loss, rtol=1e-5
    )
    np.testing.assert_array_equal(evaluation.success, parts[0].success & parts[1].success)
    assert both.cost == (2, 2)
    np.testing.assert_allclose(both.apply(x, keys), 0.75 * fn(x) + 0.25 * other(x), atol=1e-5)
    result = attacks.run(attacks.pgd(both, threat.linf()), KEY, x, y, 0.5)
    fooled = (jnp.argmax(fn(result.x_adv), -1) != y) & (jnp.argmax(other(result.x_adv), -1) != y)
    np.testing.assert_array_equal(result.success, fooled)


def test_wrappers_compose_and_change_their_loss():
    fn, x, y, _ = testing.linear_problem(shape=(8, 8, 1))
    plain = attacks.from_logits(fn, loss=losses.cross_entropy)
    wrapped = attacks.with_eot(attacks.with_input_diversity(attacks.with_stabilisation(plain)), 3)
    assert wrapped.cost == (9, 3)
    attack = attacks.cw_linf(wrapped, threat.linf(), num_steps=4)
    result = attacks.run(attack, KEY, x, y, 0.05, stop="budget")
    logits = fn(result.x_adv)
    margin = jax.vmap(losses.cw_margin)(logits, y)
    np.testing.assert_allclose(result.loss, margin, rtol=1e-4, atol=1e-4)
    assert not attack.spec.deterministic
    assert not attack.spec.stationary


@pytest.mark.parametrize(
    "bad",
    [
        lambda o: attacks.with_eot(o, 0),
        lambda o: attacks.with_input_diversity(o, resize_rate=0.5),
        lambda o: attacks.with_input_diversity(o, probability=2.0),
        lambda o: attacks.ensemble([]),
        lambda o: attacks.ensemble([o], weights=[1, 2]),
        lambda o: attacks.ensemble([o], weights=[-1]),
    ],
)
def test_bad_arguments(bad):
    fn, _, _, _ = testing.linear_problem()
    with pytest.raises(ValueError, match=r"must|weights|needed"):
        bad(attacks.from_logits(fn, loss=losses.cross_entropy))


def test_who_says_that_verdicts_depend_on_keys():
    # random steps are one thing, random verdicts another: a sweep ends runs at their first success
    plain = attacks.from_logits(lambda x: x, loss=losses.cross_entropy)
    random = attacks.from_logits(lambda x, k: x, loss=losses.cross_entropy, randomised=True)
    ball = threat.linf()
    for attack in (
        attacks.difgsm(plain, ball),
        attacks.spsa(plain, ball),
        attacks.nes(plain, ball),
    ):
        assert not attack.spec.objective.randomised
    for objective in (
        random, attacks.with_eot(random, 2), attacks.ensemble([plain, random]),
        attacks.with_input_diversity(random), random.with_loss(losses.cw_margin),
    ):  # fmt: skip
        assert objective.randomised
