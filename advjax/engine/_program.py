"""The compiled program: one per attack callable and shapes, for every model, data and budgets.

It runs the lanes of a device: one, or one for each of several stacked models.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from advjax.engine._judge import judge, prepare
from advjax.engine._pool import MODELS, Work, spin
from advjax.engine._reference import MakeAttack
from advjax.engine._state import Counts, Phase, Settings, State, per_lane
from advjax.mesh import AXIS
from advjax.types import Array, PyTree


class Program(NamedTuple):
    """A compiled program.

    Attributes:
      call: `(params, key, epsilons, num_steps, max_ticks, state) -> state`, jitted.
      outputs: what a model returns for one image, by the shapes of parameters and image; to find
        out takes as long as tracing the model.
    """

    call: Callable[..., State]
    outputs: dict[Any, PyTree]


@functools.lru_cache(maxsize=64)
def compiled(
    make_attack: MakeAttack, settings: Settings, attack_id: int, mesh: Mesh | None
) -> Program:
    """Return the program of an attack and of settings.

    The rows of all lanes stand one after the other, see `_state.per_lane`. With several models
    every leaf of `params` is `[models, ...]`. The state is donated.
    """
    call = functools.partial(_call, make_attack, settings, attack_id)
    if mesh is not None:
        here, everywhere = PartitionSpec(AXIS), PartitionSpec()
        # each device runs its own loops on its own queue; there is nothing to agree on
        call = jax.shard_map(
            call,
            mesh=mesh,
            in_specs=(everywhere,) * 5 + (here,),
            out_specs=here,
            check_vma=False,
        )
    return Program(jax.jit(call, donate_argnums=5), {})


def _call(
    make_attack: MakeAttack,
    settings: Settings,
    attack_id: int,
    params: PyTree,
    key: Array,
    epsilons: Array,
    num_steps: Array,
    max_ticks: Array,
    stacked: State,
) -> State:
    """Advance the lanes of one device."""

    def lane(params: PyTree, state: State) -> State:
        work = Work(make_attack(params), settings, epsilons, key, attack_id, num_steps, max_ticks)
        return _lane(work, state)

    models = settings.models
    if models == 1:
        state = lane(params, per_lane(stacked, lambda leaf: leaf[0]))
        return per_lane(state, lambda leaf: leaf[None])
    lanes = jax.tree.map(lambda leaf: leaf.reshape(models, -1, *leaf.shape[1:]), stacked)
    lanes = per_lane(lanes, lambda leaf: leaf[:, 0])
    if settings.stack == "vmap":
        lanes = jax.vmap(lane, axis_name=MODELS)(params, lanes)
    else:
        lanes = jax.lax.map(lambda pair: lane(*pair), (params, lanes))
    lanes = per_lane(lanes, lambda leaf: leaf[:, None])
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), lanes)


def _lane(work: Work, before: State) -> State:
    """Prepare what is fresh, spin the pool, judge what ended: one model on one device."""
    zero = jnp.int32(0)
    state = before._replace(
        finished=before.finished._replace(filled=zero), counts=Counts(zero, zero, zero, zero, zero)
    )
    fresh = state.queue.phase == Phase.FRESH
    state = jax.lax.cond(
        work.anywhere(jnp.any(fresh)), lambda s: prepare(work, s), lambda s: s, state
    )
    state = judge(work, spin(work, state))
    phase = state.queue.phase
    waits = (phase == Phase.FRESH) | (phase == Phase.QUEUED) | (phase == Phase.RUNNING)
    counts = state.counts._replace(
        done=jnp.sum(phase == Phase.DONE, dtype=jnp.int32),
        left=jnp.sum(waits, dtype=jnp.int32),
    )
    state = state._replace(counts=counts)

    def settle(new: Any, old: Any) -> Any:
        # the very types that came in, weak ones included, or the next call would compile again
        return new if _is_key(old) else jax.lax.convert_element_type(new, old.dtype)

    return jax.tree.map(settle, state, before)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
