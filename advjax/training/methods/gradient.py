"""Input-gradient regularisation (Ross and Doshi-Velez 2018)."""

from typing import Any

import jax
import jax.numpy as jnp

from advjax.tasks import Task
from advjax.training.methods._attacked import Version, forward, masked_mean
from advjax.training.methods._base import CLEAN, Aux, Method, compose, no_preparation
from advjax.types import Array, Batch, PyTree


def gradient(task: Task, *, weight: float = 0.1) -> Method:
    """Make the method that minimises the loss and the squared length of its gradient in the image.

    `loss(f(x), y) + weight * |d loss / d x|_2^2`, in training mode and differentiated through: one
    step costs about as much as three of standard training, and no attack.

    Args:
      task: from `get_task`.
      weight: lambda in the paper, for images in [0, 1]; 0 is standard training. The paper's 100
        and more are for small networks without normalisation. Under batch normalisation a fresh
        network has gradients so long that these diverge, or leave a constant; 0.1 learns.

    Raises:
      ValueError: the weight is negative.
    """
    if not weight >= 0:
        raise ValueError(f"gradient_weight: must not be negative, got {weight}")

    def init(params: PyTree) -> PyTree:
        del params
        return {"weight": jnp.asarray(weight, jnp.float32)}

    def objective(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any, views: Any
    ) -> tuple[Array, Aux]:
        del views

        def total(images: Array) -> tuple[Array, Any]:
            versions = {CLEAN: Version(images, True, True)}
            outputs, new = forward(apply, params, model_state, versions, key)
            values = jax.vmap(task.loss)(outputs[CLEAN], batch.target)
            return jnp.sum(jnp.where(batch.valid, values, 0)), (values, outputs[CLEAN], new)

        slope, (values, output, new) = jax.grad(total, has_aux=True)(batch.image)
        penalty = jnp.sum(jnp.square(slope).reshape(slope.shape[0], -1), -1)
        metrics = {
            "loss": values + state["weight"] * penalty,
            "accuracy": jax.vmap(task.accuracy)(output, batch.target),
            "penalty": penalty,
        }
        return masked_mean(metrics["loss"], batch.valid), Aux(new, state, metrics)

    return compose("gradient", init, no_preparation, objective)
