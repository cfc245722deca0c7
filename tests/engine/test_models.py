"""Several models of one architecture at once: each gets the verdicts that it gets alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, engine, losses, threat
from advjax.mesh import data_mesh

pytestmark = pytest.mark.unoptimised

KEY = jax.random.key(3)
N, CLASSES, MODELS = 29, 3, 3
EPSILONS = np.arange(1, 9) / 255 * 3
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, size=(N, 4, 4, 3), dtype=np.uint8)
# the last model is as good as constant: nothing breaks it, so that its lane works longest
PARAMS = [
    {
        "w": RNG.normal(size=(48, 5)).astype(np.float32),
        "v": (scale * RNG.normal(size=(5, CLASSES))).astype(np.float32),
        "b": np.asarray([shift, 0, 0], np.float32),
    }
    for scale, shift in ((1, 0), (0.5, 0.2), (0.01, 5))
]
Y = RNG.integers(0, CLASSES, size=N).astype(np.int32)
Y[: N // 2] = 0
TRACES = []


def net(params, x):
    return jnp.tanh(x.reshape(x.shape[0], -1) @ params["w"] / 3) @ params["v"] + params["b"]


def make_pgd(params, **options):
    TRACES.append(isinstance(params["w"], jax.core.Tracer))
    objective = attacks.from_logits(lambda x: net(params, x), loss=losses.cross_entropy)
    return attacks.pgd(objective, threat.linf(), num_steps=16, step_size=0.25, **options)


def make_mifgsm(params):
    objective = attacks.from_logits(lambda x: net(params, x), loss=losses.cross_entropy)
    return attacks.mifgsm(objective, threat.linf(), num_steps=6)


OPTIONS = {"epsilons": EPSILONS, "key": KEY, "slots": 8}


def same(found, alone):
    np.testing.assert_array_equal(found.min_eps, alone.min_eps)
    np.testing.assert_array_equal(found.solved_by, alone.solved_by)
    np.testing.assert_array_equal(found.status, alone.status)
    np.testing.assert_array_equal(found.robust_accuracy, alone.robust_accuracy)
    assert found.clean_accuracy == alone.clean_accuracy
    assert found.trust == alone.trust
    assert found.rows_useful == alone.rows_useful
    for table, other in zip(found.tables, alone.tables, strict=True):
        np.testing.assert_array_equal(table.verdict, other.verdict)
        np.testing.assert_allclose(table.loss, other.loss, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["vmap", "map"])
@pytest.mark.parametrize("order", ["search", "exhaustive"])
def test_each_model_gets_what_it_gets_alone(stack, order):
    options = OPTIONS | {"order": order, "return_x_adv": True}
    found = engine.sweep_models(make_pgd, PARAMS, X, Y, stack=stack, **options)
    assert len(found) == MODELS
    for result, params in zip(found, PARAMS, strict=True):
        alone = engine.sweep(make_pgd, params, X, Y, **options)
        same(result, alone)
        np.testing.assert_allclose(result.x_adv, alone.x_adv, atol=1e-6)
        if stack == "map":
            assert result.rows_computed == alone.rows_computed
    curves = {tuple(result.robust_accuracy) for result in found}
    assert len(curves) == MODELS, "the models must differ, or nothing is tested"


@pytest.mark.slow
def test_cascades_devices_and_streaming():
    cascade = [make_mifgsm, make_pgd]
    found = engine.sweep_models(
        cascade, PARAMS, X, Y, stack="vmap", mesh=data_mesh(2), memory_limit=2000, restarts=2,
        **OPTIONS,
    )  # fmt: skip
    for result, params in zip(found, PARAMS, strict=True):
        alone = engine.sweep(cascade, params, X, Y, restarts=2, **OPTIONS)
        np.testing.assert_array_equal(result.min_eps, alone.min_eps)
        np.testing.assert_array_equal(result.solved_by, alone.solved_by)


def test_one_trace_for_all_models_and_other_parameters():
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *PARAMS)
    TRACES.clear()
    make = lambda params: make_pgd(params)
    first = engine.sweep_models(make, stacked, X, Y, **OPTIONS)
    assert sum(TRACES) == 1
    other = jax.tree.map(lambda leaf: leaf[::-1], stacked)
    second = engine.sweep_models(make, other, X, Y, **OPTIONS)
    assert sum(TRACES) == 1
    for a, b in zip(first, second[::-1], strict=True):
        np.testing.assert_array_equal(a.min_eps, b.min_eps)


def test_hooks_say_whose_rows_they_are():
    taken = np.zeros((MODELS, N), int)
    decided = np.zeros((MODELS, N), int)

    def take(model, attack, finished, examples):
        assert attack == 0
        np.add.at(taken, (model, examples), 1)

    def done(model, attack, examples, tables):
        assert tables.verdict.shape[0] == len(examples)
        decided[model, examples] += 1

    ticks = []
    found = engine.sweep_models(
        make_pgd, PARAMS, X, Y, take=take, done=done, progress=ticks.append, **OPTIONS
    )
    assert (decided == 1).all()
    for model, result in enumerate(found):
        runs = (result.tables[0].verdict != engine.Verdict.UNKNOWN).sum((1, 2))
        np.testing.assert_array_equal(taken[model], runs)
    assert ticks[-1].total == MODELS * N
    assert ticks[-1].done == MODELS * N


def test_one_model_and_what_cannot_be_stacked():
    (found,) = engine.sweep_models(make_pgd, PARAMS[:1], X, Y, **OPTIONS)
    same(found, engine.sweep(make_pgd, PARAMS[0], X, Y, **OPTIONS))
    wide = PARAMS[0] | {"b": np.zeros(4, np.float32)}
    with pytest.raises(ValueError, match="only models of one architecture"):
        engine.sweep_models(make_pgd, [PARAMS[0], wide], X, Y, **OPTIONS)
    with pytest.raises(ValueError, match="one tree of leaves"):
        engine.sweep_models(make_pgd, PARAMS[0], X, Y, **OPTIONS)
    with pytest.raises(ValueError, match="stack: expected"):
        engine.sweep_models(make_pgd, PARAMS, X, Y, stack="loop", **OPTIONS)
    with pytest.raises(ValueError, match="params"):
        engine.sweep_models(make_pgd, [], X, Y, **OPTIONS)
