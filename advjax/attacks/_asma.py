"""ASMA: a predicted mask is led to a wanted one by raw gradients and a step that grows with it."""

import functools

import jax
import jax.numpy as jnp
import optax

from advjax import losses, tree
from advjax.attacks._kernel import build_attack
from advjax.attacks._objective import check_plain, grade
from advjax.types import IGNORE, Array, Attack, Ball, Eval, Objective, Output, PyTree, Target


def asma(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 1000,
    beta: float = 1e-6,
    tau: float = 1e-7,
    distance_weight: float = 1.0,
) -> Attack:
    """ASMA, the adaptive segmentation mask attack (Ozbulak et al. 2019).

    Ascends the scores of the wanted classes at the pixels that do not have them yet, minus the
    squared distance from the image, by raw gradients times `beta * IoU + tau`. The IoU is that of
    predicted and wanted mask, a mean over the classes (background included) that are in either; at
    the first step it counts as 0. Published without a budget: `eps=1`.

    Untargeted (not in the paper), the scores of the true classes are lowered where they still
    lead, and one minus the IoU takes the place of the IoU.

    Args:
      objective: from `attacks.from_logits(..., targeted=True)`, of a model with logits
        `[B, H, W, K]` and wanted masks `[B, H, W]`.
      ball: the threat model.
      num_steps: moves; the paper's code makes 2501.
      beta: growth of the step with the IoU; the step is in pixel units per unit of the gradient.
      tau: smallest step.
      distance_weight: of the squared distance.

    Returns:
      An `Attack` that returns its best point: a success beats a failure, then the loss of the
      objective decides.

    Raises:
      ValueError: `num_steps` is below 1, a number is negative, or the objective is wrapped.
    """
    if min(beta, tau, distance_weight) < 0:
        raise ValueError(
            f"asma: beta, tau and distance_weight must not be negative, got {beta}, {tau} and "
            f"{distance_weight}"
        )
    return build_attack(
        _with_pull(objective, beta, tau, distance_weight), optax.identity(), ball,
        num_steps=num_steps, name="asma",
    )  # fmt: skip


def _with_pull(objective: Objective, beta: float, tau: float, distance_weight: float) -> Objective:
    """Ascend the pull to the mask, in units of the step."""
    check_plain("asma", objective)
    pull = functools.partial(losses.mask_pull, targeted=objective.targeted)
    signed = objective.with_loss(pull).loss

    def init(x0: Array, target: Target, eps: Array) -> PyTree:
        return tree.vary_like((x0, jnp.zeros(x0.shape[:1], jnp.bool_)), x0)

    def evaluate(x: Array, target: Target, state: PyTree, keys: Array) -> tuple[Eval, PyTree]:
        x0, started = state
        output = objective.ascent_apply(x, keys)
        plain = grade(output, target, objective.loss, objective.criterion)
        shared = jax.vmap(_overlap)(output, target)
        progress = jnp.where(started, shared if objective.targeted else 1 - shared, 0)
        away = jnp.sum(jnp.square(x - x0).reshape(x.shape[0], -1), -1)
        goal = jax.vmap(signed)(output, target) - distance_weight * away
        return plain._replace(ascent=(beta * progress + tau) * goal), (x0, started | True)

    return objective._replace(
        init=init,
        evaluate=evaluate,
        stationary=False,
        plain=False,
        with_loss=lambda loss: _with_pull(objective.with_loss(loss), beta, tau, distance_weight),
    )


def _overlap(output: Output, target: Target) -> Array:
    """Mean IoU of one example's prediction and classes, over the classes in either; no gradient."""
    logits, labels = losses.as_pixels(output, target)
    classes = jnp.arange(logits.shape[-1])
    known = (labels != IGNORE)[..., None]
    wanted = (labels[..., None] == classes) & known
    found = (jnp.argmax(logits, -1)[..., None] == classes) & known
    axes = tuple(range(labels.ndim))
    both, either = jnp.sum(wanted & found, axes), jnp.sum(wanted | found, axes)
    there = either > 0
    return jnp.sum(both / jnp.maximum(either, 1)) / jnp.maximum(jnp.sum(there), 1)
