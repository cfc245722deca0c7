"""The one place where the functions of a ball are batched."""

from collections.abc import Callable
from typing import Any

import jax

from advjax.types import Array, Ball


def over_rows(ball: Ball) -> Ball:
    """Return the ball with batched functions: every argument gains a leading row axis `[B]`.

    Args:
      ball: a ball of one example, or one that differs by row (`threat.masked` with `[B, ...]`).

    Returns:
      A `Ball` whose `project(x [B, ...], x0 [B, ...], eps [B])`, `sample(keys [B], x0, eps)`,
      `steepest(g)`, `distance(x, x0) -> [B]` and `dual_norm(g) -> [B]` act row by row.
    """

    def batched(name: str) -> Callable[..., Array]:
        if ball.rows is None:
            return jax.vmap(getattr(ball, name))
        bind, context = ball.rows

        def one(row: Any, *args: Array) -> Array:
            return getattr(bind(row), name)(*args)

        return lambda *args: jax.vmap(one)(context, *args)

    return ball._replace(
        rows=None,
        project=batched("project"),
        sample=batched("sample"),
        steepest=batched("steepest"),
        distance=batched("distance"),
        dual_norm=batched("dual_norm"),
    )
