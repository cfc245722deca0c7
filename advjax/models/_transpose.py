"""Transposed convolution, for networks that make images."""

from collections.abc import Sequence

import jax
from jax import lax

from advjax import mesh
from advjax.models import _ops
from advjax.models._patches import Geometry

Array = jax.Array


def conv_transpose(
    x: Array, w: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Array:
    """Spread every pixel by a kernel; the gradient stays fast inside loops on a CPU.

    Pixel `(i, j)` adds `x[i, j] @ w[a, b]` at `(i * stride + a, j * stride + b)`.

    Args:
      x: `[B, H, W, C]`.
      w: `[kh, kw, C, D]`.
      strides: two.
      padding: two pairs `(low, high)`: how many pixels of the result are cut off on either side;
        negative: how many zeros are added.

    Returns:
      `[B, H', W', D]` with `H' = (H - 1) * stride + kh - low - high`.
    """
    steps = tuple(int(s) for s in strides)
    pads = tuple(
        (k - 1 - low, k - 1 - high) for k, (low, high) in zip(w.shape[:2], padding, strict=True)
    )
    w = lax.rev(w, (0, 1))
    if _ops.lax_ops_in_use():
        return lax.conv_general_dilated(
            x, w, (1, 1), pads, lhs_dilation=steps, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    axes = mesh.varying_axes(x) | mesh.varying_axes(w)
    x, w = mesh.vary(x, axes), mesh.vary(w, axes)
    geometry = Geometry((1, 1), pads, steps, (1, 1), None)
    return _ops.conv_rule(x, w, geometry)
