"""The same model in another precision."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax.models._base import Model, Variables

Array = jax.Array


def in_precision(model: Model | Callable[..., Any], dtype: Any) -> Callable[..., Any]:
    """Make a model compute in another precision, for the gradients of attacks.

        low = models.in_precision(model, jnp.bfloat16)
        objective = attacks.from_logits(
            lambda x: model.apply(variables, x),
            gradient_fn=lambda x: low(variables, x),
            loss=losses.cross_entropy,
        )

    Variables and pixels are rounded, bfloat16 pixels to steps of 1/256 between 1/2 and 1. A layer
    with a dtype of its own keeps it.

    Args:
      model: a model, or `(variables, x) -> logits`; evaluation mode.
      dtype: a floating dtype, such as `jnp.bfloat16`.

    Returns:
      `(variables, x) -> logits`, in the precision of `x` and float32 at least; so is the gradient
      with respect to `x`.

    Raises:
      ValueError: `model` is no model, or `dtype` is not floating.
    """
    apply = model.apply if isinstance(model, Model) else model
    if not callable(apply):
        raise ValueError(f"in_precision: expected a Model or a function, got {model!r}")
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"in_precision: expected a floating dtype, got {dtype}; use bfloat16")

    def low(variables: Variables, x: Array) -> Any:
        output = apply(_cast(variables, dtype), _cast(x, dtype))
        return _cast(output, jnp.promote_types(x.dtype, jnp.float32))

    return low


def _cast(tree: Any, dtype: Any) -> Any:
    """Cast the floating leaves; counters and keys stay."""

    def one(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    return jax.tree.map(one, tree)
