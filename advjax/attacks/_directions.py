"""What turns a gradient into a move: `optax.GradientTransformationExtraArgs` for ONE example.

The kernel calls `update(gradient, state, x, eps=..., ball=..., **row_args)` under one `vmap`, so
that any transform of optax may stand in the chain, and norms never couple the rows of a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.types import Array, Ball

StepSize = float | Callable[[Array], Array]


def _stateless(
    update: Callable[..., Array],
) -> optax.GradientTransformationExtraArgs:
    def init_fn(params: Array) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update_fn(
        updates: Array, state: optax.EmptyState, params: Array | None = None, **extra_args: Any
    ) -> tuple[Array, optax.EmptyState]:
        del params
        return update(updates, **extra_args), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def steepest() -> optax.GradientTransformationExtraArgs:
    """Take the unit direction of steepest ascent in the norm of the ball (sign, g / |g|_2)."""

    def update(g: Array, *, ball: Ball, **unused: Any) -> Array:
        del unused
        return ball.steepest(g)

    return _stateless(update)


class ScaleByEpsState(NamedTuple):
    """State of `scale_by_eps` with a schedule."""

    num_moves: Array  # [] int32


def scale_by_eps(step_size: StepSize) -> optax.GradientTransformationExtraArgs:
    """Multiply by `step_size * eps`.

    Args:
      step_size: relative to eps; a number, or a schedule `count -> number`.
    """
    if not callable(step_size):
        size = step_size

        def update(g: Array, *, eps: Array, **unused: Any) -> Array:
            del unused
            return g * (size * eps)

        return _stateless(update)
    schedule = step_size

    def init_fn(params: Array) -> ScaleByEpsState:
        del params
        return ScaleByEpsState(jnp.zeros((), jnp.int32))

    def update_fn(
        updates: Array,
        state: ScaleByEpsState,
        params: Array | None = None,
        *,
        eps: Array,
        **extra_args: Any,
    ) -> tuple[Array, ScaleByEpsState]:
        del params, extra_args
        return updates * (schedule(state.num_moves) * eps), ScaleByEpsState(state.num_moves + 1)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_step_size_abs() -> optax.GradientTransformationExtraArgs:
    """Multiply by the row's `step_size_abs` (pixel units, traced), given to `build_attack`."""

    def update(g: Array, *, step_size_abs: Array, eps: Array, **unused: Any) -> Array:
        del unused
        # eps = 0 admits no move; without this, rounding could leave x by the width of a bit
        return g * jnp.where(eps > 0, step_size_abs, 0)

    return _stateless(update)


def normalise_by_mean_abs() -> optax.GradientTransformationExtraArgs:
    """Divide by the mean absolute value (Dong et al. 2018, MI-FGSM); zero stays zero."""

    def update(g: Array, **unused: Any) -> Array:
        del unused
        scale = jnp.max(jnp.abs(g))
        unit = g / jnp.where(scale > 0, scale, 1)  # mean|g| of a tiny gradient would underflow
        mean = jnp.mean(jnp.abs(unit))
        return unit / jnp.where(mean > 0, mean, 1)

    return _stateless(update)


def normalise_by_max_abs() -> optax.GradientTransformationExtraArgs:
    """Divide by the largest absolute value (Xie et al. 2017, DAG); zero stays zero."""

    def update(g: Array, **unused: Any) -> Array:
        del unused
        scale = jnp.max(jnp.abs(g))
        return g / jnp.where(scale > 0, scale, 1)

    return _stateless(update)


def gaussian_kernel(size: int, sigma: float) -> np.ndarray:
    """Return `[size]`, a Gaussian window that sums to 1.

    Raises:
      ValueError: the size is not a positive odd number, or sigma is not positive.
    """
    if size < 1 or size % 2 == 0 or sigma <= 0:
        raise ValueError(f"kernel: size must be odd and sigma positive, got {size} and {sigma}")
    offsets = np.arange(size) - size // 2
    window = np.exp(-(offsets**2) / (2.0 * sigma**2))
    return window / window.sum()


def smooth(image: Array, kernel: np.ndarray, *, mode: str = "constant") -> Array:
    """Convolve one example with a separable window, every channel by itself.

    Args:
      image: `[H, W, C]`; for `[D]` or `[D, C]` the first axis is smoothed.
      kernel: `[K]`, K odd.
      mode: what lies outside, in the words of `jnp.pad` (`"constant"` is zero).

    Returns:
      An array of the same shape.
    """
    half = len(kernel) // 2
    axes = range(1) if image.ndim < 3 else range(image.ndim - 1)
    for axis in axes:
        pad = [(half, half) if a == axis else (0, 0) for a in range(image.ndim)]
        if mode == "constant":
            padded = jnp.pad(image, pad)
        else:
            padded = jnp.pad(image, pad, mode=mode if image.shape[axis] > half else "edge")
        length = image.shape[axis]
        shifted = (
            jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(len(kernel))
        )
        image = sum(
            (
                part * jnp.asarray(weight, part.dtype)
                for part, weight in zip(shifted, kernel, strict=True)
            ),
            start=jnp.zeros_like(image),
        )
    return image


def smooth_gradient(size: int = 15, sigma: float = 3.0) -> optax.GradientTransformationExtraArgs:
    """Convolve the gradient with a Gaussian (Dong et al. 2019, translation invariance, TI-FGSM).

    Args:
      size: odd window, in pixels.
      sigma: of the Gaussian, in pixels.

    Raises:
      ValueError: the size is not odd or sigma not positive.
    """
    kernel = gaussian_kernel(size, sigma)

    def update(g: Array, **unused: Any) -> Array:
        del unused
        return smooth(g, kernel)

    return _stateless(update)
