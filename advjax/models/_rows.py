"""Mean and matrix product of the head, with the same bits for a row in every batch.

XLA's reductions and matrix products on a CPU add in an order that depends on the size of the
batch. One unit in the last place is enough to turn the sign of a gradient, and with it an attack.
"""

import jax
import jax.numpy as jnp
from jax import lax

from advjax import mesh
from advjax.models import _ops

Array = jax.Array

_MANY_WEIGHTS = 65536


def tree_sum(x: Array, axis: int) -> Array:
    """Sum over one axis by adding halves: additions of whole arrays, in an order that is fixed.

    The order in which XLA's reductions and matrix products add on a CPU depends on the size of
    the batch; this one does not, and is a little more accurate.
    """
    size = x.shape[axis]
    while size > 1:
        half = size // 2
        low = lax.slice_in_dim(x, 0, half, axis=axis)
        high = lax.slice_in_dim(x, half, 2 * half, axis=axis)
        rest = lax.slice_in_dim(x, 2 * half, size, axis=axis)
        x = lax.concatenate([low + high, rest], axis % x.ndim) if size % 2 else low + high
        size = x.shape[axis]
    return lax.squeeze(x, (axis,))


def _row_products(x: Array, w: Array) -> Array:
    # One product of a vector and the matrix for each row. Not a sum of products: the compiler
    # contracts those with additions, or not, as the rest of the program pleases.
    many = jnp.broadcast_to(w, (x.shape[0], *w.shape))
    return lax.dot_general(x, many, (((1,), (1,)), ((0,), (0,))))


@jax.custom_vjp
def _dense(x: Array, w: Array) -> Array:
    return _ops.by_rows(_row_products, x, w)


def _dense_fwd(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return _dense(x, w), (x, w)


def _dense_bwd(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = saved
    return _dense(g, w.T), x.T @ g


_dense.defvjp(_dense_fwd, _dense_bwd)


def dense(x: Array, w: Array) -> Array:
    """Multiply features `[B, C]` by a kernel `[C, K]`.

    On a CPU and up to 65536 weights, a row's result and its gradient have the same bits in every
    batch; the price is that of reading all weights again for each row.

    Args:
      x: `[B, C]`.
      w: `[C, K]`, of the same dtype.

    Returns:
      `[B, K]`.
    """
    if _ops.lax_ops_in_use() or w.size > _MANY_WEIGHTS or 0 in (x.size, w.size):
        return x @ w
    axes = mesh.varying_axes(x) | mesh.varying_axes(w)
    return _dense(mesh.vary(x, axes), mesh.vary(w, axes))


def global_mean(x: Array) -> Array:
    """Average `[B, H, W, C]` over the pixels to `[B, C]`; on a CPU, in a fixed order."""
    if _ops.lax_ops_in_use():
        return x.mean(axis=(1, 2))
    pixels = x.shape[1] * x.shape[2]
    return tree_sum(x.reshape(x.shape[0], pixels, x.shape[3]), 1) / pixels
