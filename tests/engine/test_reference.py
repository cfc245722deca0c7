"""The brute force against a plain loop, and its invariances."""

import jax
import numpy as np
import pytest

from advjax import attacks, engine, losses, testing, threat
from advjax.random import example_keys

KEY = jax.random.key(5)
FN, X, Y, WEIGHTS = testing.linear_problem(num_rows=10, num_classes=3)
X, Y = np.asarray(X), np.asarray(Y)


def make_attack(scale):
    objective = attacks.from_logits(lambda x: scale * FN(x), loss=losses.cross_entropy)
    return attacks.pgd(objective, threat.linf(), num_steps=4)


def rows(eps=0.03, **options):
    return engine.reference(make_attack, np.float32(1.0), X, Y, eps, key=KEY, **options)


def test_it_is_a_plain_run_of_every_row():
    got = rows()
    keys = example_keys(KEY, np.arange(10), 0, "pgd")
    plain = attacks.run(make_attack(1.0), keys, X, Y, 0.03, stop="budget")
    np.testing.assert_allclose(got.x_adv, plain.x_adv, atol=1e-7)
    np.testing.assert_array_equal(got.success, plain.success)
    np.testing.assert_allclose(got.output, FN(plain.x_adv), atol=1e-5)
    np.testing.assert_allclose(got.linf, np.abs(got.x_adv - X).reshape(10, -1).max(1), atol=1e-7)
    np.testing.assert_allclose(
        got.l2, np.linalg.norm((got.x_adv - X).reshape(10, -1), axis=1), rtol=1e-5
    )
    assert (got.num_steps == 4).all()
    assert not got.unconfirmed.any()


@pytest.mark.sample(1)
@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
def test_batch_size_does_not_matter(batch_size):
    whole, split = rows(), rows(batch_size=batch_size)
    for a, b in zip(whole, split, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_order_does_not_matter():
    order = np.random.default_rng(0).permutation(10)
    mixed = engine.reference(
        make_attack, np.float32(1.0), X[order], Y[order], 0.03, key=KEY, ids=np.arange(10)[order]
    )
    np.testing.assert_allclose(rows().x_adv[order], mixed.x_adv, atol=1e-6)


def test_uint8_images_are_pixels_over_255():
    bytes_ = np.round(X * 255).astype(np.uint8)
    a = engine.reference(make_attack, np.float32(1.0), bytes_, Y, 0.03, key=KEY)
    b = engine.reference(make_attack, np.float32(1.0), bytes_ / np.float32(255), Y, 0.03, key=KEY)
    np.testing.assert_array_equal(a.x_adv, b.x_adv)


@pytest.mark.parametrize("run", ["reference", "sweep"])
def test_verdicts_are_of_full_float32_and_attacks_of_what_the_device_likes(run):
    seen = []

    def make_attack(scale):
        def logits(x):
            seen.append(jax.config.jax_default_matmul_precision)
            return scale * FN(x)

        objective = attacks.from_logits(logits, loss=losses.cross_entropy)
        return attacks.pgd(objective, threat.linf(), num_steps=2)

    if run == "reference":
        engine.reference(make_attack, np.float32(1.0), X, Y, 0.03, key=KEY)
        assert seen[-1] == "highest"  # judged last
    else:
        engine.sweep(make_attack, np.float32(1.0), X, Y, epsilons=[0.03], key=KEY)
    assert set(seen) == {None, "highest"}


def test_clean_rows():
    output, wrong, loss = engine.evaluate_clean(
        make_attack, np.float32(1.0), X, (Y + (np.arange(10) == 3)) % 3, key=KEY, batch_size=4
    )
    np.testing.assert_allclose(output, FN(X), atol=1e-5)
    np.testing.assert_array_equal(wrong, np.arange(10) == 3)
    assert loss.shape == (10,)


def test_one_trace_for_all_budgets_and_models():
    count = 0

    def counted(scale):
        nonlocal count
        count += isinstance(scale, jax.core.Tracer)
        return make_attack(scale)

    for scale in (1.0, 2.0):
        for eps in (0.01, 0.02):
            engine.reference(counted, np.float32(scale), X, Y, eps, key=KEY, batch_size=5)
    assert count == 2  # the attack and the judgement, once each


def test_bad_sizes():
    with pytest.raises(ValueError, match="examples"):
        engine.reference(make_attack, 1.0, X[:0], Y[:0], 0.1, key=KEY)
    with pytest.raises(ValueError, match="examples"):
        engine.reference(make_attack, 1.0, X, Y[:3], 0.1, key=KEY)


def test_labels_that_are_no_class_are_refused():
    wrong = np.where(np.arange(len(Y)) == 3, 7, Y)
    with pytest.raises(ValueError, match="label 7 of image 3 is no class"):
        engine.reference(make_attack, 1.0, X, wrong, 0.1, key=KEY)
    with pytest.raises(ValueError, match="label 7 of image 3 is no class"):
        engine.evaluate_clean(make_attack, 1.0, X, wrong, key=KEY)
