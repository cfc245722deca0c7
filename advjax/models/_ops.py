"""The three operators on which XLA loses time on a CPU, each equal to the one of `lax`.

XLA's CPU backend canonicalises only the convolutions of the top level of a program. The gradient
of a convolution inside `scan`, `while_loop` or `cond` misses that and runs 3 to 11 times slower.
`conv` therefore has a gradient rule that is canonical as written. `depthwise_conv` and `max_pool`
are sums and maxima of shifted views, which XLA fuses, where the library routines are slow.

Ours are used on CPU, those of `lax` on accelerators. `use_lax_ops` overrides the choice; it is
needed for forward-mode differentiation (`jax.jvp`, `jax.hessian`), which a custom gradient of
`conv` cannot serve. The backend is that of `jax.default_backend()` when the function is traced,
and the override is part of the key of jit's cache: the same jitted function is traced anew.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advjax import mesh
from advjax.models._depthwise import depthwise_rule, tap
from advjax.models._patches import Geometry, patches_conv

Array = jax.Array
Pads = tuple[tuple[int, int], ...]
Padding = str | Sequence[tuple[int, int]]

_NUMBERS = ("NHWC", "HWIO", "NHWC")
_FEW_EXAMPLES, _FEW_PIXELS = 8, 256  # measured: from either on, rows have the same bits
_TINY = 8  # pixels of an output up to which XLA's convolution is slow
_FEW_ROWS = 64  # measured: from so many on, rows of a matrix product have the same bits
_CHOICE = jax.make_user_context(default_value=None)


def use_lax_ops(enabled: bool | None = True) -> AbstractContextManager[Any]:
    """Choose the operators of the model zoo inside a `with` block.

    Args:
      enabled: True: those of `lax`, which `jax.jvp` can differentiate; False: ours; None: by the
        backend (ours on CPU).

    Returns:
      A context manager, local to the thread. What counts is the choice while a function is traced.
    """
    return _CHOICE(enabled)


def lax_ops_in_use() -> bool:
    """Whether a function that is traced here and now gets the operators of `lax`."""
    choice = _CHOICE.value
    return jax.default_backend() != "cpu" if choice is None else bool(choice)


def _explicit_pads(
    shape: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
) -> Pads:
    """Return `((low, high), ...)` of the spatial axes; names like "SAME" are resolved."""
    if isinstance(padding, str):
        reach = tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))
        padding = lax.padtype_to_pads(shape, reach, strides, padding)
    return tuple((int(low), int(high)) for low, high in padding)


def _sizes_out(
    shape: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Return the spatial size of the output; zero where the window does not fit."""
    return tuple(
        max(0, (n + low + high - (k - 1) * d - 1) // s + 1)
        for n, k, s, (low, high), d in zip(shape, window, strides, pads, dilation, strict=True)
    )


def _plain_conv(x: Array, w: Array, geometry: Geometry) -> Array:
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.pads,
        lhs_dilation=geometry.lhs_dilation,
        rhs_dilation=geometry.rhs_dilation,
        dimension_numbers=_NUMBERS,
        precision=geometry.precision,
    )


def by_rows(fn: Callable[[Array, Array], Array], x: Array, w: Array) -> Array:
    """Return `fn(x, w)`, whose rows are those of `x`; vmap over `x` alone merges its rows first."""
    merged = jax.custom_batching.custom_vmap(fn)

    @merged.def_vmap
    def batched(size: int, is_batched: Sequence[bool], x: Array, w: Array) -> tuple[Array, bool]:
        if is_batched[1]:
            return jax.vmap(fn, tuple(0 if flag else None for flag in is_batched))(x, w), True
        rows = x.shape[1]
        y = by_rows(fn, x.reshape(size * rows, *x.shape[2:]), w)
        return y.reshape(size, rows, *y.shape[1:]), True

    return merged(x, w)


def _row_exact_conv(x: Array, w: Array, geometry: Geometry) -> Array:
    """Convolve so that a row's bits do not depend on how many rows are convolved with it.

    A convolution is a matrix product with one row per output pixel. On a CPU, products of few
    rows take another path, which rounds differently; small ones are therefore padded with zeros.
    """
    count = x.shape[0]
    spread = tuple(
        (n - 1) * d + 1 for n, d in zip(x.shape[1:3], geometry.lhs_dilation, strict=True)
    )
    rules = (geometry.strides, geometry.pads, geometry.rhs_dilation)
    sizes = _sizes_out(spread, w.shape[:2], *rules)
    pixels = sizes[0] * sizes[1]
    wanted = min(_FEW_EXAMPLES, -(-_FEW_PIXELS // pixels))
    # measured: XLA's convolution takes 1.0 to 2.2 times as long as the product that a 1x1 kernel is
    product = pixels <= _TINY or w.shape[:2] == (1, 1)
    if product:
        wanted = -(-_FEW_ROWS // pixels)
    if count < wanted:
        x = lax.pad(x, x.dtype.type(0), [(0, wanted - count, 0), *[(0, 0, 0)] * 3])
    if product:
        return patches_conv(x, w, geometry, sizes)[:count]
    return _plain_conv(x, w, geometry)[:count]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_rule(x: Array, w: Array, geometry: Geometry) -> Array:
    if not geometry.row_exact:
        return _plain_conv(x, w, geometry)
    # merged, a vmapped batch of single images is padded once and not image by image
    return by_rows(functools.partial(_row_exact_conv, geometry=geometry), x, w)


def _conv_fwd(x: Array, w: Array, geometry: Geometry) -> tuple[Array, tuple[Array, Array]]:
    return conv_rule(x, w, geometry), (x, w)


def _conv_bwd(geometry: Geometry, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # The two transposes of lax, with the kernel flipped and the axes swapped by hand, so that
    # every convolution reads NHWC and HWIO. XLA removes the one that nobody asks for.
    x, w = saved
    for_x, for_w = geometry.transposes(x.shape[1:3], w.shape[:2], g.shape[1:3])
    dx = conv_rule(g, lax.rev(w, (0, 1)).swapaxes(2, 3), for_x)
    # Here the rows are channels and the sum runs over the batch.
    dw = conv_rule(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), for_w)
    return dx, dw.transpose(1, 2, 0, 3)


conv_rule.defvjp(_conv_fwd, _conv_bwd)


def _is_nhwc(lhs: Array, rhs: Array, numbers: Any) -> bool:
    if lhs.ndim != 4 or rhs.ndim != 4 or numbers is None:
        return False
    asked = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
    return asked == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NUMBERS)


def _is_plain(lhs: Array, rhs: Array, lhs_dilation: Sequence[int] | None, more: Any) -> bool:
    """Whether the call asks for nothing beyond strides, padding, dilation, groups, precision."""
    return (
        not any(value is not None and value != 1 for value in more.values())
        and (lhs_dilation is None or all(d == 1 for d in lhs_dilation))
        and lhs.dtype == rhs.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and 0 not in lhs.shape
        and 0 not in rhs.shape
    )


def conv(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Padding,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **more: Any,
) -> Array:
    """Convolve, with a gradient that stays fast inside loops on a CPU.

    Same arguments and same values as `jax.lax.conv_general_dilated`; pass it to Linen as
    `nn.Conv(..., conv_general_dilated=conv)`. The rule of ours serves two spatial dimensions in
    NHWC/HWIO order, without groups and without dilation of the image, and any strides, padding
    and kernel dilation. Everything else goes to `lax` as it is.

    Args:
      lhs: `[B, H, W, C]` images.
      rhs: `[kh, kw, C, D]` kernel, of the same dtype.
      window_strides: two strides.
      padding: `"SAME"`, `"VALID"` or two pairs `(low, high)`.
      lhs_dilation: see lax.
      rhs_dilation: spacing of the kernel's taps.
      dimension_numbers: see lax; `("NHWC", "HWIO", "NHWC")` or its equivalent.
      feature_group_count: see lax.
      precision: see lax.
      **more: see lax.

    Returns:
      `[B, H', W', D]`.
    """
    ours = (
        not lax_ops_in_use()
        and feature_group_count == 1
        and _is_nhwc(lhs, rhs, dimension_numbers)
        and _is_plain(lhs, rhs, lhs_dilation, more)
    )
    if ours:
        strides = tuple(int(s) for s in window_strides)
        dilation = (1, 1) if rhs_dilation is None else tuple(int(d) for d in rhs_dilation)
        geometry = (lhs.shape[1:3], rhs.shape[:2], strides)
        pads = _explicit_pads(*geometry, padding, dilation)
        ours = 0 not in _sizes_out(*geometry, pads, dilation)
    if not ours:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
            **more,
        )
    if rhs.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)):
        # A 1x1 kernel with strides reads a sparse view: cheaper both ways than a strided rule.
        lhs, strides = lhs[:, :: strides[0], :: strides[1]], (1, 1)
    # Inside shard_map the rule needs both to vary over the same axes; the transpose of the cast
    # sums the gradient of replicated weights, and vanishes where nobody asks for it.
    axes = mesh.varying_axes(lhs) | mesh.varying_axes(rhs)
    lhs, rhs = mesh.vary(lhs, axes), mesh.vary(rhs, axes)
    return conv_rule(lhs, rhs, Geometry(strides, pads, (1, 1), dilation, precision))


def depthwise_conv(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Padding,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **more: Any,
) -> Array:
    """Convolve each channel by itself, as a sum of shifted and scaled views.

    Same arguments and same values as `jax.lax.conv_general_dilated` with as many groups as input
    channels; pass it to Linen as `nn.Conv(C * m, ..., feature_group_count=C,
    conv_general_dilated=depthwise_conv)`. What is not depthwise goes to `conv`.

    Args:
      lhs: `[B, H, W, C]` images.
      rhs: `[kh, kw, 1, C * m]` kernel; outputs `c * m` to `c * m + m - 1` see channel `c`.
      window_strides: two strides.
      padding: `"SAME"`, `"VALID"` or two pairs `(low, high)`.
      lhs_dilation: see lax.
      rhs_dilation: spacing of the kernel's taps.
      dimension_numbers: see lax; `("NHWC", "HWIO", "NHWC")` or its equivalent.
      feature_group_count: C.
      precision: without meaning here, no matrix product is involved.
      **more: see lax.

    Returns:
      `[B, H', W', C * m]`.
    """
    ours = (
        not lax_ops_in_use()
        and _is_nhwc(lhs, rhs, dimension_numbers)
        and feature_group_count == lhs.shape[3]
        and rhs.shape[2] == 1
        and _is_plain(lhs, rhs, lhs_dilation, more)
    )
    if ours:
        strides = tuple(int(s) for s in window_strides)
        dilation = (1, 1) if rhs_dilation is None else tuple(int(d) for d in rhs_dilation)
        geometry = (lhs.shape[1:3], rhs.shape[:2], strides)
        pads = _explicit_pads(*geometry, padding, dilation)
        sizes = _sizes_out(*geometry, pads, dilation)
        ours = 0 not in sizes
    if not ours:
        return conv(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
            **more,
        )
    x = jnp.repeat(lhs, rhs.shape[3] // lhs.shape[3], axis=3)
    axes = mesh.varying_axes(x) | mesh.varying_axes(rhs)
    x, rhs = mesh.vary(x, axes), mesh.vary(rhs, axes)
    return depthwise_rule(x, rhs, Geometry(strides, pads, (1, 1), dilation, precision))


def max_pool(
    x: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """Take maxima over windows, as a maximum over shifted views; same as `flax.linen.max_pool`.

    The gradient goes to the first of equal maxima in row-major order, as in lax.

    Args:
      x: `[..., H, W, C]`, one spatial axis for each entry of `window_shape`.
      window_shape: size of the window.
      strides: steps between windows; None: 1 everywhere.
      padding: `"SAME"`, `"VALID"` or pairs `(low, high)`; padded entries never win.

    Returns:
      `[..., H', W', C]`.
    """
    window = tuple(int(k) for k in window_shape)
    steps = (1,) * len(window) if strides is None else tuple(int(s) for s in strides)
    first = x.ndim - 1 - len(window)
    shape, ones = x.shape[first:-1], (1,) * len(window)
    pads = _explicit_pads(shape, window, steps, padding, ones)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    lowest = x.dtype.type(-np.inf if floating else jnp.iinfo(x.dtype).min)
    if lax_ops_in_use() or 0 in x.shape or 0 in _sizes_out(shape, window, steps, pads, ones):
        return lax.reduce_window(
            x,
            lowest,
            lax.max,
            (1,) * first + window + (1,),
            (1,) * first + steps + (1,),
            ((0, 0),) * first + pads + ((0, 0),),
        )
    x = lax.pad(x, lowest, [(0, 0, 0)] * first + [(a, b, 0) for a, b in pads] + [(0, 0, 0)])
    # One axis after the other, the last one first: fewer views, and in row-major order the
    # first of equal maxima still wins.
    for i in reversed(range(len(window))):
        axis = first + i
        size = (x.shape[axis] - window[i]) // steps[i] + 1
        best = tap(x, axis, 0, size, steps[i])
        for k in range(1, window[i]):
            view = tap(x, axis, k, size, steps[i])
            best = jnp.where((view > best) | (view != view), view, best)
        x = best
    return x
