"""Generative adversarial perturbations: what one step of their training is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax import attacks, random
from advjax.models import Model
from advjax.tasks import get_task
from advjax.training._state import join_variables, split_variables
from advjax.types import Array, Ball, Batch, LossFn, Output, PyTree, Target

ApplyFn = Callable[[PyTree, Array], Output]

_INIT = random.stable_id("gap/init")
_PATTERN = random.stable_id("gap/pattern")
_TASKS = ("single", "multi", "segmentation")  # by the rank of the target of one example


class Goal(NamedTuple):
    """What a generator is trained towards; of ONE example.

    Attributes:
      name: for messages and checkpoints.
      target: `(clean_output, label) -> target`; the loss towards it is descended.
      targeted: whether reaching it is the success. Else leaving the label is.
    """

    name: str
    target: Callable[[Output, Target], Target]
    targeted: bool = False


def _least(output: Array, label: Target) -> Array:
    del label
    return jnp.argmin(output, -1).astype(jnp.int32)


def _flipped(output: Array, label: Target) -> Array:
    del label
    return (output < 0).astype(jnp.int32)


least_likely = Goal("least likely", _least)
"""Untargeted, one class per image or pixel: towards the class that the model rules out."""

flip_predictions = Goal("flip predictions", _flipped)
"""Untargeted, several findings: every prediction (threshold 1/2, logit 0) to its complement."""


def towards(target: Any) -> Goal:
    """Return the goal of one target for all images: a class, `[K]` findings or a `[H, W]` mask."""
    wanted = jnp.asarray(target, jnp.int32)
    name = f"towards {wanted.tolist()}" if wanted.ndim < 2 else f"towards a mask {wanted.shape}"
    return Goal(name, lambda output, label: wanted, targeted=True)


class GapState(NamedTuple):
    """What training one generator hands from step to step.

    Attributes:
      params: of the generator.
      model_state: its other collections.
      opt_state: of the optimiser.
      step: `[]` int32, updates made.
      best: variables of the epoch with the best score.
      best_score: `[]`; minus infinity before the first epoch.
    """

    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    step: Array
    best: PyTree
    best_score: Array


class Parts(NamedTuple):
    """What is static about the training of a generator."""

    generator: Model
    fn: ApplyFn
    ball: Ball
    loss: LossFn
    goal: Goal
    optimizer: optax.GradientTransformation
    universal: bool
    straight_through: bool


def init_gap(parts: Parts, seed: int, image_shape: tuple[int, ...]) -> GapState:
    """Make the state before the first step."""
    key = jax.random.fold_in(jax.random.key(seed), _INIT)
    variables = parts.generator.init(key, jnp.zeros((1, *image_shape), jnp.float32))
    params, model_state = split_variables(variables)
    return GapState(
        params=params,
        model_state=model_state,
        opt_state=parts.optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        # copies, because a donated buffer must not appear twice
        best=jax.tree.map(jnp.copy, variables),
        best_score=jnp.asarray(-jnp.inf, jnp.float32),
    )


def pattern(seed: int, image_shape: tuple[int, ...]) -> Array:
    """Return the fixed noise `[1, H, W, C]` in [0, 1] that a universal generator sees."""
    key = jax.random.fold_in(jax.random.key(seed), _PATTERN)
    return jax.random.uniform(key, (1, *image_shape))


def gap_targets(parts: Parts, victim: PyTree, batch: Batch) -> Target:
    """Return what the perturbed images of a batch are to be taken for, `[B, ...]`."""
    clean = parts.fn(victim, batch.image)
    return jax.lax.stop_gradient(jax.vmap(parts.goal.target)(clean, batch.target))


def gap_step(
    parts: Parts, seed: int, victim: PyTree, state: GapState, eps: Array, batch: Batch,
    target: Target,
) -> tuple[GapState, Array]:  # fmt: skip
    """Descend the loss of a perturbed batch towards its targets once; return its mean too."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), 1)

    def objective(params: PyTree) -> tuple[Array, PyTree]:
        variables = join_variables(params, state.model_state)
        seen = pattern(seed, batch.image.shape[1:]) if parts.universal else batch.image
        made, updates = parts.generator.apply(variables, seen, train=True, rngs={"dropout": key})
        output = parts.fn(victim, _perturbed(parts, made, batch.image, eps))
        values = jax.vmap(parts.loss)(output, target)
        valid = jnp.asarray(batch.valid)
        mean = jnp.sum(jnp.where(valid, values, 0)) / jnp.maximum(jnp.sum(valid), 1)
        return mean, updates

    (loss, updates), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
    moves, opt_state = parts.optimizer.update(gradient, state.opt_state, state.params)
    new = state._replace(
        params=optax.apply_updates(state.params, moves),
        model_state={**state.model_state, **updates},
        opt_state=opt_state,
        step=state.step + 1,
    )
    return new, loss


def _perturbed(parts: Parts, made: Array, x: Array, eps: Array) -> Array:
    """Return the images that the model sees; the whole of it is differentiated, or `made` only."""
    made = jnp.broadcast_to(made.astype(x.dtype), x.shape)
    if not parts.straight_through:
        return _inside(parts.ball, made, x, eps)
    inside = _inside(parts.ball, jax.lax.stop_gradient(made), x, eps)
    # value of the right, gradient of the left
    return made + jax.lax.stop_gradient(inside - made)


def _inside(ball: Ball, made: Array, x: Array, eps: Array) -> Array:
    return jax.vmap(lambda one, image: attacks.perturbed(ball, one, image, eps))(made, x)


def gap_score(
    parts: Parts, seed: int, victim: PyTree, variables: PyTree, eps: Array, batch: Batch
) -> tuple[Array, Array]:
    """Return sums over the valid rows: how far the goal is reached, in [0, 1], and their number.

    Untargeted it is one minus the accuracy on the perturbed images.
    """
    made = generated(parts.generator, variables, batch.image, parts.universal, seed)
    output = parts.fn(victim, _inside(parts.ball, made, batch.image, eps))
    if parts.goal.targeted:
        wanted = jax.vmap(parts.goal.target)(output, batch.target)
        reached = jax.vmap(agreement)(output, wanted)
    else:
        reached = 1 - jax.vmap(agreement)(output, batch.target)
    # an output that is not finite is no success
    finite = jnp.isfinite(output).reshape(output.shape[0], -1).all(1)
    reached = jnp.where(finite, reached, 0)
    valid = jnp.asarray(batch.valid)
    return jnp.sum(jnp.where(valid, reached, 0)), jnp.sum(valid).astype(jnp.float32)


def generated(
    generator: Model, variables: PyTree, x: Array, universal: bool = False, seed: int = 0
) -> Array:
    """Return what a trained generator makes of images `[B, H, W, C]`, for `attacks.gap`.

    Args:
      generator: the model that was trained.
      variables: from `GapResult`.
      x: the images.
      universal: whether it was trained so: it then sees the pattern of its seed.
      seed: of that training.
    """
    if not universal:
        return generator.apply(variables, x)
    made = generator.apply(variables, pattern(seed, x.shape[1:]).astype(x.dtype))
    return jnp.broadcast_to(made, x.shape)


def agreement(output: Array, target: Array) -> Array:
    """Share of the decisions of ONE example that are as the target says, in [0, 1].

    One class `[]`: 0 or 1. Findings `[K]`: of the known ones. Pixels `[H, W]`: but those of 255.
    """
    return get_task(_TASKS[target.ndim]).accuracy(output, target)
