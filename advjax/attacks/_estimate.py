"""SPSA and NES: steps along gradients that are estimated from values of the loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from advjax import tree
from advjax.attacks._directions import steepest
from advjax.attacks._kernel import build_attack
from advjax.attacks._search import passes, split_rows
from advjax.attacks._smia import step_transform
from advjax.threat import over_rows
from advjax.types import Array, Attack, Ball, Cost, Eval, Objective, PyTree, Target

NoiseFn = Callable[..., Array]  # (key, shape, dtype) -> noise


def spsa(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 100,
    num_samples: int = 128,
    delta: float = 0.01,
    step_size: float | None = None,
    step_size_abs: Array | float | None = None,
    chunk: int | None = None,
    random_start: bool = False,
    keep: str = "best",
) -> Attack:
    """SPSA of Uesato et al. (2018): Adam on slopes along random signs, then a projection.

    The gradient is the mean of `(J(x + delta v) - J(x - delta v)) / (2 delta) * v` over vectors v
    of random signs. Pixels outside of a mask are not disturbed, and no point that is asked for
    leaves the bounds. The loss is that of the objective; the published one is the margin,
    `objective.with_loss(losses.cw_margin)`.

    Args:
      objective: from `attacks.from_logits`; its forward pass is all that is used.
      ball: the threat model.
      num_steps: moves; each costs `num_samples + 1` forward passes, and one is spent at the end.
      num_samples: points asked for each gradient, two for each vector; even.
      delta: how far they are away, in pixel units.
      step_size: of Adam, relative to eps; None: 0.01 in pixel units, as published.
      step_size_abs: of Adam, in pixel units, scalar or `[B]`, instead of `step_size`.
      chunk: points of each image in one batch, which saves memory; even, and a divisor of
        `num_samples`. None: all of them, `B * num_samples` at once.
      random_start: start at a random point of the ball.
      keep: `"best"` or `"last"`.

    Raises:
      ValueError: both step sizes are given, `num_steps` is below 1, `num_samples` or `chunk` is
        odd or does not fit, or `delta` is not positive.
    """
    if step_size is None and step_size_abs is None:
        step_size_abs = 0.01
    scale, row_args = step_transform(step_size, step_size_abs, 1.0)
    estimated = with_estimated_gradient(
        objective, ball, jax.random.rademacher, num_samples=num_samples, delta=delta, chunk=chunk
    )
    return build_attack(
        estimated, optax.chain(optax.scale_by_adam(), scale), ball, num_steps=num_steps,
        random_start=random_start, keep=keep, row_args=row_args, name="spsa",
    )  # fmt: skip


def nes(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 100,
    num_samples: int = 100,
    delta: float = 0.01,
    step_size: float | None = None,
    step_size_abs: Array | float | None = None,
    chunk: int | None = None,
    random_start: bool = False,
    keep: str = "best",
) -> Attack:
    """NES of Ilyas et al. (2018): PGD on slopes along pairs of opposite Gaussian vectors.

    Args: as `spsa`, with normal vectors instead of signs, and
      num_samples: 100 in the published setting.
      step_size: relative to eps, of a step of steepest ascent (the sign, or the unit vector);
        None: `2.5 / num_steps`, at most 1, as `pgd`.

    Raises:
      ValueError: as `spsa`.
    """
    scale, row_args = step_transform(step_size, step_size_abs, min(1.0, 2.5 / max(num_steps, 1)))
    estimated = with_estimated_gradient(
        objective, ball, jax.random.normal, num_samples=num_samples, delta=delta, chunk=chunk
    )
    return build_attack(
        estimated, optax.chain(steepest(), scale), ball, num_steps=num_steps,
        random_start=random_start, keep=keep, row_args=row_args, name="nes",
    )  # fmt: skip


def with_estimated_gradient(
    objective: Objective,
    ball: Ball,
    noise: NoiseFn,
    *,
    num_samples: int,
    delta: float,
    chunk: int | None = None,
) -> Objective:
    """Replace the gradient of an objective by slopes along pairs of opposite random vectors.

    Any attack that is built on the result is a black-box attack; its backward passes are none.

    Args:
      objective: whose `judge` is asked.
      ball: says which pixels can move and within which bounds.
      noise: `(key, shape, dtype) -> vector` of independent entries of mean 0 and variance 1.
      num_samples: points for each gradient, two for each vector.
      delta: length of the vectors in units of `noise`.
      chunk: points of each row in one batch; None: all.

    Raises:
      ValueError: `num_samples` or `chunk` is odd or does not fit, or `delta` is not positive.
    """
    size = num_samples if chunk is None else chunk
    if size < 2 or size % 2 or num_samples % size:
        raise ValueError(
            "num_samples must be even and at least 2, and chunk an even divisor of it, got "
            f"{num_samples} and {chunk}"
        )
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
    rows, pairs = over_rows(ball), size // 2

    def slopes(x: Array, target: Target, movable: Array, keys: Array, number: Array) -> Array:
        ids = number * pairs + jnp.arange(pairs)
        return _slopes(objective, ball, noise, delta, x, target, movable, keys, ids)

    def estimate(x: Array, target: Target, keys: Array) -> Array:
        movable = (rows.steepest(jnp.ones_like(x)) != 0).astype(x.dtype)
        if size == num_samples:
            total = slopes(x, target, movable, keys, jnp.int32(0))
        else:
            total = jax.lax.fori_loop(
                0, num_samples // size,
                lambda i, sums: sums + slopes(x, target, movable, keys, i),
                tree.vary_like(jnp.zeros_like(x), x),
            )  # fmt: skip
        return total / (num_samples // 2)

    def evaluate(x: Array, target: Target, state: PyTree, keys: Array) -> tuple[Eval, PyTree]:
        still = jax.lax.stop_gradient(x)
        asked, drawn = split_rows(keys, 2)
        evaluation = objective.judge(still, target, asked)
        g = estimate(still, target, drawn)
        # worth nothing, but its gradient is the estimate
        nothing = jnp.sum(g * (x - still), axis=tuple(range(1, x.ndim)))
        return evaluation._replace(ascent=evaluation.ascent + nothing), state

    return objective._replace(
        evaluate=evaluate,
        cost=Cost((num_samples + 1) * passes(objective), 0),
        deterministic=False,
        stationary=False,
        with_loss=lambda loss: with_estimated_gradient(
            objective.with_loss(loss), ball, noise, num_samples=num_samples, delta=delta,
            chunk=chunk,
        ),
        plain=False,
        # loss and success come from `judge` already
        approximate=False,
    )  # fmt: skip


def _slopes(
    objective: Objective, ball: Ball, noise: NoiseFn, delta: float, x: Array, target: Target,
    movable: Array, keys: Array, ids: Array,
) -> Array:  # fmt: skip
    """Return the sum of slopes times vectors, `[B, ...]`, over the pairs of these `ids`."""
    num = len(ids)
    pair_keys = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(ids))(keys)
    split = jax.vmap(jax.vmap(jax.random.split))(pair_keys)  # [B, num, 2]

    def vector(key: Array) -> Array:
        return noise(key, x.shape[1:], x.dtype)

    v = jax.vmap(jax.vmap(vector))(split[..., 0]) * movable[:, None]
    low, high = (jnp.asarray(bound, x.dtype) for bound in ball.bounds)
    both = jnp.stack([x[:, None] + delta * v, x[:, None] - delta * v], 1)
    points = jnp.clip(both, low, high).reshape(-1, *x.shape[1:])
    # a random model draws the same for both points of a pair
    asked = jnp.broadcast_to(split[:, None, :, 1], (x.shape[0], 2, num)).reshape(-1)
    targets = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2 * num, axis=0), target)
    loss = objective.judge(points, targets, asked).loss.reshape(-1, 2, num)
    slope = ((loss[:, 0] - loss[:, 1]) / (2 * delta)).astype(x.dtype)
    return jax.vmap(lambda weights, vectors: jnp.tensordot(weights, vectors, 1))(slope, v)
