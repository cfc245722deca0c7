"""The l1 rule of APGD (Croce and Hein 2021, "Mind the box"): sparse steps of adaptive sparsity.

The sparsity of a point is a count of values that are not exactly those of the image, and a step
changes two thirds as many as the best point has changed, rounded up.
"""

from typing import NamedTuple

import jax.numpy as jnp

from advjax.attacks._phases import When
from advjax.threat._sparse import threshold
from advjax.types import Array, Ball

SPARSER = 0.95  # fewer changed values than this share of those before are progress
SHRINK, LEAST = 1.5, 0.1  # of the step, where there was none; its lower end


class SparseState(NamedTuple):
    """Memory of one row.

    Attributes:
      x_best, g_best: `[...]`, the point of the highest loss and its gradient.
      loss_best: `[]`.
      size: `[]`, step in units of the first one.
      changed: `[]` int32, values that the best point changed at the last check.
      skipped: `[]` int32, values that a step leaves alone: those of the smallest gradients.
      measured: `[]` bool, whether the sparsity of the start counts (it was given, or projected).
    """

    x_best: Array
    g_best: Array
    loss_best: Array
    size: Array
    changed: Array
    skipped: Array
    measured: Array


def sparse_state(x0: Array, measured: bool) -> SparseState:
    """Return the memory of all rows before the first evaluation, `x0 [B, ...]`."""
    rows = x0.shape[:1]
    zeros = jnp.zeros(rows, jnp.int32)
    return SparseState(
        x_best=x0, g_best=jnp.zeros_like(x0),
        loss_best=jnp.full(rows, -jnp.inf, jnp.promote_types(x0.dtype, jnp.float32)),
        size=jnp.ones(rows, x0.dtype), changed=zeros, skipped=zeros,
        measured=jnp.full(rows, measured),
    )  # fmt: skip


def sparse_direction(
    ball: Ball, x: Array, x0: Array, g: Array, loss: Array, when: When, memory: SparseState
) -> tuple[Array, Array, SparseState]:
    """Take note of one evaluation; maybe go back to the best point; return where to go from it.

    Returns:
      The point to move from, the direction (its l1 norm is the size of the step in units of the
      first one), and the new memory.
    """
    movable = _movable(ball, x0)
    total = jnp.sum(movable, dtype=jnp.int32)
    fresh = when.since == 0
    loss = jnp.where(jnp.isfinite(loss), loss, -jnp.inf).astype(memory.loss_best.dtype)
    better = fresh | (loss > memory.loss_best)
    x_best, g_best = jnp.where(better, x, memory.x_best), jnp.where(better, g, memory.g_best)

    changed = jnp.sum(x_best != x0, dtype=jnp.int32)
    skipped = _skipped(changed, total, x.dtype)
    # a start of our own is dense: a fifth of the values move until the first check
    measured = memory.measured | (when.phase > 0)
    changed_first = jnp.where(measured, changed, total)
    skipped_first = jnp.where(measured, skipped, 4 * total // 5)

    check = when.check & ~fresh
    sparser = changed < SPARSER * memory.changed
    size = jnp.where(sparser, 1, jnp.maximum(memory.size / SHRINK, LEAST)).astype(x.dtype)
    back = check & sparser
    x, g = jnp.where(back, x_best, x), jnp.where(back, g_best, g)
    memory = SparseState(
        x_best=x_best, g_best=g_best, loss_best=jnp.where(better, loss, memory.loss_best),
        size=jnp.where(fresh, 1, jnp.where(check, size, memory.size)),
        changed=jnp.where(fresh, changed_first, jnp.where(check, changed, memory.changed)),
        skipped=jnp.where(fresh, skipped_first, jnp.where(check, skipped, memory.skipped)),
        measured=memory.measured,
    )  # fmt: skip
    return x, memory.size * _largest_signs(g, movable, memory.skipped), memory


def _skipped(changed: Array, total: Array, dtype: jnp.dtype) -> Array:
    """Return how many values a step leaves alone, where the best point has changed so many."""
    share = changed.astype(dtype) / total / SHRINK
    return jnp.clip(jnp.floor((1 - share) * total).astype(jnp.int32), 0, total - 1)


def project_in_float32(ball: Ball) -> Ball:
    """Return the l1 ball as one that projects in float32 in a float64 trace too; others as given.

    As the official code does. What is taken back keeps a rounding error there, and counts as
    changed until a later projection takes that back too: an exact projection in float64 makes
    sparser steps than published, which are stronger after 20 steps and alike after 100.
    """
    if ball.name != "l1":
        return ball

    def project(x: Array, x0: Array, eps: Array) -> Array:
        if x.dtype != jnp.float64:
            return ball.project(x, x0, eps)
        away = x - x0
        low, high, centre, moved, radius = (
            jnp.asarray(a, jnp.float32) for a in (*ball.bounds, x0, away, eps)
        )
        size = jnp.abs(moved)
        beyond = jnp.maximum(jnp.maximum(centre + moved - high, low - centre - moved), 0)
        back = jnp.clip(threshold(size, size - beyond, radius), beyond, size)
        # a start that was projected in float32 is inside
        inside = jnp.sum(size - beyond) <= radius * (1 + 1e-6)
        new = x0 + away - jnp.sign(away) * jnp.where(inside, beyond, back)
        return jnp.clip(new, *(jnp.asarray(b, x.dtype) for b in ball.bounds))

    return ball._replace(project=project)


def _largest_signs(g: Array, movable: Array, skipped: Array) -> Array:
    """Return the signs of the largest gradients, divided by their number."""
    size = jnp.where(movable, jnp.abs(g), -1).ravel()
    fixed = size.size - jnp.sum(movable)
    least = jnp.sort(size)[jnp.minimum(fixed + skipped, size.size - 1)]
    signs = jnp.where(movable & (jnp.abs(g) >= least), jnp.sign(g), 0)
    number = jnp.sum(jnp.abs(signs))
    return signs / jnp.where(number > 0, number, 1)


def _movable(ball: Ball, x0: Array) -> Array:
    """Return which values the ball lets change: all of them, but for a mask."""
    if ball.name == "l1":
        return jnp.ones(x0.shape, jnp.bool_)
    low, high = (jnp.asarray(b, x0.dtype) for b in ball.bounds)
    far = jnp.where(x0 - low > high - x0, low, high)
    return ball.project(far, x0, jnp.asarray(jnp.inf, x0.dtype)) != x0
