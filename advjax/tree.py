"""Small helpers for pytrees whose leaves have a leading row axis."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key array."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def expand(flag: jax.Array, like: jax.Array) -> jax.Array:
    """Reshape `[B]` so that it broadcasts against `like` `[B, ...]`."""
    return flag.reshape(flag.shape + (1,) * (like.ndim - flag.ndim))


def where(flag: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Select rows: `new` where `flag` `[B]`, else `old`; keys are selected too."""
    return jax.tree.map(lambda a, b: jnp.where(expand(flag, a), a, b), new, old)


def vary_like(tree: PyTree, x: jax.Array) -> PyTree:
    """Make every leaf `[B, ...]` depend on `x` `[B, ...]` without changing a value.

    Inside `shard_map`, a loop carry must be device-varying from the start. A constant made by
    `zeros` is not; one selected by something computed from a sharded `x` is.
    """
    flag = x.reshape(x.shape[0], -1)[:, 0] != x.reshape(x.shape[0], -1)[:, 0]
    return where(flag, tree, tree)


def name_of(path: Any) -> str:
    """Return the name of a leaf, `params/head/bias`, of the path that JAX gives it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
