"""Defensive distillation (Papernot et al. 2016)."""

from typing import Any

import jax
import jax.numpy as jnp

from advjax.tasks import Task
from advjax.training.methods._attacked import Version, forward, masked_mean
from advjax.training.methods._base import CLEAN, Aux, Helper, Method, compose
from advjax.types import Array, Batch, PyTree


def distillation(task: Task, teacher: Helper, *, temperature: float = 20.0) -> Method:
    """Make the method that learns the softened predictions of a teacher, at the same temperature.

    Cross entropy of `f(x) / T` against `softmax(teacher(x) / T)`; sigmoids for several labels, and
    the mean over the pixels for segmentation. The teacher is trained at the same temperature
    (`standard` with `temperature=T`), and the student deployed at temperature 1, where its
    probabilities are so close to 0 and 1 that float32 gradients of the cross entropy vanish. That
    is what the defence rests on, and why it fails against attacks on logit margins (Carlini and
    Wagner 2017): evaluate it with `cw_linf` or `apgd`, never with `pgd` alone.

    Args:
      task: from `get_task`.
      teacher: in evaluation mode; its variables live in the method's state.
      temperature: T, 20 to 100 in the paper.

    Raises:
      ValueError: the temperature is not positive.
    """
    check_temperature(temperature)
    several = task.name == "multi"

    def init(params: PyTree) -> PyTree:
        del params
        constant = jnp.asarray(temperature, jnp.float32)
        variables = jax.tree.map(jnp.asarray, teacher.variables)
        return {"helper": variables, "temperature": constant}

    def prepare(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any
    ) -> PyTree:
        del apply, params, model_state, key
        logits = teacher.apply(state["helper"], batch.image) / state["temperature"]
        soft = jax.nn.sigmoid(logits) if several else jax.nn.softmax(logits)
        return {"soft": jax.lax.stop_gradient(soft)}

    def objective(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any, views: Any
    ) -> tuple[Array, Aux]:
        versions = {CLEAN: Version(batch.image, True, True)}
        outputs, new = forward(apply, params, model_state, versions, key)
        cooled = outputs[CLEAN] / state["temperature"]
        metrics = {
            "loss": jax.vmap(lambda z, p: _soft_loss(z, p, several))(cooled, views["soft"]),
            "accuracy": jax.vmap(task.accuracy)(outputs[CLEAN], batch.target),
        }
        return masked_mean(metrics["loss"], batch.valid), Aux(new, state, metrics)

    return compose("distillation", init, prepare, objective)


def check_temperature(temperature: float) -> None:
    """Check a temperature.

    Raises:
      ValueError: it is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: must be positive, got {temperature}")


def _soft_loss(logits: Array, soft: Array, several: bool) -> Array:
    """Return the cross entropy of one example against probabilities."""
    if several:
        return jnp.mean(jax.nn.softplus(logits) - soft * logits)
    return -jnp.mean(jnp.sum(soft * jax.nn.log_softmax(logits), -1))
