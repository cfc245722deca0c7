"""APGD (Croce and Hein 2020): PGD that halves its step when it stops to help."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks._aliases import StepAbs
from advjax.attacks._kernel import (
    Proposal,
    ascend,
    assemble,
    broadcast_rows,
    make_spec,
    with_row_ball,
)
from advjax.attacks._smia import step_transform
from advjax.types import Array, Attack, AttackState, Ball, Objective, Target

RHO = 0.75  # share of steps that must have raised the loss
MOMENTUM = 0.75  # weight of the new step; the rest is the one before


class ApgdState(NamedTuple):
    """Memory of one row.

    Attributes:
      x_before: `[...]`, the point from which the last move was made.
      x_best, g_best: `[...]`, the point of the highest loss and its gradient.
      loss_best: `[]`; `loss_before`: of the point before.
      size: `[]`, step in units of the first one.
      raised: `[]` int32, moves since the last checkpoint that raised the loss.
      halved: `[]` bool, whether the last checkpoint halved the step.
      loss_check: `[]`, the highest loss at the last checkpoint.
    """

    x_before: Array
    x_best: Array
    g_best: Array
    loss_best: Array
    loss_before: Array
    size: Array
    raised: Array
    halved: Array
    loss_check: Array


def checkpoints(num_steps: int) -> np.ndarray:
    """Return `[num_steps + 1]` int32: moves since the last checkpoint where one stands, else 0.

    A checkpoint after k moves stands at k. Its windows shrink from 22 % of the steps to 6 %, by
    3 % each.
    """
    windows = np.zeros(num_steps + 1, np.int32)
    window, place = max(int(0.22 * num_steps), 1), 0
    least, less = max(int(0.06 * num_steps), 1), max(int(0.03 * num_steps), 1)
    while place + window <= num_steps:
        place += window
        windows[place] = window
        window = max(window - less, least)
    return windows


def apgd(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 100,
    step_size: float | None = None,
    step_size_abs: StepAbs = None,
    random_start: bool = True,
    keep: str = "best",
) -> Attack:
    """APGD of Croce and Hein (2020), in the l-infinity and the Euclidean ball.

    At checkpoints a row whose loss rose in at most three quarters of the moves since the last one,
    or whose highest loss did not rise although its step was kept, goes on from its best point with
    half the step. Moves carry momentum 1/4.

    Args:
      objective: from `attacks.from_logits`, with `losses.cross_entropy` or `losses.dlr`.
      ball: the threat model.
      num_steps: moves; the published setting is 100.
      step_size: of the first step, relative to eps; None: 2, as published.
      step_size_abs: of the first step, in pixel units, scalar or `[B]`, instead of `step_size`.
      random_start: start at a point whose largest change is eps (l-infinity) or whose length is
        (Euclidean), else at the image.
      keep: `"best"` (of points of the same loss the first one, as in the official code) or
        `"last"`.

    Raises:
      ValueError: `num_steps` is below 1, `keep` is unknown, both step sizes are given, or the
        norm of the ball is another one.
    """
    ball = _with_start(ball)
    windows = checkpoints(num_steps)
    scale, row_args = step_transform(step_size, step_size_abs, 2.0)

    def init_direction(x0: Array) -> tuple[ApgdState, dict[str, Array]]:
        rows, dtype = x0.shape[:1], jnp.promote_types(x0.dtype, jnp.float32)
        low = jnp.full(rows, -jnp.inf, dtype)
        memory = ApgdState(
            x_before=x0, x_best=x0, g_best=jnp.zeros_like(x0), loss_best=low,
            loss_before=jnp.zeros(rows, dtype), size=jnp.ones(rows, x0.dtype),
            raised=jnp.zeros(rows, jnp.int32), halved=jnp.ones(rows, jnp.bool_), loss_check=low,
        )  # fmt: skip
        return memory, broadcast_rows(row_args, x0)

    def move(
        ball_: Ball, x: Array, x0: Array, eps: Array, g: Array, loss: Array, step: Array,
        state: tuple[ApgdState, dict[str, Array]],
    ) -> tuple[Array, tuple[ApgdState, dict[str, Array]]]:  # fmt: skip
        memory, row = state
        x, g, memory = _checkpoint(windows, x, g, loss, step, memory)
        unit = memory.size * _unit(ball_, g)
        away, _ = scale.update(unit, scale.init(unit), x, eps=eps, ball=ball_, **row)
        new = ball_.project(x + away.astype(x.dtype), x0, eps)
        share = jnp.where(step == 0, 1, MOMENTUM).astype(x.dtype)
        mixed = x + (new - x) * share + (x - memory.x_before) * (1 - share)
        return ball_.project(mixed, x0, eps), (memory._replace(x_before=x), row)

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        g, evaluation, objective_state, status = ascend(
            objective, ball, state.x, target, state.objective_state, keys
        )
        x, memory = with_row_ball(ball, move)(
            state.x, x0, eps, g, evaluation.ascent, state.step, state.direction_state
        )
        return Proposal(x, evaluation, status, memory, objective_state)

    spec = make_spec(objective, ball, num_steps, keep, "apgd", ties="earlier")
    return assemble(propose, init_direction, spec, random_start=random_start)


def _with_start(ball: Ball) -> Ball:
    """Return the ball with the start of APGD: on the surface, for as far as the bounds allow."""
    if ball.name.split("-")[0] not in ("linf", "l2"):
        raise ValueError(f"apgd: knows the linf and the l2 ball, not {ball.name!r}")

    def with_start(inner: Ball) -> Ball:
        def sample(key: Array, x0: Array, eps: Array) -> Array:
            if ball.name.startswith("l2"):
                away = inner.steepest(jax.random.normal(key, x0.shape, x0.dtype))
            else:
                noise = jax.random.uniform(key, x0.shape, x0.dtype, -1, 1)
                # the sign is zero outside of a mask
                noise = noise * jnp.abs(inner.steepest(noise))
                largest = jnp.max(jnp.abs(noise))
                away = noise / jnp.where(largest > 0, largest, 1)
            return inner.project(x0 + eps * away, x0, eps)

        return inner._replace(sample=sample)

    if ball.rows is None:
        return with_start(ball)
    bind, context = ball.rows
    return ball._replace(rows=(lambda row: with_start(bind(row)), context))


def _unit(ball: Ball, g: Array) -> Array:
    """Return the direction of a step; as in the official code, a vanishing gradient makes none."""
    unit = ball.steepest(g)
    if not ball.name.startswith("l2"):
        return unit
    length = ball.dual_norm(g)
    return unit * (length / (length + 1e-12))


def _checkpoint(
    windows: np.ndarray, x: Array, g: Array, loss: Array, step: Array, memory: ApgdState
) -> tuple[Array, Array, ApgdState]:
    """Take note of the loss at `x`; at a checkpoint maybe go back to the best point."""
    loss = jnp.where(jnp.isfinite(loss), loss, -jnp.inf).astype(memory.loss_best.dtype)
    # the official code compares the first move with a loss of 0, not with that of the start
    before = jnp.where(step == 1, 0, memory.loss_before)
    raised = memory.raised + ((step > 0) & (loss > before))
    better = (step == 0) | (loss > memory.loss_best)
    x_best, g_best = jnp.where(better, x, memory.x_best), jnp.where(better, g, memory.g_best)
    loss_best = jnp.where(better, loss, memory.loss_best)
    window = jnp.asarray(windows)[jnp.minimum(step, len(windows) - 1)]
    check = (window > 0) & (step < len(windows))
    restless = raised <= RHO * window
    stuck = ~memory.halved & (memory.loss_check >= loss_best)
    halve = check & (restless | stuck)
    x, g = jnp.where(halve, x_best, x), jnp.where(halve, g_best, g)
    memory = ApgdState(
        x_before=memory.x_before, x_best=x_best, g_best=g_best, loss_best=loss_best,
        loss_before=loss, size=jnp.where(halve, memory.size / 2, memory.size),
        raised=jnp.where(check, 0, raised), halved=jnp.where(check, halve, memory.halved),
        loss_check=jnp.where(check, loss_best, memory.loss_check),
    )  # fmt: skip
    return x, g, memory
