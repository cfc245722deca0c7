"""One program of every defence on the tiny model, shared by the tests of defences."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from advjax.config import TrainConfig
from advjax.training import methods
from tests.training.tiny import SHAPE, context, make_batch, tiny_model

EPS = 0.1


KEY = jax.random.key(0)


RNG = np.random.default_rng(0)


def variables():
    variables = tiny_model().init(jax.random.key(1), jnp.zeros((1, *SHAPE)))
    stats = {"mean": jnp.full(8, 0.05), "var": jnp.full(8, 0.5)}  # not those of any batch
    return variables["params"], {"batch_stats": stats}


def config(name, **fields):
    fixed = {"eps": EPS, "attack_steps": 2, "steps_range": (1, 3), "batch_size": 16}
    return TrainConfig(method=name, **{**fixed, **fields})


class Result(NamedTuple):
    """All that one program says of a method on the tiny model."""

    views: dict
    loss: jax.Array
    gradient: dict
    aux: methods.Aux


def run(method, batch=None, task="single"):
    """Prepare, then differentiate the objective, which is what `method.loss` is made of."""
    params, state = variables()
    batch = make_batch(task=task) if batch is None else batch

    @jax.jit
    def program(params, batch, held):
        fixed = (state, batch, KEY, held)
        views = method.prepare(tiny_model().apply, params, *fixed)

        def loss(params):
            return method.objective(tiny_model().apply, params, *fixed, views)

        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return Result(views, value, gradient, aux)

    return program(params, batch, method.init(params))


@functools.cache
def result(name, task="single", **fields):
    return run(build(name, task, **fields), task=task)


def outputs(images):
    """Return the logits of training mode."""
    params, state = variables()
    return tiny_model().apply({"params": params, **state}, images, train=True)[0]


def build(name, task="single", **fields):
    return methods.build(config(name, **fields), task, context())


def same(a, b, rtol=1e-5):
    """Loss, gradient and running statistics agree."""
    np.testing.assert_allclose(a.loss, b.loss, rtol=rtol)
    chex.assert_trees_all_close(a.gradient, b.gradient, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(a.aux.model_state, b.aux.model_state, rtol=1e-5)
