"""FAB: official distances, closed forms of linear models, masks, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, criteria, losses, testing, threat
from advjax.status import Status
from advjax.types import Ball
from tests.attacks.test_goldens import forward
from tests.attacks.test_hyperplane import shortest

KEY = jax.random.key(0)
NORMS = ("linf", "l2", "l1")


def ball_of(norm, bounds=(0.0, 1.0)):
    """The ball of a norm; that of l1 projects by scaling, which FAB asks for at its start only."""
    if norm != "l1":
        return threat.by_name(norm, bounds)

    def distance(x, x0):
        return jnp.sum(jnp.abs(x - x0))

    def project(x, x0, eps):
        length = distance(x, x0)
        inside = length <= eps
        shrunk = x0 + (x - x0) * (eps / jnp.where(inside, 1, length))
        return jnp.clip(jnp.where(inside, x, shrunk), *bounds)

    def dual_norm(g):
        return jnp.max(jnp.abs(g))

    return Ball("l1", project, lambda key, x0, eps: x0, jnp.sign, distance, dual_norm, bounds)


def towards(fn, **options):
    """The objective of FAB-T."""
    return attacks.from_logits(
        fn, loss=lambda output, target: losses.cross_entropy(output, target[0]),
        criterion=lambda output, target: criteria.misclassified(output, target[0]), **options,
    )  # fmt: skip


def away(fn, **options):
    return attacks.from_logits(fn, loss=losses.cross_entropy, **options)


@pytest.mark.sample(1)
@pytest.mark.golden
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("net_rgb_7class", "untargeted"), ("net_rgb_7class", "targeted2"),
     ("net_gray_2class", "untargeted")],
)  # fmt: skip
def test_official_distances(name, kind, norm, golden_dir, x64):
    net = dict(np.load(golden_dir / f"{name}.npz"))
    golden = {k: net[f"fab/{norm}/{kind}/{k}"] for k in ("correct_index", "distance")}
    at = golden["correct_index"]
    x, y = jnp.asarray(net["x"][at]), jnp.asarray(net["y"][at])
    second = jnp.argsort(jnp.asarray(net["logits"][at]), axis=1)[:, -2]
    targeted = kind == "targeted2"

    @jax.jit
    def call(x, target):
        objective = (towards if targeted else away)(lambda x: forward(net, x))
        return attacks.run(attacks.fab(objective, ball_of(norm.lower())), KEY, x, target, jnp.inf)

    result = call(x, (y, second) if targeted else y)
    succeeded = np.isfinite(golden["distance"])
    assert succeeded.sum() > 10
    assert result.success[succeeded].all()
    ratio = np.asarray(result.distance)[succeeded] / golden["distance"][succeeded]
    assert abs(np.median(ratio) - 1) <= 1e-3
    assert ratio.max() <= 1.002
    assert (result.num_grads == 100 * (1 if targeted else net["b3"].size - 1)).all()
    assert (result.num_queries == 201).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("rows", "shape", "classes"), [(1, (5, 7, 1), 2), (3, (4, 3, 2), 5), (8, (13,), 3)]
)
def test_linear_optimum(norm, rows, shape, classes):
    # the only image of a problem would lie on the boundary
    fn, x, y, weights = testing.linear_problem(8, shape, classes)
    x, y = x[:rows], y[:rows]
    call = jax.jit(functools.partial(attacks.run, attacks.fab(away(fn), ball_of(norm))))
    result = call(KEY, x, y, jnp.inf)
    least = optimum(norm, fn, x, y, weights)
    assert result.success.all()
    assert ((result.distance >= least * 0.9999) & (result.distance <= least * 1.02)).all()
    assert (fn(result.x_adv).argmax(1) != y).all()
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    assert (result.num_grads == 100 * (classes - 1)).all()
    assert (result.num_queries == 201).all()


def optimum(norm, fn, x, y, weights, mask=1.0, low=0.0, high=1.0):
    """Exact distances of a linear model within the bounds, to the nearest other class."""
    x, logits = np.asarray(x, np.float64), np.asarray(fn(x), np.float64)
    away = np.full(logits.shape, np.inf)
    for i, own in enumerate(np.asarray(y)):
        for other in set(range(logits.shape[1])) - {own}:
            w = (weights[:, other] - weights[:, own]).reshape(x.shape[1:]) * mask
            gap = logits[i, other] - logits[i, own]
            away[i, other] = shortest(norm, x[i].ravel(), w.ravel(), gap, low, high)
    return away.min(1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", NORMS)
def test_linear_optimum_at_the_bounds_of_a_mask(norm, x64):
    fn, x, y, weights = testing.linear_problem(6, (4, 3, 2), 3)
    x = x.astype(jnp.float64)
    mask = np.zeros((4, 3, 2), bool)
    mask[1:, :, :] = True
    # close bounds: a good part of the pixels ends there
    ball = ball_of(norm, (0.349, 0.651))
    masks = jnp.broadcast_to(mask, x.shape)
    least = optimum(norm, fn, x, y, weights, mask, 0.349, 0.651)
    for masked in (threat.masked(ball, mask), threat.masked(ball, masks)):
        call = jax.jit(functools.partial(attacks.run, attacks.fab(away(fn), masked)))
        result = call(KEY, x, y, jnp.inf)
        assert result.success.all()
        assert ((result.distance >= least * 0.9999) & (result.distance <= least * 1.02)).all()
        assert (result.x_adv == jnp.where(mask, result.x_adv, x)).all()
        assert ((result.x_adv >= 0.349) & (result.x_adv <= 0.651)).all()
    assert (result.x_adv == 0.651).any()


def curved(num_rows=8, shape=(5, 3, 2), classes=4):
    """A small net that is not linear; its rows are computed alone, whatever the batch."""
    rng = np.random.default_rng(4)
    first = rng.normal(size=(int(np.prod(shape)), 16))
    second = rng.normal(size=(16, classes))
    x = jnp.asarray(rng.uniform(0.2, 0.8, size=(num_rows, *shape)))

    def one(x):
        return jnp.tanh((x.reshape(-1) - 0.5) @ jnp.asarray(first)) @ jnp.asarray(second)

    fn = jax.vmap(one)
    return fn, x, jnp.argmax(fn(x), -1)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_rows_do_not_see_each_other(norm, x64):
    fn, x, y = curved()
    second = jnp.argsort(fn(x), axis=1)[:, -2]
    eps = jnp.asarray([0.5, jnp.inf, 0.05, 2.0, jnp.inf, 1.0, 0.3, 4.0])
    attack = attacks.fab(towards(fn), ball_of(norm), num_steps=12, random_start=True)
    call = jax.jit(functools.partial(attacks.run, attack))
    keys = jax.random.split(KEY, len(x))
    whole = call(keys, x, (y, second), eps)
    order = jnp.asarray([3, 6, 0, 7, 1, 5, 2, 4])
    inputs = keys, x, (y, second), eps
    parts = [jax.tree.map(lambda v, at=at: v[at], inputs) for at in (order, order[:3], order[:1])]
    results = [call(*parts[0]), call(*parts[1]), attacks.run(attack, *parts[2])]
    for part in results:
        at = order[: len(part.success)]
        np.testing.assert_array_equal(part.success, whole.success[at])
        np.testing.assert_allclose(part.distance, whole.distance[at], rtol=1e-7)
        np.testing.assert_allclose(part.x_adv, whole.x_adv[at], atol=1e-7)
    assert whole.success.any()
    assert (whole.distance[whole.success] <= eps[whole.success]).all()
    assert (whole.num_grads == 12).all()


def test_both_kinds_agree_on_two_classes(x64):
    fn, x, y = curved(classes=2)
    both = [
        jax.jit(functools.partial(attacks.run, attacks.fab(kind(fn), threat.l2(), num_steps=10)))
        for kind in (away, towards)
    ]
    free, bound = both[0](KEY, x, y, jnp.inf), both[1](KEY, x, (y, 1 - y), jnp.inf)
    np.testing.assert_allclose(free.x_adv, bound.x_adv, atol=1e-9)
    np.testing.assert_array_equal(free.num_grads, bound.num_grads)


def test_eps_is_a_radius_and_wrong_images_are_at_no_distance():
    fn, x, y, weights = testing.linear_problem()
    least = optimum("l2", fn, x, y, weights)
    wrong = y.at[2].set(1 - y[2])
    call = jax.jit(functools.partial(attacks.run, attacks.fab(away(fn), threat.l2())))
    eps = jnp.asarray(least * np.asarray([1.03, 0.99, 0, 1.03, 0.5, 2]), jnp.float32)
    result = call(KEY, x, wrong, eps)
    np.testing.assert_array_equal(result.success, [True, False, True, True, False, True])
    assert np.isinf(result.distance[jnp.asarray([1, 4])]).all()
    assert result.distance[2] == 0
    assert (result.x_adv[2] == x[2]).all()
    free = call(KEY, x, wrong, jnp.inf)
    near = jnp.asarray([0, 2, 3, 5])
    np.testing.assert_array_equal(result.distance[near], free.distance[near])


def test_a_boundary_out_of_reach_is_no_success():
    fn, x, _, _ = testing.linear_problem()
    far = away(lambda x: fn(x) + jnp.asarray([1e3, 0.0]))
    call = jax.jit(functools.partial(attacks.run, attacks.fab(far, threat.linf(), num_steps=3)))
    result = call(KEY, x, jnp.zeros(len(x), jnp.int32), jnp.inf)
    assert not result.success.any()
    assert np.isinf(result.distance).all()
    assert (result.x_adv == x).all()
    assert (result.status == Status.OK).all()


def test_a_tie_is_left():
    fn, start, _, _ = testing.linear_problem()
    x = start
    tied = away(lambda x: fn(x) - jax.lax.stop_gradient(fn(start)))
    call = jax.jit(functools.partial(attacks.run, attacks.fab(tied, threat.l2(), num_steps=5)))
    result = call(KEY, x, jnp.zeros(len(x), jnp.int32), jnp.inf)
    # the rounding of logits and pixels decides how far that is
    assert result.success.all()
    assert (result.distance < 1e-5).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", NORMS)
def test_start_at_half_of_the_radius(norm):
    fn, x, y, _ = testing.linear_problem()
    mask = jnp.zeros(x.shape[1:], bool).at[1:3].set(True)
    ball = threat.masked(ball_of(norm), mask)
    attack = attacks.fab(away(fn), ball, random_start=True)
    eps = jnp.asarray([0.0, 0.1, 0.2, 0.3, jnp.inf, 0.2], jnp.float32)
    start = attack.init(jax.random.split(KEY, len(x)), x, y, eps).x
    moved = threat.over_rows(ball).distance(start, x)
    np.testing.assert_allclose(moved, [0, 0.05, 0.1, 0.15, 0, 0.1], rtol=1e-4)
    assert (jnp.where(mask, 0, start - x) == 0).all()
    other = attack.init(jax.random.split(jax.random.key(1), len(x)), x, y, eps).x
    assert (other[1] != start[1]).any()


def test_final_search_ends_at_the_boundary():
    fn, x, y, weights = testing.linear_problem(shape=(5, 4, 1))
    y = y.at[0].set(1 - y[0])
    results = [
        jax.jit(functools.partial(attacks.run, attacks.fab(
            away(fn), threat.l2(), num_steps=2, final_search=halvings)))(KEY, x, y, jnp.inf)
        for halvings in (0, 12)
    ]  # fmt: skip
    rough, fine = results
    least = optimum("l2", fn, x, y, weights)
    assert (rough.distance[1:] > least[1:] * 1.004).any()
    np.testing.assert_allclose(fine.distance[1:], least[1:], rtol=2e-3)
    assert fine.success.all()
    assert (fn(fine.x_adv).argmax(1) != y).all()
    assert (fine.x_adv[0] == x[0]).all()
    moved = threat.over_rows(threat.l2()).distance(fine.x_adv, x)
    np.testing.assert_allclose(moved, fine.distance, rtol=1e-6)
    assert (fine.num_queries == rough.num_queries + 12).all()


def test_what_is_not_finite_or_flat_is_said_and_moves_nothing():
    fn, x, y, _ = testing.linear_problem()

    def broken(x):
        # NaN logits for the first row, NaN gradients for the second, a flat third
        logits = fn(x)
        mean = x.reshape(len(x), -1).mean(1, keepdims=True)
        kind = jnp.arange(len(x))[:, None]
        kink = jnp.sqrt(jnp.abs(jnp.where(kind == 1, mean - jax.lax.stop_gradient(mean), 1)))
        logits = jnp.where(kind == 0, jnp.nan, logits)
        logits = jnp.where(kind == 1, logits + kink, logits)
        return jnp.where(kind == 2, jnp.asarray([0.0, 0.5]), logits)

    call = jax.jit(functools.partial(attacks.run, attacks.fab(away(broken), threat.l2())))
    result = call(KEY, x, y.at[2].set(1), jnp.inf)
    assert np.isfinite(result.x_adv).all()
    np.testing.assert_array_equal(result.status[:4], [2, 2, 1, 0])
    np.testing.assert_array_equal(result.success, [False, False, False, True, True, True])
    assert (result.x_adv[:3] == x[:3]).all()
    assert np.isinf(result.distance[:3]).all()


def test_a_stand_in_proposes_and_the_model_decides():
    fn, x, y, _ = testing.linear_problem()
    # rounding has no gradient of its own, and moves the boundary a little
    rough = away(lambda x: fn(jnp.round(x * 64) / 64), gradient_fn=fn)
    y = rough.apply(x, None).argmax(1)
    call = jax.jit(functools.partial(attacks.run, attacks.fab(rough, threat.l2(), num_steps=40)))
    result = call(KEY, x, y, jnp.inf)
    assert result.success.all()
    assert (rough.apply(result.x_adv, None).argmax(1) != y).all()
    assert (result.num_queries == 81).all()


PLAIN = away(lambda x: x.reshape(len(x), -1)[:, :3])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: attacks.fab(PLAIN, threat.linf()._replace(name="l0")), "linf, l2, l1, not 'l0'"),
        (lambda: attacks.fab(attacks.with_eot(PLAIN, 2), threat.linf()), "not wrapped"),
        (lambda: attacks.fab(away(lambda x: x, targeted=True), threat.l2()), "only leaves a class"),
        (lambda: attacks.fab(PLAIN, threat.l2(), beta=1.0), "beta within"),
        (lambda: attacks.fab(PLAIN, threat.l2(), final_search=-1), "final_search"),
        (lambda: attacks.fab(PLAIN, threat.l2(), num_steps=0), "num_steps"),
    ],
)
def test_what_the_factory_refuses(build, words):
    with pytest.raises(ValueError, match=words):
        build()


LABELS = jnp.zeros(2, jnp.int32)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("target", "fn", "words"),
    [
        (jnp.zeros((2, 3), jnp.int32), lambda x: x, "target must be labels"),
        ((LABELS, LABELS, LABELS), lambda x: x, "target must be labels"),
        ((LABELS, jnp.zeros((2, 3), jnp.int32)), lambda x: x, "target must be labels"),
        (jnp.zeros(2), lambda x: x, "target must be labels"),
        ({"label": LABELS}, lambda x: x, "target must be labels"),
        (LABELS, lambda x: x[:, :1], "two classes at least"),
        (LABELS, lambda x: x[:, 0], "two classes at least"),
    ],
)
def test_what_is_no_single_label(target, fn, words):
    objective = attacks.from_logits(
        fn, loss=lambda output, _: jnp.sum(output), criterion=lambda output, _: jnp.sum(output) > 9
    )
    with pytest.raises(ValueError, match=words):
        attacks.run(
            attacks.fab(objective, threat.l2()), KEY, jnp.full((2, 4), 0.5), target, jnp.inf
        )
