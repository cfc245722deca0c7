"""Sums of which nobody sees a summand: pairwise masks that cancel."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from advjax.random import typed
from advjax.types import Array, PyTree

# fixed point: 16 bits behind the point
SCALE = 2.0**16


def hide(update: PyTree, seeds: Sequence[Array | None], own: int) -> PyTree:
    """Return what client number `own` of K may send: its update, masked.

    Clients i < j share a seed; i adds the mask that grows of it and j takes it away, modulo 2^32,
    so that the masks cancel in the sum of all, and each summand alone is uniform noise (Bonawitz
    et al. 2017, section 4, without clients that drop out: their sum cannot be revealed). How two
    clients agree on a seed that nobody else knows is theirs. A seed serves one sum.

    Args:
      update: a tree of floats, each within +-32768 / K; more is clipped.
      seeds: `[K]` keys shared with each client; that of `own` is not looked at (None).
      own: number of this client, from 0.

    Returns:
      A tree of uint32 of the shapes of `update`.

    Raises:
      ValueError: `own` is no client, a seed is missing, or an update is NaN or infinite (under
        `jit` nobody can tell: NaN counts as 0 there).
    """
    if not 0 <= own < len(seeds):
        raise ValueError(f"own: must be a client of {len(seeds)}, from 0, got {own}")
    missing = [j for j, seed in enumerate(seeds) if seed is None and j != own]
    if missing:
        raise ValueError(f"seeds: that of client {missing[0]} is missing")
    leaves, structure = jax.tree.flatten(update)
    # 128 below, since float32 knows no larger number under 2^31
    limit = (2**31 - 128) // len(seeds)
    hidden = []
    for number, leaf in enumerate(leaves):
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError("update: has values that are NaN or infinite; leave this client out")
        fixed = jnp.round(jnp.clip(jnp.asarray(leaf, jnp.float32) * SCALE, -limit, limit))
        total = jax.lax.bitcast_convert_type(fixed.astype(jnp.int32), jnp.uint32)
        for other, seed in enumerate(seeds):
            if other == own or seed is None:
                continue
            mask = jax.random.bits(jax.random.fold_in(typed(seed), number), fixed.shape, jnp.uint32)
            total = total + mask if own < other else total - mask
        hidden.append(total)
    return jax.tree.unflatten(structure, hidden)


def reveal(hidden: Sequence[PyTree]) -> PyTree:
    """Return the sum of the updates of all clients, each to within 2^-17.

    Args:
      hidden: what `hide` returned for each of the K clients.

    Returns:
      A tree of float64 NumPy arrays.

    Raises:
      ValueError: there is none.
    """
    if not hidden:
        raise ValueError("hidden: expected the masked update of every client, got none")

    def add(*leaves: Array) -> np.ndarray:
        # unsigned integers wrap around, which is what cancels
        total = np.sum([np.asarray(leaf, np.uint32) for leaf in leaves], axis=0, dtype=np.uint32)
        return np.asarray(total).view(np.int32) / SCALE

    return jax.tree.map(add, *hidden)
