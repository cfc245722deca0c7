"""Attacks with a goal on the command line lead to it, by whatever loss they have of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Status, attacks, engine, threat
from advjax.cli._subjects import attack_factory
from advjax.config import AttackConfig
from tests.attacks.test_nearest import beyond_all

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(16, 3))
X = RNG.uniform(0.3, 0.7, (12, 4, 4, 1)).astype(np.float32)
KEY = jax.random.key(0)
NAMES = ("a", "b", "c")


def classes(variables, x):
    return (x.reshape(len(x), -1) - 0.5) @ jnp.asarray(WEIGHTS, x.dtype)


def pixels(variables, x):
    """All pixels are of class 1, at most 0.45 from the background."""
    return jnp.concatenate([-(x - 0.25), x - 0.25], -1)


def attacked(apply, task, text, target, eps):
    make_attack = attack_factory(apply, task, AttackConfig.parse(text), names=NAMES)

    @jax.jit
    def call(x, target):
        return attacks.run(make_attack({}), KEY, x, target, eps)

    return make_attack({}).spec, call(X, target)


@pytest.mark.parametrize("name", ["ddn:norm=l2", "fmn:norm=l2", "cw_l2:norm=l2,num_steps=100"])
def test_minimal_norms_reach_a_class(name):
    logits = np.asarray(classes({}, X), np.float64)
    label, wanted = logits.argmax(1).astype(np.int32), np.full(len(X), 1)
    _, result = attacked(classes, "single", f"{name},goal=class-b", label, np.inf)
    already = label == 1
    assert 0 < already.sum() < len(X) / 2
    assert result.success.all()
    assert (np.asarray(classes({}, result.x_adv)).argmax(1) == 1).all()
    best = beyond_all(WEIGHTS, logits[~already], wanted[~already])
    most = 1.3 if name.startswith("fmn") else 1.05  # as tests.attacks.test_nearest has it
    np.testing.assert_array_less(result.distance[~already], most * best)
    np.testing.assert_allclose(result.distance[already], 0, atol=1e-6)


@pytest.mark.parametrize("name", ["cw_linf:", "apgd:", "square:num_steps=200,"])
def test_losses_of_their_own_lead_to_a_class(name):
    label = np.asarray(classes({}, X)).argmax(1).astype(np.int32)
    spec, result = attacked(classes, "single", f"{name}goal=class-b", label, 0.2)
    assert result.success.all()
    assert (np.asarray(classes({}, result.x_adv)).argmax(1) == 1).all()
    # what judges has the true labels
    reached = jax.vmap(spec.objective.criterion)(classes({}, X), jnp.asarray(label))
    np.testing.assert_array_equal(reached, label == 1)


@pytest.mark.parametrize("name", ["dag", "asma", "segpgd", "cospgd"])
def test_masks_are_erased(name):
    mask = np.ones(X.shape[:3], np.int32)
    options = "num_steps=300" if name in ("dag", "asma") else "num_steps=20"
    _, result = attacked(pixels, "segmentation", f"{name}:{options},goal=erase", mask, 0.5)
    # towards the background is down; ASMA's steps follow the overlap, which is none here
    moved = np.asarray(result.x_adv) - X
    assert (moved <= 1e-6).all()
    assert (moved.min((1, 2, 3)) < 0).all()
    if name == "asma":
        return
    assert result.success.all(), name
    assert (np.asarray(pixels({}, result.x_adv)).argmax(-1) == 0).mean() > 0.9


@pytest.mark.parametrize("goal", ["hide-b", "fabricate-b"])
def test_one_finding_moves_and_no_other_counts(goal):
    logits = np.asarray(classes({}, X))
    labels = (logits > 0).astype(np.int32)
    _, result = attacked(
        classes, "multi", f"cw_l2:norm=l2,num_steps=100,goal={goal}", labels, np.inf
    )
    fits = (labels[:, 1] > 0) == (goal == "hide-b")
    assert 0 < fits.sum() < len(X)
    np.testing.assert_array_equal(result.success, fits)
    nearest = np.abs(logits[:, 1]) / np.linalg.norm(WEIGHTS[:, 1])
    np.testing.assert_allclose(result.distance[fits], nearest[fits], rtol=0.03)


def test_images_that_a_goal_cannot_change_are_no_reason_for_doubt():
    logits = np.asarray(classes({}, X))
    labels = (logits > 0).astype(np.int32)
    attack = AttackConfig.parse("pgd:num_steps=20,goal=hide-b")
    make_attack = attack_factory(classes, "multi", attack, names=NAMES)
    fits = labels[:, 1] > 0
    assert 2 < fits.sum() < len(X) / 2 + 2
    eps = [0.001, 0.01, 0.2]
    result = engine.sweep(make_attack, {}, X, labels, epsilons=eps, key=KEY, slots=4)
    np.testing.assert_array_equal(np.isfinite(result.min_eps), fits)
    np.testing.assert_array_equal(result.status == Status.NOTHING_TO_REACH, ~fits)
    np.testing.assert_array_equal(result.tables[0].idle, ~fits)
    found = {flag.name: flag for flag in result.trust.flags}
    assert found["zero_gradient"].shown == found["loss_not_rising"].shown == 0
    # what can be reached is probed all the same
    assert found["unbounded_eps_fails"][1:3] == (0, fits.sum())
    assert found["nothing_to_reach"][1:3] == ((~fits).sum(), len(X))
    rows = engine.reference(make_attack, {}, X, labels, 0.2, key=KEY)
    np.testing.assert_array_equal(rows.status == Status.NOTHING_TO_REACH, ~fits)


def test_a_loss_that_no_output_changes_hides_nothing_that_could_be_reached():
    """A constant loss beside a criterion that can hold: the attack is at fault, not the data."""
    label = np.asarray(classes({}, X)).argmax(1).astype(np.int32)

    def make_attack(params):
        constant = lambda output, target: 0 * output[0]
        objective = attacks.from_logits(lambda x: classes(params, x), loss=constant)
        return attacks.pgd(objective, threat.linf(), num_steps=5)

    result = engine.sweep(make_attack, {}, X, label, epsilons=[0.1], key=KEY, slots=4)
    assert not result.tables[0].idle.any()
    assert result.trust.verdict == "unreliable"
