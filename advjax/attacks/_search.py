"""What the attacks without gradients share: a search from the best point, one query a step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax import tree
from advjax.attacks._best import is_better
from advjax.attacks._kernel import Proposal, assemble, make_spec, with_row_ball
from advjax.status import Status
from advjax.types import Array, Attack, AttackState, Ball, Cost, Objective, PyTree, Target

# (ball, key, best, x0, eps, step, accepted, memory) of one example -> (candidate, memory)
CandidateFn = Callable[..., tuple[Array, PyTree]]
# (state, x0 [B, ...], keys [B]) -> memory, every leaf [B, ...]
PrepareFn = Callable[[AttackState, Array, Array], PyTree]


def random_search(
    objective: Objective,
    ball: Ball,
    candidate: CandidateFn,
    init_memory: Callable[[Array], PyTree],
    *,
    num_steps: int,
    name: str,
    prepare: PrepareFn | None = None,
    random_start: bool = False,
) -> Attack:
    """Compose an attack that asks for one point a step and goes on from the best one.

    Args:
      objective: whose `judge` is asked; a success beats a failure, then the higher loss wins, and
        of two points of the same loss the earlier one.
      ball: the threat model.
      candidate: the next point of one example, made from the best one.
      init_memory: `x0 [B, ...] -> memory`, every leaf `[B, ...]`.
      num_steps: candidates; a run of all of them asks for one point more, the start.
      name: for reports.
      prepare: what the memory is before the candidates are made; None: as it is.
      random_start: start at a sample of the ball, else at the image.

    Raises:
      ValueError: `num_steps` is below 1.
    """
    # the model itself is asked for every point: there are no claims to confirm
    objective = objective._replace(approximate=False)
    cost = Cost(passes(objective), 0)
    spec = make_spec(objective, ball, num_steps, "best", name, cost=cost, ties="earlier")
    spec = spec._replace(deterministic=False)

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        asked, drawn = split_rows(keys, 2)
        evaluation = objective.judge(state.x, target, asked)
        accepted = is_better(spec, state, evaluation)
        best = tree.where(accepted, state.x, state.best_x)
        memory = state.direction_state if prepare is None else prepare(state, x0, drawn)
        x, memory = with_row_ball(ball, candidate)(
            drawn, best, x0, eps, state.step, accepted, memory
        )
        status = jnp.where(jnp.isfinite(evaluation.loss), Status.OK, Status.NON_FINITE)
        return Proposal(x, evaluation, status.astype(jnp.int8), memory, state.objective_state)

    return assemble(propose, init_memory, spec, random_start=random_start)


def passes(objective: Objective) -> int:
    """Return the forward passes of one `judge`: as many as a call of `evaluate` differentiates."""
    return objective.cost.backwards


def split_rows(keys: Array, num: int) -> tuple[Array, ...]:
    """Split `[B]` keys into `num` times `[B]` keys."""
    split = jax.vmap(lambda key: jax.random.split(key, num))(keys)
    return tuple(split[:, i] for i in range(num))


def support(ball: Ball, x0: Array) -> Array:
    """Return which pixels of one example the ball can move: all but those outside of a mask."""
    return ball.steepest(jnp.ones_like(x0)) != 0


def with_sample(ball: Ball, sample: Callable[[Ball, Array, Array, Array], Array]) -> Ball:
    """Return the ball with another start: `sample(ball of the row, key, x0, eps)`."""

    def of(inner: Ball) -> Ball:
        return inner._replace(sample=lambda key, x0, eps: sample(inner, key, x0, eps))

    if ball.rows is None:
        return of(ball)
    bind, context = ball.rows
    return ball._replace(rows=(lambda row: of(bind(row)), context))


def norm_name(ball: Ball, attack: str) -> str:
    """Return the norm of the ball, masked or not.

    Raises:
      ValueError: it is neither l-infinity nor Euclidean.
    """
    name = ball.name.split("-")[0]
    if name not in ("linf", "l2"):
        raise ValueError(f"{attack}: knows the linf and the l2 ball, not {ball.name!r}")
    return name


def image_shape(x0: Array, attack: str) -> tuple[int, int, int]:
    """Return the shape of one example as height, width, channels; a vector is one row of pixels.

    Raises:
      ValueError: it is neither an image nor a vector.
    """
    if x0.ndim == 1:
        return (1, x0.shape[0], 1)
    if x0.ndim != 3:
        raise ValueError(
            f"{attack}: expected images [B, H, W, C] or vectors [B, D], got [B, "
            f"{', '.join(str(n) for n in x0.shape)}]"
        )
    height, width, channels = x0.shape
    return height, width, channels
