"""Convolution of each channel by itself, as a sum of shifted and scaled views."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from advjax.models._patches import Geometry

Array = jax.Array


def tap(x: Array, axis: int, start: int, size: int, stride: int) -> Array:
    """Return `size` entries of one axis from `start` on, `stride` apart."""
    return lax.slice_in_dim(x, start, start + (size - 1) * stride + 1, stride, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_rule(x: Array, w: Array, geometry: Geometry) -> Array:
    """Convolve `[B, H, W, C]` with `[kh, kw, 1, C]`; neither the image nor an output is empty."""
    x, sizes = _padded(x, w, geometry)
    total = jnp.zeros((), x.dtype)
    for (i, j), view in _views(x, w, geometry, sizes).items():
        total = total + view * w[i, j, 0]
    # Without the barriers XLA computes what comes before for each tap anew: the padded image, and
    # in the gradient all of this sum, of which the ReLU that follows takes its mask.
    return lax.optimization_barrier(total)


def _forward(x: Array, w: Array, geometry: Geometry) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_rule(x, w, geometry), (x, w)


def _backward(geometry: Geometry, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = saved
    for_x, _ = geometry.transposes(x.shape[1:3], w.shape[:2], g.shape[1:3])
    dx = depthwise_rule(g, lax.rev(w, (0, 1)), for_x)
    x, sizes = _padded(x, w, geometry)
    taps = [(view * g).sum((0, 1, 2)) for view in _views(x, w, geometry, sizes).values()]
    return dx, jnp.stack(taps).reshape(w.shape)


depthwise_rule.defvjp(_forward, _backward)


def _padded(x: Array, w: Array, geometry: Geometry) -> tuple[Array, list[int]]:
    """Return the padded and spread image, and the two sizes of the output."""
    spread = [(*pad, d - 1) for pad, d in zip(geometry.pads, geometry.lhs_dilation, strict=True)]
    x = lax.optimization_barrier(lax.pad(x, x.dtype.type(0), [(0, 0, 0), *spread, (0, 0, 0)]))
    sizes = []
    for i in (0, 1):
        reach = (w.shape[i] - 1) * geometry.rhs_dilation[i]
        sizes.append((x.shape[i + 1] - reach - 1) // geometry.strides[i] + 1)
    return x, sizes


def _views(
    x: Array, w: Array, geometry: Geometry, sizes: list[int]
) -> dict[tuple[int, int], Array]:
    """Return what each tap of the kernel sees."""
    views = {}
    for i in range(w.shape[0]):
        rows = tap(x, 1, i * geometry.rhs_dilation[0], sizes[0], geometry.strides[0])
        for j in range(w.shape[1]):
            start = j * geometry.rhs_dilation[1]
            views[i, j] = tap(rows, 2, start, sizes[1], geometry.strides[1])
    return views
