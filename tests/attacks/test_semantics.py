"""What `attacks.run` promises, word by word, on models whose behaviour is known by hand."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import Status, attacks, criteria, losses, testing, threat
from advjax.random import example_keys
from tests.attacks.by_hand import KEY, scalar_problem


def line(objective, x, eps, *, steps, step_size=1.0, keep="best", stop="success", ball=None):
    """Ascend from `x` with sign steps; the path is known by hand."""
    attack = attacks.bim(
        objective, ball or threat.linf(), num_steps=steps, step_size=step_size, keep=keep
    )
    x = jnp.full((1, 1), x, jnp.float32)
    return attacks.run(attack, KEY, x, jnp.zeros(1, jnp.int32), eps, stop=stop)


def test_a_row_freezes_at_its_first_success():
    # iterates 0.2, 0.3, 0.4, 0.5, ...: the first with x > 0.35 is 0.4, after two moves
    objective = scalar_problem(lambda x: x - 0.35)
    result = line(objective, 0.2, 0.6, steps=6, step_size=1 / 6)
    np.testing.assert_allclose(result.x_adv, 0.4, atol=1e-6)
    assert result.success[0]
    assert result.num_steps[0] == 2  # moves made
    assert result.num_grads[0] == 3  # the third gradient found the success
    np.testing.assert_allclose(result.loss, 2 * 0.05, atol=1e-6)
    np.testing.assert_allclose(result.distance, 0.2, atol=1e-6)


def test_budget_spends_every_step_and_finds_the_highest_loss():
    objective = scalar_problem(lambda x: x - 0.35)
    result = line(objective, 0.2, 0.6, steps=6, step_size=1 / 6, stop="budget")
    np.testing.assert_allclose(result.x_adv, 0.8, atol=1e-6)
    assert (result.num_steps[0], result.num_grads[0]) == (6, 6)


def test_success_at_the_start_makes_no_move():
    result = line(scalar_problem(lambda x: x - 0.1), 0.2, 0.6, steps=6)
    assert result.success[0]
    assert result.x_adv[0, 0] == jnp.float32(0.2)
    assert (result.num_steps[0], result.num_grads[0]) == (0, 1)


def test_success_only_at_the_last_point_is_found_by_finalize():
    objective = scalar_problem(lambda x: x - 0.45)
    result = line(objective, 0.2, 0.3, steps=3, step_size=1 / 3)
    assert result.success[0]
    assert (result.num_steps[0], result.num_grads[0]) == (3, 3)
    np.testing.assert_allclose(result.x_adv, 0.5, atol=1e-6)


def bumpy(x):
    """Positive on (0.35, 0.45) only, with its largest negative value elsewhere: overshoot."""
    return 0.05 - jnp.abs(x - 0.4)


def test_best_prefers_a_success_over_a_higher_loss():
    # loss rises with x, success is another thing: x in (0.25, 0.35)
    objective = attacks.from_logits(
        lambda x: x,
        loss=lambda output, _: output[0],
        criterion=lambda output, _: (output[0] > 0.25) & (output[0] < 0.35),
    )
    best = line(objective, 0.2, 0.5, steps=5, step_size=0.2, stop="budget")
    np.testing.assert_allclose(best.x_adv, 0.3, atol=1e-6)
    assert best.success[0]
    np.testing.assert_allclose(best.loss, 0.3, atol=1e-6)
    last = line(objective, 0.2, 0.5, steps=5, step_size=0.2, stop="budget", keep="last")
    np.testing.assert_allclose(last.x_adv, 0.7, atol=1e-6)
    assert not last.success[0]
    np.testing.assert_allclose(last.loss, 0.7, atol=1e-6)


def test_best_keeps_the_highest_loss_of_all_points_evaluated():
    # the path oscillates around the peak at 0.4: 0.2, 0.5, 0.2, 0.5 (never a success)
    objective = scalar_problem(lambda x: bumpy(x) - 1.0)
    result = line(objective, 0.2, 0.3, steps=3, stop="budget")
    np.testing.assert_allclose(result.x_adv, 0.5, atol=1e-6)
    again = line(objective, 0.2, 0.3, steps=4, stop="budget")
    np.testing.assert_allclose(again.x_adv, 0.5, atol=1e-6)


def test_ties_go_to_the_later_point():
    objective = attacks.from_logits(
        lambda x: x,
        loss=lambda output, _: jax.lax.stop_gradient(jnp.zeros(())) + 0 * output[0],
        criterion=lambda output, _: output[0] > 2,
    )
    attack = attacks.build_attack(
        objective, optax.stateless(lambda g, _: g * 0 + 0.1), threat.linf(), num_steps=3
    )
    result = attacks.run(attack, KEY, jnp.full((1, 1), 0.2), jnp.zeros(1, jnp.int32), 0.5)
    np.testing.assert_allclose(result.x_adv, 0.5, atol=1e-6)
    assert result.status[0] == Status.ZERO_GRADIENT


STEPPED = [
    n
    for n, f in sorted(attacks.ATTACKS.items())
    if "step_size_abs" in inspect.signature(f).parameters
]


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_zero_returns_exactly_x_from_every_start(name, norm):
    fn, x, y, _ = testing.linear_problem()
    # all of the thousands of queries of a search say no more than some
    steps = {"hopskipjump": 4, "nes": 9, "simba": 99, "spsa": 9, "square": 99}.get(name)
    attack = attacks.by_name(name, attacks.from_logits(fn, loss=losses.cross_entropy),
                             threat.by_name(norm), num_steps=steps)  # fmt: skip
    start = jnp.clip(x + 0.2, 0, 1)
    for x_start in (None, start):
        result = attacks.run(attack, KEY, x, y, 0.0, x_start=x_start, stop="budget")
        assert (result.x_adv == x).all()
        # nothing succeeds: the nearest success of an attack for the minimal norm is nowhere
        assert (result.distance == (jnp.inf if attack.spec.minimal else 0)).all()


def test_eps_zero_with_an_absolute_step():
    fn, x, y, _ = testing.linear_problem()
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    for ball in (threat.linf(), threat.l2()):
        for build in (attacks.pgd, attacks.smia):
            attack = build(objective, ball, step_size_abs=0.1)
            assert (attacks.run(attack, KEY, x, y, 0.0, stop="budget").x_adv == x).all()


@pytest.mark.parametrize("name", STEPPED)
def test_both_step_sizes_are_refused(name):
    objective = scalar_problem(lambda x: x)
    with pytest.raises(ValueError, match="step_size_abs"):
        attacks.ATTACKS[name](objective, threat.linf(), step_size=0.1, step_size_abs=0.1)


def test_step_size_abs_is_traced_and_may_differ_by_row():
    fn, x, y, _ = testing.linear_problem()
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    count = 0

    @jax.jit
    def moved(step):
        nonlocal count
        count += 1
        attack = attacks.fgsm(objective, threat.linf(), step_size_abs=step)
        return attacks.run(attack, KEY, x, y, 0.3, stop="budget").distance

    steps = jnp.linspace(0.01, 0.06, len(x))
    np.testing.assert_allclose(moved(steps), steps, atol=1e-6)
    np.testing.assert_allclose(moved(steps / 2), steps / 2, atol=1e-6)
    assert count == 1
    np.testing.assert_allclose(moved(jnp.asarray(0.02)), 0.02, atol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["pgd", "nifgsm", "smia", "mifgsm"])
def test_step_size_abs_equals_the_relative_step(name):
    fn, x, y, _ = testing.linear_problem()
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    eps = jnp.linspace(0.01, 0.06, len(x))
    results = [
        attacks.run(
            attacks.ATTACKS[name](objective, threat.l2(), num_steps=4, **step), KEY, x, y, eps,
            stop="budget",
        ).x_adv
        for step in ({"step_size": 0.25}, {"step_size_abs": 0.25 * eps})
    ]  # fmt: skip
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)


def test_one_trace_serves_all_budgets():
    fn, x, y, _ = testing.linear_problem()
    count = 0

    @jax.jit
    def attacked(x, y, eps):
        nonlocal count
        count += 1
        objective = attacks.from_logits(fn, loss=losses.cross_entropy)
        return attacks.run(attacks.pgd(objective, threat.linf(), num_steps=3), KEY, x, y, eps)

    for eps in (0.01, 0.02, 0.5):
        assert (attacked(x, y, eps).distance <= eps + 1e-6).all()
    assert count == 1
    attacked(x, y, jnp.linspace(0.1, 0.2, len(x)))
    attacked(x, y, jnp.linspace(0.0, 0.4, len(x)))
    assert count == 2  # a vector is another shape, once


def test_rows_do_not_depend_on_batch_or_order_with_their_own_keys():
    fn, x, y, _ = testing.linear_problem(num_rows=8, num_classes=3)
    ids = jnp.asarray([5, 3, 8, 1, 0, 2, 9, 4])
    keys = example_keys(KEY, ids, restart=1, attack_id="pgd")
    call = jax.jit(
        lambda k, x, y, e: attacks.run(
            attacks.pgd(attacks.from_logits(fn, loss=losses.cross_entropy), threat.linf()),
            k, x, y, e,
        )
    )  # fmt: skip
    eps = jnp.linspace(0.01, 0.1, 8)
    whole = call(keys, x, y, eps)
    halves = [call(keys[i : i + 4], x[i : i + 4], y[i : i + 4], eps[i : i + 4]) for i in (0, 4)]
    order = np.random.default_rng(0).permutation(8)
    mixed = call(keys[order], x[order], y[order], eps[order])
    joined = jax.tree.map(lambda *v: jnp.concatenate(v), *halves)
    for name in whole._fields:
        a, b, c = (np.asarray(getattr(result, name)) for result in (whole, joined, mixed))
        if name == "loss":  # of another batch size, jax 0.12 rounds its last bit differently
            np.testing.assert_allclose(a, b, rtol=1e-6)
            np.testing.assert_allclose(a[order], c, rtol=1e-6)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)
            np.testing.assert_array_equal(a[order], c, err_msg=name)


def test_example_keys_depend_on_every_part():
    data = {
        tuple(np.asarray(jax.random.key_data(example_keys(k, jnp.asarray([i]), r, a)))[0])
        for k in (jax.random.key(0), jax.random.key(1))
        for i in (0, 1)
        for r in (0, 1)
        for a in ("pgd", "fgsm", 3)
    }
    assert len(data) == 24
    raw = example_keys(jax.random.PRNGKey(0), jnp.asarray([4]), 2, 1)
    assert raw == example_keys(jax.random.key(0), jnp.asarray([4, 5]), 2, 1)[:1]


def test_one_key_folds_in_the_row():
    fn, x, y, _ = testing.linear_problem()
    objective = attacks.from_logits(fn, loss=losses.cross_entropy)
    attack = attacks.pgd(objective, threat.linf(), num_steps=1)
    one = attacks.run(attack, KEY, x, y, 0.01)
    many = attacks.run(
        attack, jnp.stack([jax.random.fold_in(KEY, i) for i in range(6)]), x, y, 0.01
    )
    np.testing.assert_array_equal(one.x_adv, many.x_adv)


def test_targeted_negates_the_loss_and_means_reaching():
    fn, x, y, _ = testing.linear_problem(num_classes=3)
    wanted = (y + 1) % 3
    objective = attacks.from_logits(fn, loss=losses.cross_entropy, targeted=True)
    result = attacks.run(attacks.pgd(objective, threat.linf()), KEY, x, wanted, 0.3, stop="budget")
    assert result.success.all()
    np.testing.assert_array_equal(jnp.argmax(fn(result.x_adv), -1), wanted)
    expected = -jax.vmap(losses.cross_entropy)(fn(result.x_adv), wanted)
    np.testing.assert_allclose(result.loss, expected, atol=1e-5)


def test_targets_may_be_any_pytree():
    fn, x, y, _ = testing.linear_problem()
    objective = attacks.from_logits(
        fn,
        loss=lambda o, t: t["weight"] * losses.cross_entropy(o, t["label"]),
        criterion=lambda o, t: criteria.misclassified(o, t["label"]),
    )
    target = {"label": y, "weight": jnp.full(len(y), 2.0)}
    assert attacks.run(attacks.pgd(objective, threat.linf()), KEY, x, target, 0.3).success.all()


def test_multilabel_bce():
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(12, 5)), jnp.float32)
    x = jnp.asarray(rng.uniform(0.4, 0.6, size=(4, 2, 2, 3)), jnp.float32)
    fn = lambda x: (x.reshape(len(x), -1) - 0.5) @ weights
    y = (fn(x) > 0).astype(jnp.int32)
    objective = attacks.from_logits(fn, loss=losses.binary_cross_entropy)
    result = attacks.run(attacks.pgd(objective, threat.linf()), KEY, x, y, 0.2, stop="budget")
    flipped = (fn(result.x_adv) > 0).astype(jnp.int32) != y
    np.testing.assert_array_equal(result.success, flipped.any(-1))
    wanted = 1 - y
    hide = attacks.from_logits(fn, loss=losses.binary_cross_entropy, targeted=True)
    reached = attacks.run(attacks.pgd(hide, threat.linf()), KEY, x, wanted, 0.4, stop="budget")
    got = ((fn(reached.x_adv) > 0).astype(jnp.int32) == wanted).all(-1)
    np.testing.assert_array_equal(reached.success, got)


@pytest.mark.slow
def test_x_start_is_used_and_projected():
    objective = scalar_problem(lambda x: x * 0 - 1)
    attack = attacks.bim(objective, threat.linf(), num_steps=2)
    x, y = jnp.full((2, 1), 0.5), jnp.zeros(2, jnp.int32)
    start = jnp.asarray([[0.55], [0.9]])
    result = attacks.run(attack, KEY, x, y, 0.1, x_start=start)
    np.testing.assert_allclose(result.x_adv, [[0.55], [0.6]], atol=1e-6)


def test_bounds_are_settable():
    fn, x, y, _ = testing.linear_problem()
    objective = attacks.from_logits(lambda x: fn(x / 255), loss=losses.cross_entropy)
    ball = threat.linf(bounds=(0.0, 255.0))
    result = attacks.run(attacks.pgd(objective, ball), KEY, x * 255, y, 200.0, stop="budget")
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 255
    assert result.x_adv.max() > 200


def test_an_attack_of_the_users_own_from_optax():
    fn, x, y, _ = testing.linear_problem()
    direction = optax.chain(optax.scale_by_adam(), attacks.scale_by_eps(0.1))
    attack = attacks.build_attack(
        attacks.from_logits(fn, loss=losses.cross_entropy), direction, threat.linf(),
        num_steps=40, random_start=True,
    )  # fmt: skip
    assert attacks.run(attack, KEY, x, y, 0.3).success.all()


def test_masked_attack_moves_only_the_region():
    fn, x, y, _ = testing.linear_problem()
    mask = jnp.zeros((6, 4, 5, 1), bool).at[:3, :2].set(True).at[3:, 2:].set(True)
    for inner in (threat.linf(), threat.l2()):
        attack = attacks.pgd(
            attacks.from_logits(fn, loss=losses.cross_entropy), threat.masked(inner, mask)
        )
        result = attacks.run(attack, KEY, x, y, 0.2, stop="budget")
        moved = result.x_adv != x
        assert not (moved & ~mask).any()
        assert (moved & mask).any((1, 2, 3)).all()
        assert (result.distance <= 0.2 + 1e-6).all()


def test_training_can_differentiate_past_an_attack():
    fn, x, y, _ = testing.linear_problem()

    def loss(scale):
        objective = attacks.from_logits(lambda x: scale * fn(x), loss=losses.cross_entropy)
        attack = attacks.pgd(objective, threat.linf(), num_steps=3)
        x_adv = jax.lax.stop_gradient(attacks.run(attack, KEY, x, y, 0.1, stop="budget").x_adv)
        return jax.vmap(losses.cross_entropy)(scale * fn(x_adv), y).mean()

    assert jnp.isfinite(jax.jit(jax.grad(loss))(1.0))


@pytest.mark.sample(2)
@pytest.mark.parametrize(("name", "forwards"), [("pgd", 6), ("smia", 11), ("nifgsm", 11)])
def test_passes_are_really_made_as_often_as_the_cost_says(name, forwards):
    """Count executions of the model and of its gradient on the host, not traces."""
    counts = {"forward": 0, "backward": 0}

    def count(which):
        counts[which] += 1

    @jax.custom_vjp
    def model(x):
        jax.debug.callback(count, "forward")
        return jnp.stack([x.sum((1, 2, 3)), jnp.zeros(x.shape[0])], -1)

    def forward(x):
        return model(x), x

    def backward(x, g):
        jax.debug.callback(count, "backward")
        return (jnp.broadcast_to(g[:, :1, None, None], x.shape),)

    model.defvjp(forward, backward)
    x, y = jnp.full((3, 2, 2, 1), 0.5), jnp.zeros(3, jnp.int32)

    @jax.jit
    def attacked(x):
        objective = attacks.from_logits(model, loss=losses.cross_entropy)
        attack = attacks.ATTACKS[name](objective, threat.linf(), num_steps=5)
        return attacks.run(attack, KEY, x, y, 0.1, stop="budget")

    result = jax.block_until_ready(attacked(x))
    jax.effects_barrier()
    assert counts == {"forward": forwards, "backward": 5}
    assert (result.num_grads == 5).all()
