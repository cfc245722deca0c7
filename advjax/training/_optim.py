"""Optimisers from a config, as optax chains whose learning rate is an array and not a constant."""

import jax
import jax.numpy as jnp
import optax

from advjax.config import OptimizerConfig
from advjax.types import Array, PyTree

_WARM_UP = 0.3  # share of OneCycle's steps in which the rate rises


def _shape_of(schedule: str, total_steps: int) -> optax.Schedule:
    """Return `step -> rate / peak rate`."""
    if schedule == "onecycle":
        return optax.cosine_onecycle_schedule(total_steps, 1.0, pct_start=_WARM_UP)
    if schedule == "cosine":
        return optax.cosine_decay_schedule(1.0, total_steps)
    if schedule == "constant":
        return optax.constant_schedule(1.0)
    raise ValueError(
        f"optimizer.schedule: unknown {schedule!r}; use 'onecycle', 'cosine' or 'constant'"
    )


def _kernels(params: PyTree) -> PyTree:
    """Mark what weight decay applies to: kernels, not biases and batch-norm's scales."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def _check(config: OptimizerConfig, total_steps: int) -> None:
    if total_steps < 1:
        raise ValueError(f"total_steps: expected at least 1, got {total_steps}")
    if config.learning_rate <= 0:
        raise ValueError(f"optimizer.learning_rate: must be positive, got {config.learning_rate}")
    if not 0 <= config.momentum < 1:
        raise ValueError(f"optimizer.momentum: must be in [0, 1), got {config.momentum}")
    if config.weight_decay < 0:
        raise ValueError(f"optimizer.weight_decay: must not be negative, got {config.weight_decay}")
    if config.grad_clip is not None and config.grad_clip <= 0:
        raise ValueError(
            f"optimizer.grad_clip: must be positive, got {config.grad_clip}; None switches it off"
        )


def build_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Make an optimiser.

    `sgd` adds weight decay to the gradient and has Nesterov momentum; `adam` decouples weight
    decay (Loshchilov and Hutter 2019). Both decay kernels only (leaves of rank 2 and more).
    OneCycle is the cosine form of Smith and Topin (2018): up in 30 % of the steps.

    Args:
      config: names and numbers.
      total_steps: length of the schedule in updates.

    Returns:
      A transformation whose peak learning rate is a leaf of its state: `set_learning_rate`
      replaces it without a new trace, and `vmap` runs several at once.

    Raises:
      ValueError: an unknown name, or a number out of its range.
    """
    _check(config, total_steps)
    shape = _shape_of(config.schedule, total_steps)
    decay = optax.add_decayed_weights(config.weight_decay, mask=_kernels)
    clip = optax.identity()
    if config.grad_clip is not None:
        clip = optax.clip_by_global_norm(config.grad_clip)
    if config.name == "sgd":
        chain = [clip, decay, optax.trace(config.momentum, nesterov=True)]
    elif config.name == "adam":
        chain = [clip, optax.scale_by_adam(), decay]
    else:
        raise ValueError(f"optimizer.name: unknown {config.name!r}; use 'sgd' or 'adam'")
    peak = optax.inject_hyperparams(optax.scale_by_learning_rate)(
        learning_rate=config.learning_rate
    )
    return optax.chain(*chain, optax.scale_by_schedule(shape), peak)


def learning_rate_at(config: OptimizerConfig, total_steps: int, step: int) -> float:
    """Return the learning rate of update number `step` (0 is the first)."""
    return config.learning_rate * float(_shape_of(config.schedule, total_steps)(step))


def set_learning_rate(opt_state: PyTree, learning_rate: Array | float) -> PyTree:
    """Return the state with another peak learning rate, which may be traced.

    Args:
      opt_state: of `build_optimizer(...)`.
      learning_rate: `[]`, or `[S]` for a state with a leading axis of runs.
    """
    return optax.tree_utils.tree_set(
        opt_state, learning_rate=jnp.asarray(learning_rate, jnp.float32)
    )
