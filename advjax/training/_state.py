"""What a training step hands to the next one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax.models import Model
from advjax.random import stable_id
from advjax.training.methods import Method
from advjax.types import Array, PyTree

_INIT = stable_id("training/init")


class TrainState(NamedTuple):
    """Everything that training changes; nothing else decides what comes next.

    Attributes:
      params: trained leaves.
      model_state: the other collections of the model (`{"batch_stats": ...}` or `{}`).
      opt_state: of the optimiser; its learning rate is a leaf (see `set_learning_rate`).
      ema: None, or averages `{"params": ..., "model_state": ...}`.
      method_state: of the training method; its budget `eps` is a leaf.
      step: `[]` int32, updates made.
      seed: `[]` uint32. The key of a step is `fold_in(key(seed), step)`, so that a resumed run
        needs no stored key and is the same run.
    """

    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    ema: PyTree
    method_state: PyTree
    step: Array
    seed: Array


def init_state(
    model: Model,
    method: Method,
    optimizer: optax.GradientTransformation,
    seed: int | Array,
    image_shape: tuple[int, ...],
    *,
    ema: bool = False,
    variables: dict[str, Any] | None = None,
) -> TrainState:
    """Make the state before the first step. Pure; `vmap` it over seeds.

    Args:
      model: what is trained.
      method: its `init` makes the method's state.
      optimizer: from `build_optimizer`, or any optax transformation.
      seed: decides initial parameters and every random number of the run.
      image_shape: `(H, W, C)`.
      ema: keep a moving average, starting as a copy of the parameters.
      variables: the first ones of the model; None: drawn from the seed.
    """
    seed = jnp.asarray(seed, jnp.uint32)
    if variables is None:
        key = jax.random.fold_in(jax.random.key(seed), _INIT)
        variables = model.init(key, jnp.zeros((1, *image_shape), jnp.float32))
    params, model_state = split_variables(variables)
    return TrainState(
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        # a copy, because a donated buffer must not appear twice
        ema=jax.tree.map(jnp.copy, _averaged(params, model_state)) if ema else None,
        method_state=method.init(params),
        step=jnp.zeros((), jnp.int32),
        seed=seed,
    )


def split_variables(variables: dict[str, Any]) -> tuple[PyTree, dict[str, Any]]:
    """Split the variables of a model into `params` and the other collections."""
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    return variables["params"], rest


def join_variables(params: PyTree, model_state: PyTree) -> dict[str, Any]:
    """Join what `split_variables` split."""
    return {"params": params, **model_state}


def eval_variables(state: TrainState) -> dict[str, Any]:
    """Return the variables to evaluate and to deploy: the moving average where there is one."""
    if state.ema is not None:
        return join_variables(state.ema["params"], state.ema["model_state"])
    return join_variables(state.params, state.model_state)


def step_key(state: TrainState) -> Array:
    """Return the key of the step that `state` is about to make."""
    return jax.random.fold_in(jax.random.key(state.seed), state.step)


def update_ema(ema: PyTree, params: PyTree, model_state: PyTree, step: Array, decay: float) -> Any:
    """Move the average towards the new parameters and running statistics.

    The decay of update t is `min(decay, (1 + t) / (10 + t))`, so that the random start does not
    linger in short runs. Leaves that are no floats are copied.
    """
    t = step.astype(jnp.float32)
    decayed = jnp.minimum(decay, (1 + t) / (10 + t))

    def move(old: Array, new: Array) -> Array:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return old + (1 - decayed).astype(new.dtype) * (new - old)

    return jax.tree.map(move, ema, _averaged(params, model_state))


def _averaged(params: PyTree, model_state: PyTree) -> dict[str, PyTree]:
    return {"params": params, "model_state": model_state}
