"""Several processes: each sweeps its own share on its own devices; results are exchanged once."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from advjax import mesh as meshes
from advjax.types import PyTree


class Share(NamedTuple):
    """What one process works on.

    Attributes:
      mine: `[n]`, numbers of its examples; none where there are more processes than examples.
      mesh: its own devices.
      alone: whether nobody else works on the rest.
    """

    mine: np.ndarray
    mesh: Mesh | None
    alone: bool


def share(total: int, mesh: Mesh | None) -> Share:
    """Deal `total` examples to the processes of `mesh`: every n-th one to each.

    Raises:
      ValueError: the mesh leaves out a process, which would then wait for ever, or nobody is
        there to exchange results with.
    """
    here, count = jax.process_index(), jax.process_count()
    owners = {here} if mesh is None else {d.process_index for d in mesh.devices.flat}
    if mesh is None or owners == {here}:
        return Share(np.arange(total), mesh, True)
    if len(owners) < count:
        raise ValueError(
            f"mesh: has devices of {len(owners)} of {count} processes; take all devices "
            "(data_mesh()) or only this process's own"
        )
    return Share(np.arange(here, total, count), mesh.local_mesh, False)


def local(tree: PyTree) -> PyTree:
    """Return the tree with arrays of all processes (a trained state, say) as NumPy arrays.

    Raises:
      ValueError: an array is split between processes.
    """

    def one(leaf: PyTree) -> PyTree:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if not leaf.is_fully_replicated:
            raise ValueError(
                f"an array {leaf.dtype}{list(leaf.shape)} is split between processes; replicate "
                "it, with jax.device_put(tree, advjax.mesh.replicated(mesh))"
            )
        return np.asarray(leaf)

    return jax.tree.map(one, tree)


def exchange(tree: PyTree, mine: int, total: int) -> PyTree:
    """Put the rows of all processes together, in the order of the examples.

    Args:
      tree: NumPy arrays of which the first `mine` rows are this process's share.
      mine: may be 0.
      total: rows of all processes together, dealt as `share` deals.

    Returns:
      The tree with `[total, ...]`, the same on every process.
    """
    from jax.experimental import multihost_utils

    meshes.wait_for_processes()
    processes = jax.process_count()
    longest = math.ceil(total / processes)

    def packed(leaf: np.ndarray) -> np.ndarray:
        # as bytes, since jax without x64 would round wide types
        rows = np.zeros((longest, math.prod(leaf.shape[1:])), leaf.dtype)
        rows[:mine] = leaf[:mine].reshape(mine, rows.shape[1])
        return rows.view(np.uint8)

    def whole(parts: np.ndarray, like: np.ndarray) -> np.ndarray:
        parts = np.ascontiguousarray(parts).view(like.dtype)
        rows = np.empty((total, *like.shape[1:]), like.dtype)
        for process, part in enumerate(parts):
            place = rows[process::processes]
            place[...] = part[: len(place)].reshape(place.shape)
        return rows

    leaves, structure = jax.tree.flatten(tree)
    gathered = multihost_utils.process_allgather([packed(leaf) for leaf in leaves])
    found = [whole(np.asarray(p), leaf) for p, leaf in zip(gathered, leaves, strict=True)]
    return jax.tree.unflatten(structure, found)
