"""The engine against the brute force and closed forms, and its invariances."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Status, attacks, engine, losses, testing, threat
from advjax.engine import Verdict
from advjax.mesh import data_mesh

KEY = jax.random.key(3)
N, CLASSES = 37, 3
EPSILONS = np.arange(1, 9) / 255 * 3
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, size=(N, 4, 4, 3), dtype=np.uint8)
PARAMS = {
    "w": RNG.normal(size=(48, 5)).astype(np.float32),
    "v": RNG.normal(size=(5, CLASSES)).astype(np.float32),
}


def net(params, x):
    return jnp.tanh(x.reshape(x.shape[0], -1) @ params["w"] / 3) @ params["v"]


Y = np.asarray(jnp.argmax(net(PARAMS, X / np.float32(255)), -1)).astype(np.int32)
Y[::9] = (Y[::9] + 1) % CLASSES  # wrong when clean
TRACES = []


def make_pgd(params, **options):
    objective = attacks.from_logits(lambda x: net(params, x), loss=losses.cross_entropy)
    options = {"num_steps": 24, "step_size": 0.25} | options
    return attacks.pgd(objective, threat.linf(), **options)


def make_wide(params):
    objective = attacks.from_logits(lambda x: net(params, x), loss=losses.cross_entropy)
    return attacks.pgd(objective, threat.linf(bounds=(-1, 1)), num_steps=3)


def counted(params):
    TRACES.append(isinstance(params["w"], jax.core.Tracer))
    return make_pgd(params)


def sweep(make=make_pgd, **options):
    options = {"epsilons": EPSILONS, "key": KEY, "slots": 6} | options
    return engine.sweep(make, PARAMS, options.pop("x", X), options.pop("y", Y), **options)


@functools.cache
def swept(order):
    return sweep(order=order)


def test_exhaustive_is_the_reference_row_for_row():
    result = swept("exhaustive")
    table, right = result.tables[0], ~result.tables[0].wrong
    for e, eps in enumerate(EPSILONS):
        rows = engine.reference(make_pgd, PARAMS, X, Y, eps, key=KEY, batch_size=16)
        solved = table.verdict[:, 0, e] == Verdict.VERIFIED
        np.testing.assert_array_equal(solved[right], rows.success[right])
        np.testing.assert_allclose(table.loss[right, 0, e], rows.loss[right], atol=1e-6)
        np.testing.assert_array_equal(table.steps[right, 0, e], rows.num_steps[right])
        np.testing.assert_array_equal(table.grads[right, 0, e], rows.num_grads[right])
        np.testing.assert_array_equal(table.status[right, 0, e], rows.status[right])
    assert result.rows_useful == right.sum() * len(EPSILONS) * 24


@pytest.mark.slow
def test_a_climb_with_cycle_detection_has_the_verdicts_of_every_step():
    np.testing.assert_array_equal(swept("ascending").min_eps, swept("exhaustive").min_eps)
    climbed, exhaustive = swept("ascending").tables[0], swept("exhaustive").tables[0]
    known = climbed.verdict != Verdict.UNKNOWN
    np.testing.assert_array_equal(climbed.verdict[known], exhaustive.verdict[known])
    cycled = climbed.status == Status.CYCLED
    assert cycled.any()
    assert (climbed.steps[cycled] < 24).any()
    # an attack that is not known to be without memory spends its steps, with the same verdicts
    plain = sweep(lambda p: make_pgd(p, step_size=lambda _: 0.25), order="ascending")
    assert not (plain.status == Status.CYCLED).any()
    np.testing.assert_array_equal(plain.min_eps, swept("ascending").min_eps)
    assert plain.rows_useful > swept("ascending").rows_useful


def test_search_finds_the_same_curve_for_less():
    np.testing.assert_array_equal(swept("search").min_eps, swept("exhaustive").min_eps)
    assert swept("search").rows_computed * 4 < swept("exhaustive").rows_computed
    assert swept("search").rows_useful < swept("ascending").rows_useful


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("order", engine.ORDERS)
def test_linear_models_break_at_the_closed_form(norm, order):
    fn, x, y, _ = testing.linear_problem(num_rows=12, num_classes=3)
    ball = threat.by_name(norm, (-np.inf, np.inf))

    def make(scale):
        objective = attacks.from_logits(lambda x: scale * fn(x), loss=losses.cw_margin)
        return attacks.bim(objective, ball, num_steps=1, step_size=1.0)

    def margin(x, y):
        return losses.cw_margin(fn(x[None])[0], y)

    gradient = jax.vmap(jax.grad(margin))(x, y)
    best = -np.asarray(jax.vmap(margin)(x, y) / jax.vmap(ball.dual_norm)(gradient))
    epsilons = np.quantile(np.abs(best), np.linspace(0.02, 0.9, 9)) * 1.01
    result = engine.sweep(
        make, np.float32(1), x, y, epsilons=epsilons, key=KEY, order=order, slots=5
    )
    # with three classes the other of two may be nearer than the one that is best now
    expected = np.array([np.min(np.append(epsilons[epsilons >= b], np.inf)) for b in best])
    expected = np.where(best <= 0, 0, expected)
    assert (result.min_eps <= expected + 1e-9).all()
    assert (result.min_eps == expected).mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"slots": 1},
        {"slots": 32},
        {"memory_limit": 1, "slots": 2},
        {"devices": 1},
        {"devices": 8, "slots": 2},
        {"devices": 2, "slots": 2, "memory_limit": 1},
    ],
    ids=str,
)
def test_verdicts_do_not_depend_on_how_the_work_is_laid_out(options):
    devices = options.pop("devices", None)
    result = sweep(mesh=data_mesh(devices) if devices else None, **options)
    whole = swept("search")
    np.testing.assert_array_equal(result.min_eps, whole.min_eps)
    np.testing.assert_array_equal(result.status, whole.status)
    np.testing.assert_array_equal(result.tables[0].verdict, whole.tables[0].verdict)
    np.testing.assert_array_equal(result.tables[0].steps, whole.tables[0].steps)
    assert result.rows_useful == whole.rows_useful


def test_order_of_the_examples_does_not_matter():
    order = np.random.default_rng(1).permutation(N)
    result = sweep(x=X[order], y=Y[order], ids=order)
    np.testing.assert_array_equal(result.min_eps, swept("search").min_eps[order])
    part = sweep(x=X[5:20], y=Y[5:20], ids=np.arange(5, 20))
    np.testing.assert_array_equal(part.min_eps, swept("search").min_eps[5:20])


def test_float_images_are_the_same_images():
    result = sweep(x=X.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(result.tables[0].loss, swept("search").tables[0].loss)


def test_one_trace_serves_all_parameters_data_and_budgets():
    TRACES.clear()
    sweep(counted)
    assert sum(TRACES) == 1
    other = jax.tree.map(lambda leaf: leaf * 1.1, PARAMS)
    engine.sweep(
        counted, other, X[::-1], Y[::-1], epsilons=EPSILONS * 2, key=jax.random.key(9), slots=6
    )
    sweep(counted, memory_limit=2**28)
    assert sum(TRACES) == 1


def test_curve_and_words():
    result = swept("search")
    wrong = np.asarray(jnp.argmax(net(PARAMS, X / np.float32(255)), -1)) != Y
    np.testing.assert_array_equal(result.min_eps == 0, wrong)
    assert result.clean_accuracy == pytest.approx(1 - wrong.mean())
    for e, eps in enumerate(EPSILONS):
        assert result.robust_accuracy[e] == np.mean(result.min_eps > eps)
    assert (result.status[wrong] == Status.WRONG_WHEN_CLEAN).all()
    robust = np.isinf(result.min_eps)
    assert robust.any()
    assert np.isin(result.status[robust], [Status.CYCLED, Status.EXHAUSTED]).all()
    np.testing.assert_array_equal(result.solved_by, np.where(wrong | robust, -1, 0))
    assert result.rows_useful <= result.rows_computed


@pytest.mark.parametrize("order", engine.ORDERS)
def test_images_at_the_smallest_budget(order):
    result = sweep(order=order, return_x_adv=True)
    clean = X / np.float32(255)
    moved = np.abs(result.x_adv - clean).reshape(N, -1).max(1)
    budget = np.where(np.isfinite(result.min_eps), result.min_eps, 0)
    assert (moved <= budget + 1e-6).all()
    assert (result.x_adv >= 0).all()
    assert (result.x_adv <= 1).all()
    broken = np.argmax(net(PARAMS, result.x_adv), -1) != Y
    np.testing.assert_array_equal(broken, np.isfinite(result.min_eps))


@pytest.mark.slow
def test_success_that_does_not_survive_rounding_is_not_counted():
    result = sweep(quantise=8, return_x_adv=True, epsilons=np.arange(1, 17) / 510)
    whole = sweep(epsilons=np.arange(1, 17) / 510)
    assert result.float_only.sum() > 0
    assert (result.min_eps >= whole.min_eps).all()
    levels = result.x_adv * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    broken = np.argmax(net(PARAMS, result.x_adv), -1) != Y
    np.testing.assert_array_equal(broken, np.isfinite(result.min_eps))
    # half a grey level leaves an 8-bit image as it is
    assert not (result.min_eps == 1 / 510).any()
    climbed, every = (
        sweep(quantise=8, order=order, epsilons=np.arange(1, 17) / 510)
        for order in ("ascending", "exhaustive")
    )
    assert (climbed.robust_accuracy <= every.robust_accuracy).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "options", [{"order": "ascending", "warm_start": True, "restarts": 2}, {"restarts": 2}]
)
def test_rounding_makes_no_verdict_depend_on_slots_or_memory(options):
    """Many successes do not survive it, and what is tried next must not depend on the moment."""
    rng = np.random.default_rng(2)
    shapes = {"a": (20, 24), "b": (24, 24), "c": (24, 3)}
    params = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}

    def rough(params, x):
        hidden = jnp.tanh(x.reshape(x.shape[0], -1) @ params["a"] * 4)
        return jnp.sin(hidden @ params["b"] * 1.5) @ params["c"]

    def make(params):
        objective = attacks.from_logits(lambda x: rough(params, x), loss=losses.cross_entropy)
        return attacks.pgd(objective, threat.linf(), num_steps=4, step_size=0.7)

    x = rng.random((96, 5, 4, 1)).astype(np.float32)
    y = np.asarray(rough(params, x).argmax(-1)).astype(np.int32)
    few, many, streamed = (
        engine.sweep(
            make, params, x, y, epsilons=np.linspace(0.5, 12, 16) / 255, key=KEY, quantise=8,
            diagnose=False, **sizes, **options,
        )
        for sizes in ({"slots": 8}, {"slots": 96}, {"slots": 8, "memory_limit": 1})
    )  # fmt: skip
    assert few.float_only.sum() > 10
    np.testing.assert_array_equal(few.min_eps, many.min_eps)
    np.testing.assert_array_equal(few.min_eps, streamed.min_eps)


@pytest.mark.slow
def test_restarts_break_more_and_no_order_loses_them():
    once = swept("ascending")
    climbed = sweep(order="ascending", restarts=3)
    every = sweep(order="exhaustive", restarts=3)
    np.testing.assert_array_equal(climbed.min_eps, every.min_eps)
    assert (climbed.min_eps <= once.min_eps).all()


def make_fgsm(params):
    objective = attacks.from_logits(lambda x: net(params, x), loss=losses.cross_entropy)
    return attacks.fgsm(objective, threat.linf())


@pytest.mark.slow
def test_a_cascade_spares_what_the_cheap_attack_solved():
    both = sweep([make_fgsm, make_pgd])
    fgsm = sweep(make_fgsm)
    assert (both.min_eps <= fgsm.min_eps).all()
    assert (both.min_eps <= swept("search").min_eps).mean() > 0.9
    assert set(np.unique(both.solved_by)) >= {-1, 0}
    first = both.solved_by == 0
    np.testing.assert_array_equal(both.min_eps[first], fgsm.min_eps[first])
    # later attacks look below the budget that is solved only
    best = np.searchsorted(EPSILONS, fgsm.min_eps)
    seen = both.tables[1].verdict[:, 0] != Verdict.UNKNOWN
    above = np.arange(len(EPSILONS)) >= best[:, None]
    assert not (seen & above).any()
    every = sweep([make_fgsm, make_pgd], order="exhaustive")
    alone = np.minimum(sweep(make_fgsm, order="exhaustive").min_eps, swept("exhaustive").min_eps)
    np.testing.assert_array_equal(every.min_eps, alone)


def test_one_step_attacks_equal_the_reference():
    result = sweep(make_fgsm, order="exhaustive")
    right = ~result.tables[0].wrong
    for e, eps in enumerate(EPSILONS):
        rows = engine.reference(make_fgsm, PARAMS, X, Y, eps, key=KEY)
        solved = result.tables[0].verdict[:, 0, e] == Verdict.VERIFIED
        np.testing.assert_array_equal(solved[right], rows.success[right])
    assert result.rows_useful == right.sum() * len(EPSILONS)


def test_warm_start_goes_on_where_the_last_climb_failed():
    result = sweep(order="ascending", warm_start=True, return_x_adv=True)
    broken = np.argmax(net(PARAMS, result.x_adv), -1) != Y
    np.testing.assert_array_equal(broken, np.isfinite(result.min_eps))
    assert np.mean(result.min_eps <= swept("ascending").min_eps) > 0.8


def test_finished_runs_are_handed_out_once():
    seen = []

    def take(attack, finished, examples):
        for i, example in enumerate(examples):
            seen.append((attack, example, finished.restart[i], finished.budget[i]))
            x = finished.x[i]
            assert np.abs(x - X[example] / np.float32(255)).max() == pytest.approx(finished.linf[i])
            np.testing.assert_allclose(finished.output[i], net(PARAMS, x[None])[0], atol=1e-5)

    result = sweep(take=take)
    assert len(seen) == len(set(seen))
    known = np.argwhere(result.tables[0].verdict != Verdict.UNKNOWN)
    assert {(0, *map(int, row)) for row in known} == {tuple(map(int, row)) for row in seen}


def test_models_that_return_nan_are_not_called_robust():
    def make(params):
        objective = attacks.from_logits(
            lambda x: net(params, x) * jnp.where(x.mean() > -1, jnp.nan, 1),
            loss=losses.cross_entropy,
        )
        return attacks.pgd(objective, threat.linf(), num_steps=3)

    result = sweep(make)
    assert result.clean_accuracy == 0
    assert (result.robust_accuracy == 0).all()


@pytest.mark.parametrize("order", ["search", "exhaustive"])
def test_gradients_that_are_no_numbers_are_counted_where_the_attack_fails(order):
    def make(params):
        objective = attacks.from_logits(
            # finite, but the derivative of the root at zero times zero is no number
            lambda x: net(params, x + 0 * jnp.sqrt(0 * x)),
            loss=losses.cross_entropy,
        )
        return attacks.pgd(objective, threat.linf(), num_steps=8)

    result = sweep(make, order=order, diagnose=False)
    flag = next(f for f in result.trust.flags if f.name == "non_finite")
    assert flag.verdict == "unreliable"
    assert flag.shown == flag.total > 0


def test_progress_is_true():
    seen = []
    result = sweep(progress=seen.append)
    assert seen[-1].done == seen[-1].total == N
    assert seen[-1].rows_computed == result.rows_computed
    assert all(a.done <= b.done for a, b in itertools.pairwise(seen))


@pytest.mark.slow
def test_reference_and_sweep_agree_on_outputs_that_are_not_finite():
    def make(params):
        def poisoned(x):
            out = net(params, x)
            return jnp.where(x[:, 0, 0, :1] > 0.7, jnp.nan, out)

        objective = attacks.from_logits(poisoned, loss=losses.cross_entropy)
        return attacks.pgd(objective, threat.linf(), num_steps=4, step_size=0.25)

    result = sweep(make)
    _, wrong, loss = engine.evaluate_clean(make, PARAMS, X, Y, key=KEY)
    assert (~np.isfinite(loss)).sum() > 3
    np.testing.assert_array_equal(result.min_eps == 0, wrong)
