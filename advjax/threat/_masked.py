"""A ball whose perturbation lives in a region of interest."""

import jax.numpy as jnp

from advjax.types import Array, Ball


def masked(ball: Ball, mask: Array, *, per_row: bool | None = None) -> Ball:
    """Restrict a ball to the pixels where `mask` is true; every other pixel stays as it is.

    Args:
      ball: any ball.
      mask: boolean (or zero / non-zero) array that broadcasts against one example `[H, W, C]`
        (`[H, W, 1]`, `[H, W, C]`), or one mask per row: `[B, H, W, 1]` or `[B, H, W, C]`.
      per_row: whether the leading axis of `mask` is the row axis; None: it is for 4 axes.

    Returns:
      A `Ball` with the norm, the bounds and the name of `ball`.

    Raises:
      ValueError: `ball` already differs by row, or the mask has no axis.
    """
    mask = jnp.asarray(mask) != 0
    if mask.ndim == 0:
        raise ValueError("mask: expected an array over the pixels, got a scalar")
    if ball.rows is not None:
        raise ValueError("mask: the ball has a mask per row already; combine the masks first")
    if per_row is None:
        per_row = mask.ndim >= 4
    name = f"{ball.name}-masked"
    if per_row:
        return ball._replace(name=name, rows=(lambda row: _restrict(ball, row, name), mask))
    return _restrict(ball, mask, name)


def _restrict(ball: Ball, mask: Array, name: str) -> Ball:
    def project(x: Array, x0: Array, eps: Array) -> Array:
        projected = ball.project(jnp.where(mask, x, x0), x0, eps)
        return jnp.where(mask, projected, x0)

    def sample(key: Array, x0: Array, eps: Array) -> Array:
        return jnp.where(mask, ball.sample(key, x0, eps), x0)

    def steepest(g: Array) -> Array:
        return ball.steepest(jnp.where(mask, g, 0))

    def dual_norm(g: Array) -> Array:
        return ball.dual_norm(jnp.where(mask, g, 0))

    return ball._replace(
        name=name, project=project, sample=sample, steepest=steepest, dual_norm=dual_norm
    )
