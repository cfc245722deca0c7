"""Convolution as a matrix product with the patches of the image."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array


class Geometry(NamedTuple):
    """Everything static about one convolution."""

    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    precision: Any
    row_exact: bool = True

    def transposes(
        self, image: tuple[int, ...], window: tuple[int, ...], output: tuple[int, ...]
    ) -> tuple["Geometry", "Geometry"]:
        """Return the geometries that give the gradients of image and kernel, from their sizes.

        The first is of a convolution of the output's gradient with the flipped kernel, the second
        of one of the image with that gradient.
        """
        strides, pads, lhs_dilation, rhs_dilation, precision, _ = self
        pads_x, pads_w = [], []
        for i in (0, 1):
            reach = (window[i] - 1) * rhs_dilation[i] + 1
            spread_x = (image[i] - 1) * lhs_dilation[i] + 1
            spread_g = (output[i] - 1) * strides[i] + 1
            low = pads[i][0]
            high = reach - 1 + spread_g - spread_x - low
            pads_x.append((reach - 1 - low, reach - 1 - high))
            pads_w.append((low, high))
        for_x = Geometry(lhs_dilation, tuple(pads_x), strides, rhs_dilation, precision)
        for_w = Geometry(rhs_dilation, tuple(pads_w), lhs_dilation, strides, precision, False)
        return for_x, for_w


def patches_conv(x: Array, w: Array, geometry: Geometry, sizes: tuple[int, ...]) -> Array:
    """Convolve by a matrix product with the patches, which are few where the output is tiny.

    XLA's convolution takes 5 to 10 times as long for outputs of 2x2 to 2x4 pixels; the last
    stages of a residual network have those on images of 28 to 64 pixels. Taps that see nothing
    but padding are left out: eight of nine for an output of one pixel.
    """
    strides, pads, lhs_dilation, rhs_dilation, precision, _ = geometry
    seen = []
    for i in (0, 1):
        starts = np.arange(sizes[i]) * strides[i] - pads[i][0]
        places = starts[:, None] + np.arange(w.shape[i]) * rhs_dilation[i]
        inside = (places >= 0) & (places < (x.shape[i + 1] - 1) * lhs_dilation[i] + 1)
        seen.append(np.flatnonzero((inside & (places % lhs_dilation[i] == 0)).any(0)))
    taps = [(int(a), int(b)) for a in seen[0] for b in seen[1]]
    if not taps:
        return jnp.zeros((x.shape[0], *sizes, w.shape[3]), x.dtype)
    edges = [(*pads[i], lhs_dilation[i] - 1) for i in (0, 1)]
    x = lax.pad(x, x.dtype.type(0), [(0, 0, 0), *edges, (0, 0, 0)])
    patches = []
    for a, b in taps:
        start = (0, a * rhs_dilation[0], b * rhs_dilation[1], 0)
        last = [s + (n - 1) * d + 1 for s, n, d in zip(start[1:3], sizes, strides, strict=True)]
        patches.append(lax.slice(x, start, (x.shape[0], *last, x.shape[3]), (1, *strides, 1)))
    kernel = jnp.concatenate([w[a, b] for a, b in taps])
    columns = jnp.concatenate(patches, -1).reshape(-1, kernel.shape[0])
    y = jnp.matmul(columns, kernel, precision=precision)
    return y.reshape(x.shape[0], *sizes, w.shape[3])
