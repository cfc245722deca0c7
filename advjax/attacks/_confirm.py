"""Successes that a stand-in claims are judged by the model itself before they count."""

import jax
import jax.numpy as jnp

from advjax.types import Array, Eval, Objective, Target

_FEWEST = 8  # rows judged at once; a smaller batch is hardly cheaper


def confirm(
    objective: Objective, claimed: Eval, asked: Array, x: Array, target: Target, keys: Array
) -> Eval:
    """Judge the rows of `asked` and believe no other row's success.

    In chunks of an eighth of the batch, so that few claims cost little and none cost nothing.

    Args:
      objective: whose `judge` decides.
      claimed: what the stand-in says of `x`, leaves `[B]`.
      asked: `[B]` bool, rows to judge.
      x: `[B, ...]` the points.
      target: leaves `[B, ...]`.
      keys: `[B]`, those with which `claimed` was computed: a random model is judged as it was.

    Returns:
      `claimed` with loss and success of `judge` where asked, and no success elsewhere.
    """
    rows = x.shape[0]
    size = min(rows, max(_FEWEST, rows // 8))
    order = jnp.argsort(~asked, stable=True)
    number = jnp.sum(asked, dtype=jnp.int32)

    def judge_some(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        left, loss, success = carry
        place = number - left + jnp.arange(size, dtype=jnp.int32)
        at = order[jnp.minimum(place, rows - 1)]
        found = objective.judge(x[at], jax.tree.map(lambda leaf: leaf[at], target), keys[at])
        to = jnp.where(place < number, at, rows)
        loss = loss.at[to].set(found.loss.astype(loss.dtype), mode="drop")
        return left - size, loss, success.at[to].set(found.success, mode="drop")

    loss = claimed.loss.astype(jnp.promote_types(claimed.loss.dtype, jnp.float32))
    # counted down from a number that differs by device, as a loop under shard_map wants it
    _, loss, success = jax.lax.while_loop(
        lambda carry: carry[0] > 0, judge_some, (number, loss, claimed.success & asked)
    )
    return claimed._replace(loss=loss, success=success)
