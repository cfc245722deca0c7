"""The compiled program: one per attack callable and shapes, for every model, data and budgets."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from advjax.engine._judge import judge, prepare
from advjax.engine._pool import Work, spin
from advjax.engine._reference import MakeAttack
from advjax.engine._state import Counts, Phase, Settings, State, per_device
from advjax.mesh import AXIS
from advjax.types import Array, PyTree

Program = Callable[..., State]


@functools.lru_cache(maxsize=64)
def compiled(
    make_attack: MakeAttack, settings: Settings, attack_id: int, mesh: Mesh | None
) -> Program:
    """Return `(params, key, epsilons, num_steps, max_ticks, state) -> state`, jitted.

    The rows of all devices stand one after the other, see `_state.per_device`. The state is
    donated.
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
    return jax.jit(call, donate_argnums=5)


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
    """Prepare what is fresh, spin the pool, judge what ended: one device."""
    work = Work(make_attack(params), settings, epsilons, key, attack_id, num_steps, max_ticks)
    before = per_device(stacked, lambda leaf: leaf[0])
    zero = jnp.int32(0)
    state = before._replace(
        finished=before.finished._replace(filled=zero), counts=Counts(zero, zero, zero, zero, zero)
    )
    fresh = state.queue.phase == Phase.FRESH
    state = jax.lax.cond(jnp.any(fresh), lambda s: prepare(work, s), lambda s: s, state)
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

    return per_device(jax.tree.map(settle, state, before), lambda leaf: leaf[None])


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
