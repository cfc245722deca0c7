"""What a model is to the rest of the library: a name and two pure functions."""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import random, tree

Array = jax.Array
Variables = dict[str, Any]

_CHUNK = 4096


class Model(NamedTuple):
    """A model as two pure functions of plain dicts of arrays.

    Attributes:
      name: for reports.
      init: `(key, x) -> variables`. `x` `[B, H, W, C]` gives shape and dtype only; `variables`
        is a dict of collections, `{"params": ...}` and, with batch-norm, `"batch_stats"`. The key
        is consumed.
      apply: `(variables, x) -> logits`, `[B, H, W, C]` images in [0, 1] to `[B, K]`, in
        evaluation mode: deterministic, and row i depends on image i only.
        `(variables, x, train=True, rngs=None) -> (logits, updates)`, training mode: batch
        statistics, dropout where `rngs` (a dict of keys) feeds it. `updates` holds the
        collections that changed, `{"batch_stats": ...}` or `{}`; `variables | updates` are the
        variables of the next step.
    """

    name: str
    init: Callable[[Array, Array], Variables]
    apply: Callable[..., Any]


def check_images(x: Array, name: str) -> None:
    """Check what every model of the zoo needs of its input.

    Raises:
      ValueError: `x` is not `[B, H, W, C]` or not of a floating dtype.
    """
    if x.ndim != 4:
        raise ValueError(
            f"{name}: expected images [B, H, W, C], got shape {tuple(x.shape)}"
            + ("; add the channel axis with x[..., None]" if x.ndim == 3 else "")
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{name}: expected floating images in [0, 1], got {x.dtype}; divide uint8 by 255"
        )


def _leaf_name(path: Any) -> str:
    return tree.name_of(path).split("/")[-1]


def is_kernel(path: Any) -> bool:
    """Whether the leaf at a tree path is a kernel (of a convolution or a dense layer)."""
    return _leaf_name(path) == "kernel"


def _fan_in(shape: tuple[int, ...]) -> int:
    return max(1, int(np.prod(shape[:-1])))


def draw_kernels(key: Array, variables: Variables) -> Variables:
    """Fill every kernel with the normal start of He et al. (2015), fan-in.

    Variance 2 / fan-in for convolutions, 1 / fan-in for the dense head, which no ReLU follows.
    All are drawn by one call, since compiling a generator for every kernel shape takes seconds;
    a value depends on the key and the path of its leaf, not on the other layers.

    Args:
      key: one key, typed or raw; consumed.
      variables: tree of arrays; leaves that are not named `kernel` are kept.

    Returns:
      The same tree with new kernels.
    """
    key = random.typed(key)
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    keys, counts = [], []
    for path, leaf in leaves:
        if is_kernel(path):
            name = zlib.crc32(tree.name_of(path).encode())
            chunks = -(-leaf.size // _CHUNK)
            keys.append((np.full(chunks, name & 0x7FFFFFFF), np.arange(chunks)))
            counts.append(chunks)
    if not keys:
        return variables
    names, parts = (np.concatenate(column) for column in zip(*keys, strict=True))

    def one(name: Array, part: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, name), part), (_CHUNK,))

    draws = jax.vmap(one)(jnp.asarray(names), jnp.asarray(parts))
    out, start = [], 0
    for path, leaf in leaves:
        if is_kernel(path):
            chunks = counts.pop(0)
            values = draws[start : start + chunks].reshape(-1)[: leaf.size].reshape(leaf.shape)
            gain = 2.0 if leaf.ndim > 2 else 1.0
            leaf = (values * np.sqrt(gain / _fan_in(leaf.shape))).astype(leaf.dtype)
            start += chunks
        out.append(leaf)
    return jax.tree_util.tree_unflatten(structure, out)


def random_variables(model: Model, seed: int, x: Array) -> Variables:
    """Make variables without compiling anything, for tests and benchmarks.

    Args:
      model: whose `init` gives the shapes.
      seed: seed of NumPy's generator.
      x: `[B, H, W, C]`; shape and dtype only.

    Returns:
      Kernels normal with variance 2 / fan-in (1 / fan-in for matrices), `scale` and `var` 1,
      everything else 0, in the dtypes of `init`.
    """
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> Array:
        if is_kernel(path):
            gain = 2.0 if len(leaf.shape) > 2 else 1.0
            values = rng.standard_normal(leaf.shape) * np.sqrt(gain / _fan_in(leaf.shape))
            return jnp.asarray(values, leaf.dtype)
        return jnp.full(leaf.shape, float(_leaf_name(path) in ("scale", "var")), leaf.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(fill, shapes)
