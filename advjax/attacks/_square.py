"""Square (Andriushchenko et al. 2020): random search with square windows, no gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks import _square_l2
from advjax.attacks._search import image_shape, norm_name, random_search, with_sample
from advjax.attacks._windows import covered, offsets, place, region_of, side_of
from advjax.types import Array, Attack, Ball, Objective, PyTree

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # candidates, of 10000


def schedule(num_steps: int, p_init: float, rescale: bool) -> np.ndarray:
    """Return `[num_steps + 1]`: the share of the image that the window covers, step by step."""
    steps = np.arange(num_steps + 1)
    if rescale:
        steps = (steps / num_steps * 10000).astype(int)
    return p_init / 2.0 ** np.searchsorted(HALVED_AFTER, steps, side="left")


def square(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 5000,
    p_init: float = 0.8,
    rescale_schedule: bool = False,
) -> Attack:
    """Square of Andriushchenko et al. (2020), in the l-infinity and the Euclidean ball.

    The start is made of vertical stripes of +-eps (l-infinity), or of a grid of pyramids. Each
    step asks the model for one point, keeps it when it raises the loss or is the first success,
    and changes the best point in a random window: to +-eps, one sign for each channel, or
    (Euclidean) by moving the mass of a second window into a pyramid in the first. What is best is
    what the kernel keeps; under `stop="success"` a row ends with its first success.

    It ascends the loss of the objective and knows no other. The published one is the margin:
    `objective.with_loss(losses.cw_margin)`; for targeted attacks, cross entropy.

    Every row draws windows of its own, where the official code shares one among the batch, and
    from all positions, where the official code leaves out the last one of each axis. A window
    that is larger than an axis is cut to it, so that any height and width will do. With a mask,
    windows lie in the smallest rectangle around it, which is then what `p_init` is a share of.

    Args:
      objective: from `attacks.from_logits`; its forward pass is all that is used.
      ball: the threat model, for images `[B, H, W, C]` or vectors `[B, D]`.
      num_steps: the budget of queries, but for the one of the start: a run without success costs
        `num_steps + 1` forward passes.
      p_init: share of the image that the first windows cover.
      rescale_schedule: the share is halved after 10, 50, 200, ... 8000 candidates; True: after
        the same parts of `num_steps` as those are of 10000, as in the paper. False is what
        AutoAttack does.

    Raises:
      ValueError: `num_steps` is below 1, `p_init` is not in (0, 1], the norm of the ball is
        another one, or (when the attack is traced) the examples have another rank.
    """
    if not 0 < p_init <= 1:
        raise ValueError(f"p_init must be in (0, 1], got {p_init}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    shares = schedule(num_steps, p_init, rescale_schedule)
    euclidean = norm_name(ball, "square") == "l2"
    change = _square_l2.change if euclidean else _change
    start = _square_l2.start if euclidean else _start

    def candidate(
        ball_: Ball, key: Array, best: Array, x0: Array, eps: Array, step: Array,
        accepted: Array, memory: PyTree,
    ) -> tuple[Array, PyTree]:  # fmt: skip
        del accepted
        share = jnp.asarray(shares, x0.dtype)[jnp.minimum(step, num_steps)]
        return change(ball_, key, best, x0, eps, share), memory

    return random_search(
        objective, with_sample(ball, start), candidate, lambda x0: (), num_steps=num_steps,
        name="square", random_start=True,
    )  # fmt: skip


def _start(ball: Ball, key: Array, x0: Array, eps: Array) -> Array:
    """Stripes along the height: one sign for each column and channel."""
    _, width, channels = image_shape(x0, "square")
    signs = jax.random.rademacher(key, (1, width, channels), x0.dtype)
    signs = jnp.broadcast_to(signs, image_shape(x0, "square")).reshape(x0.shape)
    return ball.project(x0 + eps * signs, x0, eps)


def _change(ball: Ball, key: Array, best: Array, x0: Array, eps: Array, share: Array) -> Array:
    """Set a random window to +-eps, one sign for each channel."""
    key_place, key_sign = jax.random.split(key)
    region = region_of(ball, x0, "square")
    sides = jnp.minimum(side_of(region, share), region.extent)
    window = covered(*offsets(region, place(key_place, region, sides)), sides)
    shape = region.movable.shape
    signs = jax.random.rademacher(key_sign, (1, 1, shape[2]), x0.dtype)
    moved = x0 + eps * jnp.broadcast_to(signs, shape).reshape(x0.shape)
    window = jnp.broadcast_to(window, shape).reshape(x0.shape)
    return jnp.where(window, ball.project(moved, x0, eps), best)
