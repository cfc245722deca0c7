"""What attacks refuse or flag: rows without a number, labels of no class, mistakes of beginners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Status, attacks, losses, testing, threat
from advjax.random import example_keys
from tests.attacks.by_hand import KEY, scalar_problem


def test_non_finite_rows_are_flagged_and_harm_nobody():
    fn, x, y, _ = testing.linear_problem()

    def broken(x):
        logits = fn(x)
        return logits.at[2].set(jnp.nan)

    objective = attacks.from_logits(broken, loss=losses.cross_entropy)
    healthy = attacks.from_logits(fn, loss=losses.cross_entropy)
    a = attacks.run(attacks.pgd(objective, threat.linf()), KEY, x, y, 0.1, stop="budget")
    b = attacks.run(attacks.pgd(healthy, threat.linf()), KEY, x, y, 0.1, stop="budget")
    assert a.status[2] == Status.NON_FINITE
    assert not a.success[2]
    assert jnp.isfinite(a.x_adv).all()
    rest = jnp.asarray([0, 1, 3, 4, 5])
    np.testing.assert_array_equal(a.x_adv[rest], b.x_adv[rest])
    assert (a.status[rest] == 0).all()


def test_a_label_that_is_no_class_is_flagged():
    fn, x, y, _ = testing.linear_problem()
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    result = attacks.run(attacks.pgd(objective, threat.linf()), KEY, x, y.at[1].set(9), 0.1)
    assert result.status[1] == Status.NON_FINITE
    assert not result.success[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": lambda x: x.at[1, 0, 0, 0].set(jnp.nan)}, "image 1"),
        ({"x": lambda x: x * 255}, "bounds"),
        ({"x": lambda x: (x * 255).astype(jnp.uint8)}, "255"),
        ({"eps": -0.1}, "eps"),
        ({"eps": jnp.ones(3)}, "eps"),
        ({"y": jnp.zeros(4, jnp.int32)}, "target"),
        ({"key": jax.random.split(KEY, 3)}, "key"),
        ({"stop": "never"}, "stop"),
        ({"x_start": jnp.zeros((2, 2))}, "x_start"),
    ],
)
def test_bad_input_is_named(change, message):
    fn, x, y, _ = testing.linear_problem()
    attack = attacks.pgd(attacks.from_logits(fn, loss=losses.cross_entropy), threat.linf())
    given = {"key": KEY, "x": x, "y": y, "eps": 0.1, "stop": "success", "x_start": None}
    for name, value in change.items():
        given[name] = value(given[name]) if callable(value) else value
    with pytest.raises(ValueError, match=message):
        attacks.run(
            attack, given["key"], given["x"], given["y"], given["eps"], stop=given["stop"],
            x_start=given["x_start"],
        )  # fmt: skip


def test_bad_factory_arguments():
    objective = scalar_problem(lambda x: x)
    for options, message in (({"num_steps": 0}, "num_steps"), ({"keep": "first"}, "keep")):
        with pytest.raises(ValueError, match=message):
            attacks.pgd(objective, threat.linf(), **options)
    with pytest.raises(ValueError, match="known"):
        attacks.by_name("pdg", objective, threat.linf())
    with pytest.raises(ValueError, match="no option"):
        attacks.by_name("fgsm", objective, threat.linf(), num_steps=3)


def test_images_outside_of_the_bounds_are_flagged_where_nothing_can_raise():
    objective = scalar_problem(lambda x: x - 0.35)
    attack = attacks.pgd(objective, threat.linf(), num_steps=3)
    x = jnp.array([[0.2], [200.0], [jnp.nan]])
    labels = jnp.zeros(3, jnp.int32)
    result = jax.jit(lambda x: attacks.run(attack, KEY, x, labels, 0.5))(x)
    assert result.status.tolist() == [Status.OK, Status.INVALID_IMAGE, Status.INVALID_IMAGE]
    assert result.success.tolist() == [True, False, False]


def test_a_gradient_that_is_zero_inside_of_the_mask_is_flagged():
    def first_pixel(x):
        return x.reshape(x.shape[0], -1)[:, :1] - 0.9

    mask = jnp.ones((2, 2, 1)).at[0, 0, 0].set(0)
    attack = attacks.bim(
        scalar_problem(first_pixel), threat.masked(threat.linf(), mask), num_steps=3
    )
    x = jnp.full((1, 2, 2, 1), 0.5)
    result = attacks.run(attack, KEY, x, jnp.zeros(1, jnp.int32), 0.1)
    assert result.distance[0] == 0
    assert result.status[0] == Status.ZERO_GRADIENT


@pytest.mark.sample(2)
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 1), (3, 3, 4, 1)])
def test_a_mask_that_does_not_fit_is_refused(shape):
    def run():
        ball = threat.masked(threat.linf(), jnp.ones(shape))
        attack = attacks.fgsm(scalar_problem(lambda x: x.reshape(3, -1)[:, :1]), ball)
        return attacks.run(attack, KEY, jnp.zeros((3, 4, 4, 1)), jnp.zeros(3, jnp.int32), 0.1)

    with pytest.raises(ValueError, match="mask"):
        run()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda o: attacks.pgd(o, threat.linf), "ball: expected a Ball"),
        (lambda o: attacks.from_logits(lambda x: x, loss="cross_entropy"), "loss: expected"),
        (lambda o: example_keys(3, jnp.arange(2)), "key: expected jax.random.key"),
    ],
)
def test_beginners_mistakes_name_the_remedy(make, word):
    with pytest.raises(ValueError, match=word):
        make(scalar_problem(lambda x: x))


def test_labels_as_a_column_name_the_remedy():
    objective = attacks.from_logits(lambda x: x, loss=losses.cross_entropy, criterion=None)
    attack = attacks.fgsm(objective, threat.linf())
    with pytest.raises(AssertionError, match=r"pass y as \[B\]"):
        attacks.run(
            attack._replace(spec=attack.spec), KEY, jnp.zeros((3, 4)),
            jnp.zeros((3, 1), jnp.int32), 0.1,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "loss"), [(attacks.apgd, losses.dlr_targeted), (attacks.fab, losses.cross_entropy)]
)
def test_the_default_success_of_a_pair_is_not_the_label(make, loss):
    fn, x, y, _ = testing.linear_problem(num_rows=5, num_classes=5)
    objective = attacks.from_logits(fn, loss=loss)
    result = attacks.run(
        make(objective, threat.linf(), num_steps=5), jax.random.key(0), x, (y, (y + 1) % 5), 0.5
    )
    assert result.success.all()
    assert (fn(result.x_adv).argmax(-1) != y).all()


def test_a_model_with_one_class_is_refused():
    objective = attacks.from_logits(lambda x: x.sum((1, 2, 3))[:, None], loss=losses.cross_entropy)
    x, y = jnp.full((2, 4, 4, 1), 0.5), jnp.zeros(2, jnp.int32)
    for make in (attacks.pgd, attacks.square, attacks.simba):
        with pytest.raises(ValueError, match="one output has no other class"):
            attacks.run(make(objective, threat.l2() if make is attacks.simba else threat.linf()),
                        jax.random.key(0), x, y, 0.1)  # fmt: skip
