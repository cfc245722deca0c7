"""NI-FGSM: the gradient is taken at a look-ahead point, hence a step of its own."""

import jax
import optax

from advjax.attacks._directions import StepSize, normalise_by_mean_abs
from advjax.attacks._kernel import (
    Proposal,
    ascend,
    assemble,
    broadcast_rows,
    make_spec,
    with_row_ball,
)
from advjax.attacks._smia import step_transform
from advjax.threat import over_rows
from advjax.types import (
    Array,
    Attack,
    AttackState,
    Ball,
    Objective,
    PyTree,
    Target,
)


def nifgsm(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 10,
    step_size: StepSize | None = None,
    step_size_abs: Array | float | None = None,
    decay: float = 1.0,
    random_start: bool = False,
    keep: str = "best",
) -> Attack:
    """NI-FGSM (Lin et al. 2020): MI-FGSM with the gradient at `x + step * decay * momentum`.

    The points that are evaluated and kept are the iterates, not the look-ahead points; a step
    therefore costs one more forward pass than MI-FGSM.

    Args:
      objective: from `attacks.from_logits`.
      ball: the threat model.
      num_steps: moves.
      step_size: relative to eps, a number or a schedule; None: `1 / num_steps`.
      step_size_abs: in pixel units, scalar or `[B]`, instead of `step_size`.
      decay: mu, how much of the momentum is kept.
      random_start: start at a random point of the ball.
      keep: `"best"` or `"last"`.

    Raises:
      ValueError: both step sizes are given, or `num_steps` is below 1.
    """
    scale, row_args = step_transform(step_size, step_size_abs, 1.0 / max(num_steps, 1))
    momentum = optax.chain(normalise_by_mean_abs(), optax.trace(decay))
    rows = over_rows(ball)

    def init_direction(x0: Array) -> PyTree:
        states = jax.vmap(lambda x: (momentum.init(x), scale.init(x)))(x0)
        return *states, broadcast_rows(row_args, x0)

    def look(ball_: Ball, x: Array, eps: Array, state: PyTree) -> Array:
        del ball_
        momentum_state, scale_state, per_row = state
        velocity = momentum_state[1].trace
        return x + decay * scale.update(velocity, scale_state, x, eps=eps, **per_row)[0]

    def move(ball_: Ball, g: Array, x: Array, eps: Array, state: PyTree) -> tuple[Array, PyTree]:
        momentum_state, scale_state, per_row = state
        velocity, momentum_state = momentum.update(g, momentum_state, x)
        unit = ball_.steepest(velocity)
        updates, scale_state = scale.update(unit, scale_state, x, eps=eps, **per_row)
        return updates, (momentum_state, scale_state, per_row)

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        ahead = with_row_ball(ball, look)(state.x, eps, state.direction_state)
        g, _, objective_state, status = ascend(
            objective, ball, ahead, target, state.objective_state, keys
        )
        evaluation = objective.judge(state.x, target, keys)
        moves, direction_state = with_row_ball(ball, move)(g, state.x, eps, state.direction_state)
        x = rows.project(state.x + moves.astype(state.x.dtype), x0, eps)
        return Proposal(x, evaluation, status, direction_state, objective_state)

    # the iterates are judged at every step; there are no claims to confirm
    judged = objective._replace(approximate=False)
    spec = make_spec(judged, ball, num_steps, keep, "nifgsm", more_forwards=1)
    return assemble(propose, init_direction, spec, random_start=random_start)
