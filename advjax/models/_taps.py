"""Look inside a Linen network: what a layer returns, and how the output depends on it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax.models._base import Model, Variables

Array = jax.Array
Tapped = Callable[[Variables, Array, Array], tuple[Any, Array]]


def layer_shapes(model: Model, variables: Variables, x: Array) -> dict[str, tuple[int, ...]]:
    """Return what the layers of a Linen model return, in the order in which they are called.

    Computes nothing: shapes only.

    Args:
      model: of the zoo, or from `from_linen`.
      variables: of the model.
      x: `[B, H, W, C]`; shape and dtype only.

    Returns:
      Shapes by path, such as `"layer4_block1"` or `"layer4_block1/conv2"`; of a layer that is
      called several times the last one, and only layers that return one array.
    """
    import flax.linen as nn

    found: dict[str, tuple[int, ...]] = {}

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(y, jax.Array):
            path = "/".join(context.module.path)
            if path:
                found.pop(path, None)
                found[path] = tuple(y.shape)
        return y

    def look(variables: Variables, x: Array) -> Any:
        with nn.intercept_methods(watch):
            return model.apply(variables, x)

    jax.eval_shape(look, variables, x)
    return found


def with_tap(model: Model, layer: str) -> Tapped:
    """Return the model as a function of what one of its layers returns.

    Args:
      model: of the zoo, or from `from_linen`; called in evaluation mode.
      layer: a path of `layer_shapes`.

    Returns:
      `(variables, x, shift) -> (output, activation)`: `shift` is added to what the layer returns
      (0, or of its shape), and `activation` is the sum. Differentiate in `shift` to get the
      gradient in the activation.

    Raises:
      ValueError: (when it is called) there is no such layer.
    """
    import flax.linen as nn

    def tapped(variables: Variables, x: Array, shift: Array) -> tuple[Any, Array]:
        seen: list[Array] = []
        paths: list[str] = []

        def add(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            y = call(*args, **kwargs)
            path = "/".join(context.module.path)
            if context.method_name != "__call__":
                return y
            paths.append(path)
            if path != layer or not isinstance(y, jax.Array):
                return y
            seen.append(y + jnp.asarray(shift, y.dtype))
            return seen[-1]

        with nn.intercept_methods(add):
            output = model.apply(variables, x)
        if not seen:
            known = ", ".join(dict.fromkeys(path for path in paths if path)) or (
                "none: it is no Linen module"
            )
            raise ValueError(
                f"{model.name}: no layer {layer!r} that returns an array; its layers: {known}"
            )
        return output, seen[-1]

    return tapped
