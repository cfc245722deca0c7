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
      ValueError: `ball` already differs by row, the mask has fewer than three axes, or (when the
        attack is traced) it does not fit the images.
    """
    mask = jnp.asarray(mask) != 0
    if mask.ndim - (per_row is True) < 1 or (per_row is None and mask.ndim == 2):
        raise ValueError(
            "mask: expected [H, W, 1] or [H, W, C] for all images, or [B, H, W, 1] or "
            f"[B, H, W, C] for one each, got {mask.shape}; add the channel axis: mask[..., None]"
        )
    if ball.rows is not None:
        raise ValueError("mask: the ball has a mask per row already; combine the masks first")
    if per_row is None:
        per_row = mask.ndim >= 4
    name = f"{ball.name}-masked"
    if per_row:
        return ball._replace(name=name, rows=(lambda row: _restrict(ball, row, name), mask))
    return _restrict(ball, mask, name)


def _check_fit(mask: Array, x0: Array) -> None:
    """Refuse a mask that would broadcast an image to another shape."""
    try:
        fits = jnp.broadcast_shapes(mask.shape, x0.shape) == x0.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"mask: {mask.shape} does not fit one image of {x0.shape}; one mask for all is "
            "[H, W, 1], one per image [B, H, W, 1] (add the channel axis: mask[..., None])"
        )


def _restrict(ball: Ball, mask: Array, name: str) -> Ball:
    def inside(values: Array, outside: Array | float) -> Array:
        _check_fit(mask, values)
        return jnp.where(mask, values, outside)

    def project(x: Array, x0: Array, eps: Array) -> Array:
        return inside(ball.project(inside(x, x0), x0, eps), x0)

    def sample(key: Array, x0: Array, eps: Array) -> Array:
        return inside(ball.sample(key, x0, eps), x0)

    def steepest(g: Array) -> Array:
        return ball.steepest(inside(g, 0))

    def dual_norm(g: Array) -> Array:
        return ball.dual_norm(inside(g, 0))

    return ball._replace(
        name=name, project=project, sample=sample, steepest=steepest, dual_norm=dual_norm
    )
