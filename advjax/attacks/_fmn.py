"""FMN (Pintor et al. 2021): a ball whose radius follows the boundary while PGD walks on it."""

from typing import NamedTuple

import jax.numpy as jnp

from advjax import threat
from advjax.attacks._kernel import Proposal, assemble, with_row_ball
from advjax.attacks._minimal import check_norm, farthest, margin, minimal_spec, observe
from advjax.types import Array, Attack, AttackState, Ball, Objective, Target

_euclidean = threat.l2()


class FmnState(NamedTuple):
    """Memory of one row.

    Attributes:
      radius: `[]`, of the ball on which the last point was projected.
      nearest: `[]`, distance of the nearest success so far, else inf.
    """

    radius: Array
    nearest: Array


def fmn(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 100,
    init_step: float = 1.0,
    last_step: float = 0.01,
    init_gamma: float = 0.05,
    last_gamma: float = 0.001,
) -> Attack:
    """FMN (Pintor et al. 2021): the smallest perturbation in the l0, l1, l2 or l-infinity norm.

    Each move goes a step along the gradient of the margin (best other logit minus the true one),
    then projects on a ball. Its radius is, before the first success, where the margin would vanish
    to first order, a share of `last_gamma` farther (else rounding can keep a point just short of
    the boundary for ever); from then on it shrinks by gamma after a success, to the nearest one at
    least, and grows by gamma after a failure. In l0 it changes by at least one.

    Args:
      objective: from `attacks.from_logits`; whatever loss was given, the margin is ascended.
      ball: of norm `linf`, `l2`, `l1` or `l0`, masked or not. Images are `[B, ...]`, usually
        `[B, H, W, C]` in [0, 1].
      num_steps: moves.
      init_step: Euclidean length of the first step, in pixel units.
      last_step: of the last one; a cosine lies between.
      init_gamma: first share by which the radius changes, in (0, 1).
      last_gamma: the last one; a cosine lies between.

    Returns:
      An `Attack` for the minimal norm: its `eps` is a radius beyond which nothing counts.

    Raises:
      ValueError: an argument is out of range, or the norm of the ball is another one.
    """
    norm = check_norm("fmn", ball, ("linf", "l2", "l1", "l0"))
    if not 0 < last_gamma <= init_gamma < 1 or not 0 < last_step <= init_step:
        raise ValueError(
            "fmn: expected 0 < last_gamma <= init_gamma < 1 and 0 < last_step <= init_step, got "
            f"{last_gamma}, {init_gamma}, {last_step}, {init_step}"
        )
    objective = objective.with_loss(margin)

    def init_direction(x0: Array) -> FmnState:
        radius = jnp.full(x0.shape[:1], 1 if norm == "l0" else jnp.inf, x0.dtype)
        return FmnState(radius, jnp.full(x0.shape[:1], jnp.inf, x0.dtype))

    def move(
        ball_: Ball, g: Array, value: Array, success: Array, x: Array, x0: Array, step: Array,
        memory: FmnState,
    ) -> tuple[Array, FmnState]:  # fmt: skip
        cosine = (1 + jnp.cos(jnp.pi * step.astype(x.dtype) / num_steps)) / 2
        size = last_step + (init_step - last_step) * cosine
        change = last_gamma + (init_gamma - last_gamma) * cosine
        distance = ball_.distance(x, x0)
        nearest = jnp.where(success, jnp.minimum(distance, memory.nearest), memory.nearest)
        if norm == "l0":
            radius = _count(memory.radius, success, nearest, change)
        else:
            missing = jnp.where(jnp.isfinite(value), jnp.abs(value), 0).astype(x.dtype)
            missing = missing / jnp.maximum(ball_.dual_norm(g), 1e-12)
            grown = jnp.where(
                jnp.isfinite(nearest),
                memory.radius * (1 + change),
                (distance + missing) * (1 + last_gamma),
            )
            shrunk = jnp.minimum(memory.radius * (1 - change), nearest)
            radius = jnp.where(success, shrunk, grown)
        corner = farthest(ball_, x0)
        radius = jnp.minimum(radius, ball_.distance(corner, x0))
        # only the pixels of a mask count for the length of the step
        unit = _euclidean.steepest(jnp.where(corner != x0, g, 0))
        return ball_.project(x + size * unit, x0, radius), FmnState(radius, nearest)

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        g, evaluation, objective_state, status = observe(objective, ball, state, target, keys)
        x, memory = with_row_ball(ball, move)(
            g, evaluation.ascent, evaluation.success, state.x, x0, state.step,
            state.direction_state,
        )  # fmt: skip
        return Proposal(x, evaluation, status, memory, objective_state)

    spec = minimal_spec(objective, ball, num_steps, "fmn")
    return assemble(propose, init_direction, spec, random_start=False)


def _count(radius: Array, success: Array, nearest: Array, change: Array) -> Array:
    """Return the next number of pixels that may change."""
    fewer = jnp.minimum(jnp.minimum(radius - 1, jnp.floor(radius * (1 - change))), nearest)
    more = jnp.maximum(radius + 1, jnp.floor(radius * (1 + change)))
    return jnp.maximum(jnp.where(success, fewer, more), 0)
