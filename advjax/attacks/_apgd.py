"""APGD (Croce and Hein 2020): PGD that halves its step when it stops to help."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks._aliases import StepAbs
from advjax.attacks._apgd_l1 import SparseState, project_in_float32, sparse_direction, sparse_state
from advjax.attacks._kernel import (
    Proposal,
    ascend,
    assemble,
    broadcast_rows,
    make_spec,
    with_row_ball,
)
from advjax.attacks._phases import When, at, schedule
from advjax.attacks._smia import step_transform
from advjax.types import Array, Attack, AttackState, Ball, Eval, Objective, Target

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


def apgd(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 100,
    step_size: float | None = None,
    step_size_abs: StepAbs = None,
    random_start: bool = True,
    large_eps: bool = False,
    keep: str = "best",
) -> Attack:
    """APGD of Croce and Hein (2020), in the l-infinity and the Euclidean ball; of 2021 in l1.

    At checkpoints a row whose loss rose in at most three quarters of the moves since the last one,
    or whose highest loss did not rise although its step was kept, goes on from its best point with
    half the step. Moves carry momentum 1/4.

    In l1 ("Mind the box") a step changes the values of the largest gradients only, two thirds as
    many as the best point has changed, all by the same amount. At checks a row whose best point
    became sparser goes back to it with the first step; the step of the others shrinks.

    Args:
      objective: from `attacks.from_logits`, with any loss; `losses.cross_entropy`, `losses.dlr` and
        `losses.cw_margin` are usual.
      ball: the threat model.
      num_steps: moves; the published setting is 100.
      step_size: of the first step, relative to eps; None: 2, in l1 1, as published.
      step_size_abs: of the first step, in pixel units, scalar or `[B]`, instead of `step_size`.
      random_start: start at a point whose largest change is eps (l-infinity) or whose length is
        (Euclidean), or at projected normal noise (l1), else at the image.
      large_eps: spend 30 % of the steps each in the balls of 3 and of 2 eps before those in the
        ball of eps, each time from the best point before, projected. Only points of the last phase
        count. Published for l1.
      keep: `"best"` (of points of the same loss the first one, as in the official code; with
        `large_eps` the last one) or `"last"`.

    Raises:
      ValueError: `num_steps` is below 1, `keep` is unknown, both step sizes are given, or the
        norm of the ball is another one.
    """
    norm = ball.name.split("-")[0]
    if norm not in ("linf", "l2", "l1"):
        raise ValueError(f"apgd: knows the linf, the l2 and the l1 ball, not {ball.name!r}")
    sparse = norm == "l1"
    phases = schedule(max(num_steps, 1), large_eps=large_eps, sparse=sparse)
    moving, ball = project_in_float32(ball), _with_start(ball, norm, phases.first_radius)
    scale, row_args = step_transform(step_size, step_size_abs, 1.0 if sparse else 2.0)

    def init_direction(x0: Array) -> tuple[ApgdState | SparseState, dict[str, Array]]:
        start = sparse_state(x0, large_eps and random_start) if sparse else _dense_state(x0)
        return start, broadcast_rows(row_args, x0)

    def move(
        ball_: Ball, x: Array, x0: Array, eps: Array, g: Array, loss: Array, step: Array, state: Any
    ) -> tuple[Array, Any]:
        memory, row = state
        when = at(phases.table, step)
        budget = eps * when.radius.astype(eps.dtype) if phases.several else eps
        if sparse:
            x, unit, memory = sparse_direction(ball_, x, x0, g, loss, when, memory)
        else:
            x, unit, memory = _dense_direction(ball_, x, g, loss, when, memory)
        away, _ = scale.update(unit, scale.init(unit), x, eps=budget, ball=ball_, **row)
        new = ball_.project(x + away.astype(x.dtype), x0, budget)
        if not sparse:
            share = jnp.where(when.since == 0, 1, MOMENTUM).astype(x.dtype)
            mixed = x + (new - x) * share + (x - memory.x_before) * (1 - share)
            new = ball_.project(mixed, x0, budget)
            memory = memory._replace(x_before=x)
        if phases.several:
            after = eps * at(phases.table, step + 1).radius.astype(eps.dtype)
            new = jnp.where(when.turn, ball_.project(memory.x_best, x0, after), new)
        return new, (memory, row)

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        g, evaluation, objective_state, status = ascend(
            objective, ball, state.x, target, state.objective_state, keys
        )
        x, memory = with_row_ball(moving, move)(
            state.x, x0, eps, g, evaluation.ascent, state.step, state.direction_state
        )
        if phases.several:
            evaluation = _only_within_eps(phases.table, evaluation, state.step)
        return Proposal(x, evaluation, status, memory, objective_state)

    # a later tie lets the first point that counts win, even where its loss is not finite
    ties = "later" if phases.several else "earlier"
    spec = make_spec(objective, ball, num_steps, keep, "apgd", ties=ties)
    attack = assemble(propose, init_direction, spec, random_start=random_start)
    return attack._replace(init=_noting_the_start(attack.init)) if sparse else attack


def _only_within_eps(table: When, evaluation: Eval, step: Array) -> Eval:
    """Return the evaluation with points of larger balls as failures, lower than any other."""
    counts = jax.vmap(lambda step: at(table, step).radius == 1)(step)
    return evaluation._replace(
        success=evaluation.success & counts, loss=jnp.where(counts, evaluation.loss, -jnp.inf)
    )


def _dense_state(x0: Array) -> ApgdState:
    """Return the memory of all rows before the first evaluation, `x0 [B, ...]`."""
    rows, dtype = x0.shape[:1], jnp.promote_types(x0.dtype, jnp.float32)
    low = jnp.full(rows, -jnp.inf, dtype)
    return ApgdState(
        x_before=x0, x_best=x0, g_best=jnp.zeros_like(x0), loss_best=low,
        loss_before=jnp.zeros(rows, dtype), size=jnp.ones(rows, x0.dtype),
        raised=jnp.zeros(rows, jnp.int32), halved=jnp.ones(rows, jnp.bool_), loss_check=low,
    )  # fmt: skip


def _noting_the_start(init: Callable[..., AttackState]) -> Callable[..., AttackState]:
    """Return `init` that remembers whether the start was given: its sparsity counts then."""

    def noting(
        keys: Array, x0: Array, target: Target, eps: Array, x_start: Array | None = None
    ) -> AttackState:
        state = init(keys, x0, target, eps, x_start)
        if x_start is None:
            return state
        memory, row = state.direction_state
        return state._replace(
            direction_state=(memory._replace(measured=memory.measured | True), row)
        )

    return noting


def _with_start(ball: Ball, norm: str, radius: float) -> Ball:
    """Return the ball with the start of APGD: on the surface, for as far as the bounds allow."""
    ball = project_in_float32(ball, slack=1e-5)

    def with_start(inner: Ball) -> Ball:
        def sample(key: Array, x0: Array, eps: Array) -> Array:
            eps = eps * radius
            if norm == "l1":
                return inner.project(x0 + jax.random.normal(key, x0.shape, x0.dtype), x0, eps)
            if norm == "l2":
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


def _dense_direction(
    ball: Ball, x: Array, g: Array, loss: Array, when: When, memory: ApgdState
) -> tuple[Array, Array, ApgdState]:
    """Return the point to move from, the direction in units of the first step, and the memory."""
    x, g, memory = _checkpoint(x, g, loss, when, memory)
    unit = ball.steepest(g)
    if ball.name.startswith("l2"):
        # as in the official code, a vanishing gradient makes no direction
        length = ball.dual_norm(g)
        unit = unit * (length / (length + 1e-12))
    return x, memory.size * unit, memory


def _checkpoint(
    x: Array, g: Array, loss: Array, when: When, memory: ApgdState
) -> tuple[Array, Array, ApgdState]:
    """Take note of the loss at `x`; at a checkpoint maybe go back to the best point."""
    fresh = when.since == 0
    loss = jnp.where(jnp.isfinite(loss), loss, -jnp.inf).astype(memory.loss_best.dtype)
    # the official code compares the first move with a loss of 0, not with that of the start
    before = jnp.where(when.since == 1, 0, memory.loss_before)
    raised = jnp.where(fresh, 0, memory.raised + (loss > before))
    better = fresh | (loss > memory.loss_best)
    x_best, g_best = jnp.where(better, x, memory.x_best), jnp.where(better, g, memory.g_best)
    loss_best = jnp.where(better, loss, memory.loss_best)
    size = jnp.where(fresh, 1, memory.size)
    restless = raised <= RHO * when.window
    stuck = ~memory.halved & (memory.loss_check >= loss_best)
    halve = when.check & (restless | stuck)
    x, g = jnp.where(halve, x_best, x), jnp.where(halve, g_best, g)
    memory = ApgdState(
        x_before=memory.x_before, x_best=x_best, g_best=g_best, loss_best=loss_best,
        loss_before=loss, size=jnp.where(halve, size / 2, size),
        raised=jnp.where(when.check, 0, raised),
        halved=fresh | jnp.where(when.check, halve, memory.halved),
        loss_check=jnp.where(when.check, loss_best, memory.loss_check),
    )  # fmt: skip
    return x, g, memory
