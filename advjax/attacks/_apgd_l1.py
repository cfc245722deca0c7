"""The l1 rule of APGD (Croce and Hein 2021, "Mind the box"): sparse steps of adaptive sparsity.

The sparsity of a point is a count of values that are not exactly those of the image, and a step
changes two thirds as many as the best point has changed, rounded up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks._phases import When
from advjax.types import Array, Ball

SPARSER = 0.95  # fewer changed values than this share of those before are progress
SHRINK, LEAST = 1.5, 0.1  # of the step, where there was none; its lower end
NONZERO = 1e-10  # beside a number of values, as in the official code: it decides roundings
LANES, ROWS, LEVELS = 8, 4, 4  # of PyTorch's sums on a CPU


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
    sparser = changed / memory.changed.astype(x.dtype) < SPARSER
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
    # divisors that look different in every row, and no quotient of a quotient: XLA multiplies by
    # inverses and by products otherwise, which rounds to other counts
    total_of_row, shrink_of_row = (
        jnp.where(changed >= 0, divisor, 1).astype(dtype) for divisor in (total, SHRINK)
    )
    share = jax.lax.optimization_barrier(changed.astype(dtype) / total_of_row) / shrink_of_row
    return jnp.clip(jnp.floor((1 - share) * total).astype(jnp.int32), 0, total - 1)


def project_in_float32(ball: Ball, slack: float = 0.0) -> Ball:
    """Return the l1 ball as one that projects in float32 in a float64 trace too; others as given.

    As the official code does, down to the order in which PyTorch adds on a CPU: what is taken back
    keeps a rounding error, and counts as changed until a later projection takes that back too. An
    exact projection in float64 makes sparser steps than published, which are stronger after 20
    steps and alike after 100; other orders of additions part from the published iterates. What is
    above eps by a share of `slack` is inside: a start that was itself projected in float32.
    """
    if ball.name != "l1":
        return ball

    def project(x: Array, x0: Array, eps: Array) -> Array:
        if x.dtype != jnp.float64:
            return ball.project(x, x0, eps)
        away = x - x0
        back = _taken_back(away, x0, eps, slack, *ball.bounds)
        return jnp.clip(x0 + away - back, *(jnp.asarray(b, x.dtype) for b in ball.bounds))

    return ball._replace(project=project)


def _taken_back(away: Array, x0: Array, eps: Array, slack: float, low: Array, high: Array) -> Array:
    """Return by how much the projection shortens the changes `away`, in float32."""
    low, high, centre, moved, eps = (
        jnp.asarray(a, jnp.float32) for a in (low, high, x0, away, eps)
    )
    size = jnp.abs(moved)
    beyond = -jnp.minimum(jnp.minimum(high - centre - moved, centre + moved - low), 0)
    room, most = _channels_first(beyond), _channels_first(size)
    # takes by which a value starts and stops to be shortened, in ascending order
    takes, kind = jax.lax.sort(
        (jnp.concatenate([room, most]), jnp.arange(2 * room.size) < room.size), num_keys=1
    )
    under_way = jnp.cumsum(2.0 * kind - 1, dtype=jnp.float32)
    gaps = (jnp.append(takes[1:], 0) - takes) * under_way
    taken = sum_as_torch(room) + jnp.cumsum(gaps, dtype=jnp.float64).astype(jnp.float32)
    excess = eps - sum_as_torch(most)
    piece = jnp.clip(jnp.sum(taken + excess < 0) - 1, 0, taken.size - 2)
    level = (-taken[piece] - excess) / under_way[piece + 1] + takes[piece + 1]
    inside = sum_as_torch(room) + excess >= -slack * eps
    return jnp.sign(moved) * jnp.where(inside, beyond, jnp.clip(level, beyond, size))


def _channels_first(values: Array) -> Array:
    """Return the values of one image in the order of the official code."""
    return (jnp.moveaxis(values, -1, 0) if values.ndim > 1 else values).ravel()


def sum_as_torch(values: Array) -> Array:
    """Add up `values [D]` in the order of PyTorch's sums on a CPU with 8 lanes of float32.

    Four rows of lanes at once, in blocks, in blocks of blocks and so on, then rows, tail and lanes.
    """
    whole = values.size // LANES
    vectors = values[: whole * LANES].reshape(whole, LANES)
    tall = whole // ROWS
    block = 1 << max(4, max(tall - 1, 0).bit_length() // LEVELS)
    left = vectors[: tall * ROWS].reshape(tall, ROWS, LANES)
    parts = []
    for _ in range(LEVELS - 1):
        full = len(left) // block * block
        parts.append(_one_by_one(left[full:]))
        left = _one_by_one(left[:full].reshape(-1, block, ROWS, LANES).swapaxes(0, 1))
    rows = _one_by_one(jnp.stack([*parts, _one_by_one(left)]))
    lanes = _one_by_one(jnp.concatenate([rows[:1], vectors[tall * ROWS :], rows[1:]]))
    return _one_by_one(jnp.concatenate([values[whole * LANES :], lanes]))


def _one_by_one(terms: Array) -> Array:
    """Add up the first axis from the front."""
    start = jnp.zeros(terms.shape[1:], terms.dtype)
    return jax.lax.scan(lambda total, term: (total + term, None), start, terms)[0]


def _largest_signs(g: Array, movable: Array, skipped: Array) -> Array:
    """Return the signs of the largest gradients, divided by their number."""
    size = jnp.where(movable, jnp.abs(g), -1).ravel()
    fixed = size.size - jnp.sum(movable)
    least = jnp.sort(size)[jnp.minimum(fixed + skipped, size.size - 1)]
    signs = jnp.where(movable & (jnp.abs(g) >= least), jnp.sign(g), 0)
    return signs / (jnp.sum(jnp.abs(signs)) + NONZERO)


def _movable(ball: Ball, x0: Array) -> Array:
    """Return which values the ball lets change: all of them, but for a mask."""
    if ball.name == "l1":
        return jnp.ones(x0.shape, jnp.bool_)
    low, high = (jnp.asarray(b, x0.dtype) for b in ball.bounds)
    far = jnp.where(x0 - low > high - x0, low, high)
    return ball.project(far, x0, jnp.asarray(jnp.inf, x0.dtype)) != x0
