"""Exact cycle detection on the iterates of deterministic attacks without memory.

The next iterate of plain sign-PGD is a function of the current one. So an iterate that was seen
before will be followed by the same points for ever, all of them already evaluated: the run can
stop without changing its verdict. Brent's scheme (1980) finds every cycle with one stored
iterate: the stored one is replaced at steps 1, 2, 4, 8, ...
"""

from typing import NamedTuple

import jax.numpy as jnp

from advjax import tree
from advjax.types import Array


class Cycle(NamedTuple):
    """One stored iterate per slot.

    Attributes:
      seen: `[S, ...]` the stored iterate.
      power: `[S]` int32, steps until it is replaced.
      age: `[S]` int32, steps since it was stored.
    """

    seen: Array
    power: Array
    age: Array


def start(x: Array) -> Cycle:
    """Begin at the start of a run, `x [S, ...]`."""
    return Cycle(x, jnp.ones(x.shape[0], jnp.int32), jnp.zeros(x.shape[0], jnp.int32))


def follow(cycle: Cycle, x: Array, moved: Array) -> tuple[Cycle, Array]:
    """Look at the iterates after one step.

    Args:
      cycle: the stored iterates.
      x: `[S, ...]`, where the rows stand now.
      moved: `[S]` bool, which rows made a step.

    Returns:
      The new memory and `[S]` bool: the row stands where it stood before.
    """
    repeats = moved & jnp.all((x == cycle.seen).reshape(x.shape[0], -1), axis=1)
    age = cycle.age + moved
    renew = moved & (age == cycle.power)
    return (
        Cycle(
            seen=tree.where(renew, x, cycle.seen),
            power=jnp.where(renew, 2 * cycle.power, cycle.power),
            age=jnp.where(renew, 0, age),
        ),
        repeats,
    )
