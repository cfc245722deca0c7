"""Generators of perturbations: on linear models the best perturbation is known."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import attacks, data, losses, models, testing, threat, training
from advjax.training import _gap
from advjax.types import Batch

KEY = jax.random.key(0)
SHAPE = (4, 4, 2)
FN, X, Y, WEIGHTS = testing.linear_problem(num_rows=24, shape=SHAPE)
SLOPE = jnp.asarray((WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(SHAPE), jnp.float32)


def victim(params, x):
    return FN(x) * params["scale"]


PARAMS = {"scale": jnp.float32(1)}


def split(rows, targets=None):
    return data.Split(
        np.asarray(X)[rows], np.asarray(Y if targets is None else targets, np.int32)[rows],
        np.arange(24, dtype=np.int32)[rows],
    )  # fmt: skip


TRAIN, HELD = split(slice(0, 14)), split(slice(14, 24))


def by_class():
    """A generator that may make one perturbation where the first pixel is bright, else another."""

    def init(key, x):
        return {"params": {"kernel": 0.1 * jax.random.normal(key, (2, *x.shape[1:]))}}

    def apply(variables, x):
        # the side of the linear model, which is what a generator has to find out
        side = (FN(x)[:, 1] > FN(x)[:, 0]).astype(jnp.int32)
        return jnp.tanh(variables["params"]["kernel"][side])

    return models.from_fn(apply, init, name="by_class")


class Tiny(nn.Module):
    """Two convolutions with batch-norm and dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.Conv(4, (3, 3))(x - 0.5)
        y = nn.BatchNorm(use_running_average=not train, momentum=0.5)(y)
        y = nn.Dropout(0.5, deterministic=not train)(nn.relu(y))
        return jnp.tanh(nn.Conv(x.shape[-1], (3, 3))(y))


def train(generator=None, held=HELD, **options):
    options = {"eps": 0.02, "loss": losses.cross_entropy, "epochs": 3, "batch_size": 5,
               "optimizer": optax.adam(0.3)} | options  # fmt: skip
    return training.train_gap(generator or by_class(), victim, PARAMS, TRAIN, held, **options)


def parts(**options):
    given = {"generator": by_class(), "fn": victim, "ball": threat.linf(),
             "loss": losses.cross_entropy, "goal": training.least_likely,
             "optimizer": optax.adam(0.3), "universal": False,
             "straight_through": False}  # fmt: skip
    return _gap.Parts(**{**given, **options})


def test_goals():
    logits = jnp.asarray([0.3, -1.2, 2.0, 0.7])
    assert training.least_likely.target(logits, jnp.asarray(2)) == 1
    pixels = jnp.stack([logits, logits[::-1]])[None]
    np.testing.assert_array_equal(training.least_likely.target(pixels, None), [[1, 2]])
    # the complement of the thresholded prediction
    flipped = training.flip_predictions.target(logits, jnp.zeros(4))
    np.testing.assert_array_equal(flipped, 1 - (jax.nn.sigmoid(logits) >= 0.5))
    goal = training.towards([0, 0, 0, 0])
    np.testing.assert_array_equal(goal.target(logits, None), np.zeros(4))
    assert goal.targeted
    assert not training.least_likely.targeted


def test_agreement_counts_decisions():
    logits = jnp.asarray([0.3, -1.2, 2.0, 0.0])
    assert _gap.agreement(logits, jnp.asarray(2)) == 1
    assert _gap.agreement(logits, jnp.asarray(0)) == 0
    assert _gap.agreement(logits, jnp.asarray([1, 1, -1, 0])) == pytest.approx(2 / 3)
    pixels = jnp.stack([logits, -logits])[None]
    assert _gap.agreement(pixels, jnp.asarray([[2, 1]])) == 1
    assert _gap.agreement(pixels, jnp.asarray([[2, 255]])) == 1
    assert _gap.agreement(pixels, jnp.asarray([[0, 1]])) == 0.5


@functools.cache
def learnt():
    """What a generator learns when it is given time."""
    options = {"straight_through": True, "optimizer": optax.adam(1.0)}
    return train(epochs=20, batch_size=14, **options)


@functools.cache
def pair():
    """Two budgets, four epochs."""
    return train(eps=(0.005, 0.02), epochs=4)


def moved(generator, variables, x, eps):
    """What a trained generator makes of images."""
    made = training.generated(generator, variables, x)
    return jax.vmap(lambda d, x: attacks.perturbed(threat.linf(), d, x, eps))(made, x)


def test_it_finds_the_worst_case_of_a_linear_model():
    found = learnt()
    x = moved(by_class(), found.variables[0], HELD.images, 0.02)
    assert jnp.abs(x - HELD.images).max() <= 0.02 + 1e-6
    # towards the class that is not predicted: margin - eps * dual norm
    logits, after, reach = FN(HELD.images), FN(x), 0.02 * float(jnp.abs(SLOPE).sum())
    sign = jnp.where(HELD.targets == 0, -1, 1)
    bound = jnp.abs(logits[:, 1] - logits[:, 0]) - reach
    reached = sign * (after[:, 1] - after[:, 0])
    assert (reached >= bound - 1e-4).all()
    np.testing.assert_allclose(reached, bound, atol=0.05 * reach)
    assert found.scores[0] == pytest.approx(float(np.mean(reached < 0)))
    assert found.scores[0] > 0


def test_a_trained_generator_is_an_attack():
    generator, found = by_class(), learnt()
    objective = attacks.from_logits(lambda x: victim(PARAMS, x), loss=losses.cross_entropy)
    generate = functools.partial(training.generated, generator, found.variables[0])
    attack = attacks.gap(objective, threat.linf(), generate=generate)
    result = attacks.run(attack, KEY, HELD.images, HELD.targets, 0.02)
    np.testing.assert_allclose(
        result.x_adv, moved(generator, found.variables[0], HELD.images, 0.02), atol=1e-6
    )
    assert float(np.mean(result.success)) == pytest.approx(found.scores[0])


def test_budgets_together_or_one_after_the_other():
    together, apart = train(stack="vmap", eps=(0.005, 0.02), epochs=4), pair()
    for a, b in zip(together.variables, apart.variables, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), a, b)
    np.testing.assert_allclose(together.scores, apart.scores)
    losses_of = [[record["loss"] for record in found.history] for found in (together, apart)]
    np.testing.assert_allclose(*losses_of, rtol=1e-4)
    assert (np.array(losses_of[1])[1:, 0] > np.array(losses_of[1])[1:, 1]).all()


def test_the_best_epoch_is_kept():
    # a rate at which nothing is ever learnt, and scores that go up and down
    found = train(epochs=4, optimizer=optax.sgd(30.0), eps=0.015)
    scores = [record["score"][0] for record in found.history]
    assert found.scores[0] == max(scores)


def test_straight_through_changes_the_gradient_only():
    made = jnp.tanh(3 * jax.random.normal(KEY, (2, *SHAPE)))

    def total(made, through):
        x = _gap._perturbed(parts(straight_through=through), made, X[:2], jnp.float32(0.02))
        return jnp.sum(x * SLOPE), x

    values = [jax.value_and_grad(total, has_aux=True)(made, through) for through in (False, True)]
    np.testing.assert_allclose(values[0][0][1], values[1][0][1], atol=1e-6)
    np.testing.assert_allclose(values[1][1], jnp.broadcast_to(SLOPE, made.shape), rtol=1e-6)
    # with the division, a longer perturbation of the same direction gains nothing
    np.testing.assert_allclose(jnp.sum(values[0][1] * made, (1, 2)), 0, atol=1e-4)


def test_a_universal_generator_makes_one_perturbation():
    generator = models.from_linen(Tiny(), name="tiny")
    options = {"universal": True, "straight_through": True, "epochs": 1, "seed": 3}
    found = train(generator, optimizer=None, **options)
    made = training.generated(generator, found.variables[0], X, universal=True, seed=3)
    assert (made == made[:1]).all()
    assert not jnp.allclose(made[0], made[0, 0, 0])
    other = training.generated(generator, found.variables[0], X, universal=True, seed=4)
    assert not jnp.allclose(made, other)
    # running statistics were learnt
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(found.variables[0]["batch_stats"]))


def test_findings_that_are_to_vanish():
    # three findings of a linear model, and one perturbation that hides them all
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(32, 3)), jnp.float32)

    def fn(params, x):
        return (x.reshape(len(x), -1) - 0.5) @ weights * params["scale"]

    labels = np.asarray(fn(PARAMS, X) > 0, np.int32)
    sets = split(slice(0, 14), labels), split(slice(14, 24), labels)
    generator = models.from_fn(
        lambda variables, x: jnp.broadcast_to(jnp.tanh(variables["params"]["bias"]), x.shape),
        lambda key, x: {"params": {"bias": 0.1 * jax.random.normal(key, x.shape[1:])}},
    )
    goal = training.towards([0, 0, 0])
    options = {"eps": 0.06, "loss": losses.binary_cross_entropy, "epochs": 6, "batch_size": 7}
    found = training.train_gap(
        generator, fn, PARAMS, *sets, goal=goal, optimizer=optax.adam(0.2), **options
    )
    logits = np.asarray(fn(PARAMS, moved(generator, found.variables[0], sets[1].images, 0.06)))
    assert found.scores[0] == pytest.approx(np.mean(logits <= 0), abs=1e-6)
    # more than the clean images had
    assert found.scores[0] > np.mean(sets[1].targets == 0) + 0.1
    # untargeted, the score is how many decisions differ from the labels
    p = parts(generator=generator, fn=fn, goal=training.flip_predictions)
    batch = Batch(sets[1].images, sets[1].targets, sets[1].ids, np.ones(10, bool))
    total, count = _gap.gap_score(p, 0, PARAMS, found.variables[0], 0.06, batch)
    assert float(total / count) == pytest.approx(np.mean((logits > 0) != sets[1].targets), abs=1e-6)


def test_padding_counts_for_nothing():
    p = parts()
    state = _gap.init_gap(p, 0, SHAPE)
    batch = Batch(X[:4], Y[:4], jnp.arange(4), jnp.asarray([True, True, True, False]))
    other = batch._replace(image=X[:4].at[3].set(1 - X[3]))
    step = jax.jit(functools.partial(_gap.gap_step, p, 0))
    results = []
    for given in (batch, other):
        target = _gap.gap_targets(p, PARAMS, given)
        results.append(step(PARAMS, state, jnp.float32(0.02), given, target))
        sums = _gap.gap_score(p, 0, PARAMS, state.best, 0.02, given)
        assert sums[1] == 3
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_an_output_that_is_not_finite_is_no_success():
    p = parts(fn=lambda params, x: jnp.full((len(x), 2), jnp.nan))
    state = _gap.init_gap(p, 0, SHAPE)
    batch = Batch(X[:4], Y[:4], jnp.arange(4), jnp.ones(4, bool))
    assert _gap.gap_score(p, 0, PARAMS, state.best, 0.02, batch)[0] == 0


def test_a_killed_training_goes_on(tmp_path):
    options, whole = {"eps": (0.005, 0.02)}, pair()
    train(**options, epochs=2, out=tmp_path / "gap")
    seen = []
    resumed = train(**options, epochs=4, out=tmp_path / "gap", progress=seen.append)
    assert resumed.resumed_from == 2
    assert [record["epoch"] for record in seen] == [3, 4]
    jax.tree.map(np.testing.assert_array_equal, whole.variables, resumed.variables)
    assert resumed.history == whole.history
    again = train(**options, epochs=4, out=tmp_path / "gap")
    assert again.resumed_from == 4
    np.testing.assert_array_equal(again.scores, whole.scores)
    loaded = training.load_gap(tmp_path / "gap", by_class())
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, whole.variables)
    np.testing.assert_array_equal(loaded.scores, whole.scores)
    np.testing.assert_array_equal(loaded.eps, whole.eps)
    with pytest.raises(ValueError, match="differs in seed"):
        train(**options, epochs=4, out=tmp_path / "gap", seed=1)
    with pytest.raises(ValueError, match="tiny"):
        training.load_gap(tmp_path / "gap", models.from_linen(Tiny(), name="tiny"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": ()}, "eps"),
        ({"eps": (0.1, 0.0)}, "eps"),
        ({"eps": (8.0,)}, "8/255, not 8"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"stack": "both"}, "stack"),
        ({"held": split(slice(0, 0))}, "held_out"),
        ({"ball": threat.masked(threat.linf(), jnp.ones((24, 4, 4, 1), bool))}, "ball"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        train(**options)


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(training.NonFiniteLossError, match="learning rate"):
        train(loss=lambda output, target: jnp.sum(output) * jnp.nan)
