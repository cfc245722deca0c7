"""Models in bfloat16: every product of theirs, forward and backward, and nothing of the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from advjax import models
from tests.models.zoo import ZOO

PRODUCTS = ("conv_general_dilated", "dot_general")


def products(jaxpr):
    """Dtypes of the operands and results of all matrix products and convolutions, with a count."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            yield tuple(str(v.aval.dtype) for v in (*equation.invars, *equation.outvars))
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "lax_ops"),
    # resnet34 has the blocks of resnet18
    [*((name, False) for name in ZOO if name != "resnet34"), ("resnet18", True)],
)
def test_all_products_are_bfloat16_forward_and_backward(name, lax_ops):
    model = ZOO[name]()
    x = jnp.zeros((3, 16, 16, 2))
    variables = models.random_variables(model, 0, x)
    low = models.in_precision(model, jnp.bfloat16)

    def loss(apply):
        return lambda variables, x: apply(variables, x).sum()

    with models.use_lax_ops(lax_ops):
        exact, rounded = (
            list(products(jax.make_jaxpr(jax.grad(loss(fn), (0, 1)))(variables, x).jaxpr))
            for fn in (model.apply, low)
        )
        shapes = jax.eval_shape(jax.value_and_grad(loss(low), 1), variables, x)
    assert set(exact) == {("float32",) * 3}
    assert set(rounded) == {("bfloat16",) * 3}
    assert len(rounded) == len(exact)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_outputs_and_gradients_are_those_of_float32_roughly():
    model = ZOO["small_cnn"]()
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 16, 16, 2)), jnp.float32)
    variables = models.random_variables(model, 0, x)
    low = models.in_precision(model, "bfloat16")

    def both(apply):
        return jax.jit(jax.value_and_grad(lambda x: apply(variables, x)[:, 0].sum()))(x)

    (value, gradient), (about, near) = both(model.apply), both(low)
    assert near.dtype == jnp.float32
    np.testing.assert_allclose(about, value, rtol=0.05, atol=0.05)
    cosine = jnp.vdot(gradient, near) / (jnp.linalg.norm(gradient) * jnp.linalg.norm(near))
    assert cosine > 0.9
    assert not np.array_equal(gradient, near)


def test_what_is_no_number_stays():
    seen = {}

    def apply(variables, x):
        seen.update(variables)
        return {"logits": x.sum((1, 2, 3))[:, None], "index": jnp.zeros(len(x), jnp.int32)}

    variables = {"w": np.ones(2), "count": jnp.int32(3), "key": jax.random.key(0), "rate": 0.5}
    output = models.in_precision(apply, jnp.bfloat16)(variables, jnp.ones((2, 3, 3, 1)))
    assert seen["w"].dtype == seen["rate"].dtype == jnp.bfloat16
    assert seen["count"].dtype == jnp.int32
    assert seen["key"] is variables["key"]
    assert output["logits"].dtype == jnp.float32
    assert output["index"].dtype == jnp.int32


@pytest.mark.parametrize(
    ("arguments", "match"),
    [((None, "bfloat16"), "expected a Model or a function"), ((len, "int8"), "use bfloat16")],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        models.in_precision(*arguments)
