"""AWP, adversarial weight perturbation (Wu et al. 2020): around any other method."""

from typing import Any

import jax
import jax.numpy as jnp

from advjax.training.methods._base import Aux, Method, compose
from advjax.types import Array, Batch, PyTree

# keeps a layer whose gradient vanishes where it is
_TINY = 1e-20


def awp(method: Method, gamma: float) -> Method:
    """Make the method that descends at the worst weights nearby, as AT-AWP and TRADES-AWP do.

    One step of ascent of the method's own loss, on the images that it has attacked already, moves
    every kernel w along its gradient g by `gamma * |w| / |g| * g`; biases and scales stay. The
    gradient is taken there and applied to w itself. It costs one more training pass. (The authors'
    code also applies weight decay at the moved weights, a difference of order gamma.)

    Under `pmap` each device moves the weights for its own rows; under `jit` with shardings they are
    moved for the whole batch.

    Args:
      method: any but `free`, whose attack is part of its update.
      gamma: length of the move relative to each kernel, 0.005 in the paper.

    Raises:
      ValueError: the method is `free`, or gamma is not positive.
    """
    if method.learn is not None:
        raise ValueError(f"awp: {method.name} attacks while it updates; set awp to 0")
    if not gamma > 0:
        raise ValueError(f"awp: gamma must be positive, got {gamma}")

    def init(params: PyTree) -> PyTree:
        return {**method.init(params), "awp": jnp.asarray(gamma, jnp.float32)}

    def prepare(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any
    ) -> PyTree:
        views = method.prepare(apply, params, model_state, batch, key, state)

        def loss(params: PyTree) -> Array:
            return method.objective(apply, params, model_state, batch, key, state, views)[0]

        gradient = jax.grad(loss)(params)
        shift = jax.tree.map(lambda w, g: state["awp"] * _along(w, g), params, gradient)
        return {"views": views, "shift": jax.lax.stop_gradient(shift)}

    def objective(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any, views: Any
    ) -> tuple[Array, Aux]:
        moved = jax.tree.map(jnp.add, params, views["shift"])
        return method.objective(apply, moved, model_state, batch, key, state, views["views"])

    return compose(f"{method.name}-awp", init, prepare, objective)


def _along(w: Array, g: Array) -> Array:
    """Return the gradient of a kernel in the length of the kernel; zero for other leaves."""
    if w.ndim < 2:
        return jnp.zeros_like(w)
    return g * (jnp.linalg.norm(w.ravel()) / (jnp.linalg.norm(g.ravel()) + _TINY))
