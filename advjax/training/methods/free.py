"""Free adversarial training (Shafahi et al. 2019): one backward pass for weights and attack."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from advjax.tasks import Task
from advjax.threat import over_rows
from advjax.training.methods._attacked import Version, forward, masked_mean
from advjax.training.methods._base import CLEAN, Aux, Method, compose, no_preparation
from advjax.types import Array, Ball, Batch, PyTree


def free(
    task: Task, ball: Ball, eps: float, shape: tuple[int, ...] | None, *, replays: int = 4
) -> Method:
    """Make the method that replays each batch and moves a perturbation with every update.

    The perturbation belongs to the places of a batch and goes on from batch to batch. Every update
    descends the loss of the perturbed images in the parameters and ascends it by one step of eps in
    the perturbation, by the same backward pass. With eps 0 and one replay it is standard training.

    Args:
      task: from `get_task`.
      ball: that of the perturbation: around zero and without bounds. The images are clipped to
        [0, 1], the perturbation is not, since other images come in its place.
      eps: budget in its units, and the size of its steps.
      shape: `[B, H, W, C]` of the batches; None: only `init` needs it.
      replays: updates per batch, m in the paper (8 on CIFAR, 4 on ImageNet). The paper divides the
        number of epochs by it; here `epochs` are passes over the images, so do it yourself.

    Raises:
      ValueError: an impossible budget or number of replays.
    """
    if not 0 <= eps < math.inf or replays < 1:
        raise ValueError(
            f"free: expected eps >= 0 and replays >= 1, got eps={eps} and replays={replays}"
        )
    rows = over_rows(ball)

    def init(params: PyTree) -> PyTree:
        del params
        if shape is None:
            raise ValueError(
                "free: the perturbation needs the shape of the batches; build the method with "
                "Context(image_shape=(H, W, C)) and config.batch_size"
            )
        return {"eps": jnp.asarray(eps, jnp.float32), "delta": jnp.zeros(shape, jnp.float32)}

    def objective(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any, views: Any
    ) -> tuple[Array, Aux]:
        del views
        if state["delta"].shape != batch.image.shape:
            raise ValueError(
                f"free: the perturbation is for batches {state['delta'].shape}, got a batch "
                f"{batch.image.shape}; build the method with the shape of the batches"
            )
        images = jnp.clip(batch.image + state["delta"], 0, 1)
        versions = {CLEAN: Version(images, True, True)}
        outputs, new = forward(apply, params, model_state, versions, key)
        metrics = {
            "loss": jax.vmap(task.loss)(outputs[CLEAN], batch.target),
            "accuracy": jax.vmap(task.accuracy)(outputs[CLEAN], batch.target),
        }
        return masked_mean(metrics["loss"], batch.valid), Aux(new, state, metrics)

    def learn(state: PyTree, gradient: PyTree, batch: Batch) -> PyTree:
        delta, budget = state["delta"], jnp.broadcast_to(state["eps"], batch.image.shape[:1])
        moved = delta + state["eps"] * rows.steepest(gradient["delta"])
        return {**state, "delta": rows.project(moved, jnp.zeros_like(delta), budget)}

    method = compose("free", init, no_preparation, objective)
    return method._replace(replays=replays, learn=learn)
