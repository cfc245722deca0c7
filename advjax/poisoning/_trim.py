"""Linear regression on the part of the data that agrees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.random import typed
from advjax.types import Array


class TrimResult(NamedTuple):
    """A linear regression and the points that it rests on.

    Attributes:
      weights: `[D]`; `bias`: `[]`.
      kept: `[N]` bool, `num_kept` of them.
      loss: `[]`, the sum of squared residuals of the kept points, and the ridge's part.
    """

    weights: Array
    bias: Array
    kept: Array
    loss: Array


def trim(
    x: Array,
    y: Array,
    *,
    num_kept: int,
    key: Array,
    ridge: float | Array = 0.0,
    num_restarts: int = 16,
    num_steps: int = 50,
) -> TrimResult:
    """Fit a ridge regression to the `num_kept` points that it fits best (TRIM).

    In turn, the regression of the chosen points is solved and the points of the smallest residuals
    are chosen, which never raises the loss (Jagielski et al. 2018, section V, algorithm 2). Each
    restart begins with D + 2 points: a few points are more likely to be clean than the many of
    the paper's start. The best of all ends is returned.

    Args:
      x: `[N, D]` features, of similar scale where `ridge` is not 0.
      y: `[N]` responses.
      num_kept: how many points are not poisoned, at the least: N minus as many as may be.
      key: one key.
      ridge: what is multiplied with the squared length of the weights; the bias is free.
      num_restarts: ends that are compared, all at once.
      num_steps: turns of each; far more than are ever used.

    Returns:
      `TrimResult`.

    Raises:
      ValueError: shapes do not fit, values are not finite, or `num_kept` is not within
        D + 2 and N.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"x, y: expected [N, D] and [N], got {list(x.shape)} and {list(y.shape)}")
    total, width = x.shape
    if not width + 2 <= num_kept <= total:
        raise ValueError(
            f"num_kept: must be within D + 2 = {width + 2} and N = {total}, got {num_kept}"
        )
    traced = isinstance(x, jax.core.Tracer) or isinstance(y, jax.core.Tracer)
    if not traced and not (jnp.isfinite(x).all() and jnp.isfinite(y).all()):
        raise ValueError("x, y: have values that are NaN or infinite; leave those points out")
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    rows = jnp.concatenate([x, jnp.ones((total, 1))], 1).astype(dtype)
    extra = jnp.diag(jnp.sqrt(jnp.full(width + 1, ridge, dtype)).at[-1].set(0))
    nothing = jnp.zeros(width + 1, dtype)

    def solve(kept: Array) -> Array:
        system = jnp.concatenate([jnp.where(kept[:, None], rows, 0), extra])
        answers = jnp.concatenate([jnp.where(kept, y.astype(dtype), 0), nothing])
        return jnp.linalg.lstsq(system, answers)[0]

    def choose(weights: Array) -> tuple[Array, Array]:
        residuals = (y - rows @ weights) ** 2
        order = jnp.argsort(residuals)
        kept = jnp.zeros(total, bool).at[order[:num_kept]].set(True)
        return kept, jnp.sum(jnp.where(kept, residuals, 0)) + ridge * jnp.sum(weights[:-1] ** 2)

    def once(key: Array) -> TrimResult:
        few = jax.random.choice(key, total, (width + 2,), replace=False)
        first, _ = choose(solve(jnp.zeros(total, bool).at[few].set(True)))
        turn = lambda _, kept: choose(solve(kept))[0]
        kept = jax.lax.fori_loop(0, num_steps, turn, first)
        weights = solve(kept)
        kept, loss = choose(weights)
        return TrimResult(weights[:-1], weights[-1], kept, loss)

    ends = jax.lax.map(once, jax.random.split(typed(key), num_restarts))
    return jax.tree.map(lambda leaf: leaf[jnp.argmin(ends.loss)], ends)
