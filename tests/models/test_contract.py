"""What every model owes, whatever it was made of."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from advjax import mesh, models

from . import zoo

X = jnp.asarray(np.random.default_rng(0).random((8, 12, 10, 2)), jnp.float32)
RNGS = {"dropout": jax.random.key(3)}


@functools.cache
def made(name):
    model = zoo.ZOO[name]()
    return model, model.init(jax.random.key(0), X)


def logits_and_gradient(model):
    def loss(x, variables):
        logits = model.apply(variables, x)
        return (logits**2 * (1 + jnp.arange(zoo.CLASSES))).sum(), logits

    def both(variables, x):
        (_, logits), g = jax.value_and_grad(loss, has_aux=True)(x, variables)
        return logits, g

    return both


@functools.cache
def compiled(name):
    return jax.jit(logits_and_gradient(made(name)[0]))


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", zoo.ZOO)
def test_contract(name):
    model, variables = made(name)
    assert isinstance(model.name, str)
    assert type(variables) is dict
    assert "params" in variables
    assert all(type(leaf).__name__ == "ArrayImpl" for leaf in jax.tree.leaves(variables))
    chex.assert_tree_all_finite(variables)
    logits, g = compiled(name)(variables, X)
    chex.assert_shape(logits, (8, zoo.CLASSES))
    chex.assert_tree_all_finite((logits, g))
    assert logits.dtype == g.dtype == jnp.float32
    assert float(jnp.abs(g).max()) > 0
    again = compiled(name)(variables, X)
    np.testing.assert_array_equal(again[0], logits)
    # the first row alone stays: nothing leaks from the others, not even by rounding
    changed = compiled(name)(variables, X.at[1:].set(1 - X[1:]))
    np.testing.assert_array_equal(changed[0][0], logits[0])
    np.testing.assert_array_equal(changed[1][0], g[0])
    assert bool((changed[0][1:] != logits[1:]).any())
    single = jax.vmap(lambda v, x: model.apply(v, x[None])[0], (None, 0))
    by_row = jax.jit(single)(variables, X)
    np.testing.assert_allclose(by_row, logits, rtol=1e-4, atol=1e-5)
    if name in zoo.EXACT:
        np.testing.assert_array_equal(by_row, logits)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", zoo.QUICK)
def test_start_depends_on_the_key_alone(name):
    model, variables = made(name)
    again = model.init(jax.random.key(0), X[:1] * 0)
    chex.assert_trees_all_equal(again, variables)
    if name not in ("from_nnx", "from_fn-stats"):  # these two bring their values
        other = model.init(jax.random.key(1), X)
        assert any(
            bool((a != b).any())
            for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(variables), strict=True)
        )


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", zoo.QUICK)
def test_training_mode_returns_what_changed(name):
    model, variables = made(name)
    apply = jax.jit(lambda v, x, rngs: model.apply(v, x, train=True, rngs=rngs))
    logits, updates = apply(variables, X, RNGS)
    chex.assert_shape(logits, (8, zoo.CLASSES))
    assert set(updates) == ({"batch_stats"} if name in zoo.WITH_STATS else set())
    after = variables | updates
    chex.assert_trees_all_equal_shapes_and_dtypes(after, variables)
    evaluate = jax.jit(model.apply)
    if name in zoo.WITH_STATS:
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()), updates["batch_stats"], variables["batch_stats"]
        )
        assert all(jax.tree.leaves(moved))
        assert bool((apply(variables, X, RNGS)[0] != compiled(name)(variables, X)[0]).any())
    else:
        np.testing.assert_array_equal(evaluate(after, X), evaluate(variables, X))
    other = apply(variables, X, {"dropout": jax.random.key(4)})[0]
    assert bool((other != logits).any()) == (name in zoo.WITH_DROPOUT)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "resnet18-imagenet", "from_fn"])
def test_rows_have_the_same_bits_in_every_batch(name):
    _, variables = made(name)
    f = compiled(name)
    whole = f(variables, X)
    for size in (1, 3):
        rows = f(variables, X[:size])
        for part, full in zip(rows, whole, strict=True):
            np.testing.assert_array_equal(part, full[:size], err_msg=f"{size} rows at once")


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "from_linen", "from_nnx"])
def test_gradients_of_single_examples_under_vmap(name):
    _, variables = made(name)
    f = compiled(name)

    # variables are an argument: as constants, the compiler would fold them in another way
    @jax.jit
    def one_by_one(v, x):
        return jax.vmap(lambda x: jax.tree.map(lambda a: a[0], f(v, x[None])))(x)

    for a, b in zip(one_by_one(variables, X), f(variables, X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        if name in zoo.EXACT:
            np.testing.assert_array_equal(a, b)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["resnet18", "small_cnn", "from_linen", "from_nnx"])
def test_gradients_on_eight_devices(name):
    _, variables = made(name)
    f = compiled(name)
    spec = {"in_specs": (P(), P("data")), "out_specs": P("data")}
    mapped = jax.jit(jax.shard_map(f, mesh=mesh.data_mesh(8), **spec))
    assert "all-reduce" not in mapped.lower(variables, X).compile().as_text()
    got, want = mapped(variables, X), f(variables, X)
    for a, b in zip(got, want, strict=True):
        if name in zoo.EXACT:  # one row a device, the same bits as eight at once
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_ensembles_under_vmap_over_parameters():
    _, variables = made("small_cnn")
    both = jax.tree.map(lambda a: jnp.stack([a, a * 1.01]), variables)
    f = compiled("small_cnn")
    got = jax.jit(jax.vmap(f, (0, None)))(both, X)
    want = f(jax.tree.map(lambda a: a[1], both), X)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_float64(x64):
    for name in ("small_cnn", "from_linen", "from_nnx"):
        _, variables = made(name)
        cast = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
        logits, g = compiled(name)(cast, X.astype(jnp.float64))
        assert logits.dtype == g.dtype == jnp.float64
        single = compiled(name)(variables, X)[0]
        np.testing.assert_allclose(logits, single, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_ours_and_lax_make_the_same_network():
    model, variables = made("resnet18-imagenet")
    f = compiled("resnet18-imagenet")
    ours = f(variables, X)
    with models.use_lax_ops():
        theirs = f(variables, X)
        apply = jax.jit(lambda x: model.apply(variables, x))
        tangent = jax.jvp(apply, (X,), (X,))[1]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    chex.assert_tree_all_finite(tangent)


@pytest.mark.slow
def test_batch_norm_averages_over_the_axis_of_pmap():
    model = models.small_cnn(zoo.CLASSES, width=4, axis_name="batch")
    _, variables = made("small_cnn")
    x = X.reshape(4, 2, *X.shape[1:])
    train = jax.pmap(
        lambda v, x: model.apply(v, x, train=True), axis_name="batch", in_axes=(None, 0)
    )
    logits, updates = train(variables, x)
    whole, together = made("small_cnn")[0].apply(variables, X, train=True)
    np.testing.assert_allclose(logits.reshape(whole.shape), whole, rtol=1e-3, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-5), updates, together
    )
