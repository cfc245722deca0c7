"""Which of the points that a run evaluated is its result."""

import jax.numpy as jnp

from advjax import tree
from advjax.types import Array, AttackSpec, AttackState, Ball, Eval, Target


def _rank(loss: Array) -> Array:
    return jnp.where(jnp.isfinite(loss), loss, -jnp.inf)


def needs_judgement(spec: AttackSpec, state: AttackState, new: Eval) -> Array:
    """Return `[B]`: claims that would be kept, and points after the last move, claimed or not.

    The engine judges those by one more step; as in `finalize`, a success there is not missed.
    """
    kept = ~state.success | (_rank(new.loss) >= _rank(state.best_loss)) | spec.minimal
    return (new.success & kept) | (state.step == spec.num_steps)


def judge_best(spec: AttackSpec, state: AttackState, target: Target, keys: Array) -> AttackState:
    """Judge the best points of the rows that failed: their losses are those of a stand-in."""
    exact = spec.objective.judge(state.best_x, target, keys)
    loss = exact.loss.astype(state.best_loss.dtype)
    return state._replace(
        best_loss=jnp.where(state.success, state.best_loss, loss),
        success=state.success | exact.success,
    )


def is_better(spec: AttackSpec, state: AttackState, new: Eval) -> Array:
    """Return `[B]`: the current point, of which `new` speaks, beats the best one so far."""
    rank, before = _rank(new.loss.astype(state.best_loss.dtype)), _rank(state.best_loss)
    tied = (rank == before) if spec.ties == "later" else (state.num_queries == 0)
    higher = (new.success == state.success) & ((rank > before) | tied)
    return higher | (new.success & ~state.success)


def keep_best(
    spec: AttackSpec, state: AttackState, new: Eval, active: Array
) -> tuple[Array, Array, Array]:
    """Return the better of the best point so far and the current one, for active rows."""
    better = active & is_better(spec, state, new)
    best_x = tree.where(better, state.x, state.best_x)
    loss = jnp.where(better, new.loss.astype(state.best_loss.dtype), state.best_loss)
    return best_x, loss, state.success | (active & new.success)


def keep_closest(
    rows: Ball, state: AttackState, new: Eval, x0: Array, eps: Array
) -> tuple[Array, Array, Array]:
    """Return the nearest success within eps so far, or the start where there is none."""
    distance = rows.distance(state.x, x0)
    found = new.success & (distance <= eps)
    better = found & (~state.success | (distance < rows.distance(state.best_x, x0)))
    better = better | (state.num_queries == 0)
    best_x = tree.where(better, state.x, state.best_x)
    loss = jnp.where(better, new.loss.astype(state.best_loss.dtype), state.best_loss)
    return best_x, loss, state.success | found
