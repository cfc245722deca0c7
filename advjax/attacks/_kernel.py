"""The one kernel of iterated attacks: start, evaluate, keep the best, move, project.

Model calls are batched; everything else is written for one example and `vmap`ped here, so that
every leaf of the state has a leading row axis and no row sees another.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax import tree
from advjax.attacks._best import judge_best, keep_best, keep_closest, needs_judgement
from advjax.attacks._confirm import confirm
from advjax.attacks._gradient import input_gradient
from advjax.status import Status
from advjax.threat import over_rows
from advjax.types import (
    Array,
    Attack,
    AttackResult,
    AttackSpec,
    AttackState,
    Ball,
    Cost,
    Eval,
    Objective,
    PyTree,
    Target,
)


class Proposal(NamedTuple):
    """What one gradient said: the evaluation of the current points, and where to go next.

    An attack whose rows differ in what a step costs counts `grads` and `queries` itself; None
    takes them from its spec.
    """

    x: Array  # [B, ...] next iterates, projected
    eval: Eval  # of the current iterates
    status: Array  # [B] int8
    direction_state: PyTree
    objective_state: PyTree
    grads: Array | None = None  # [B] int32, backward passes
    queries: Array | None = None  # [B] int32, forward passes


ProposeFn = Callable[[AttackState, Array, Target, Array, Array], Proposal]


def build_attack(
    objective: Objective,
    direction: optax.GradientTransformation,
    ball: Ball,
    *,
    num_steps: int,
    random_start: bool = False,
    keep: str = "best",
    row_args: dict[str, Array | float] | None = None,
    stationary: bool = False,
    name: str = "attack",
) -> Attack:
    """Compose an attack from an objective, a direction and a ball.

    Args:
      objective: what is ascended (`from_logits`, then wrappers).
      direction: an optax transform that turns the gradient of one example into its move; it is
        called with `eps`, `ball` and the row arguments. `optax.chain(steepest(),
        scale_by_eps(0.25))` is PGD.
      ball: the threat model of one example.
      num_steps: moves; each costs one backward pass of the objective.
      random_start: start at a random point of the ball, else at the image.
      keep: `"best"` returns the best of all points evaluated (a success beats a failure, then the
        higher loss, ties to the later point), `"last"` the last iterate.
      row_args: scalars or `[B]` arrays, possibly traced, that the direction gets row by row.
      stationary: the direction has no memory: an iterate that repeats will repeat for ever.
      name: for reports.

    Returns:
      An `Attack`. PGD with k steps costs k backward passes and one final forward pass; two where
      the objective is `approximate`, and one for each success that a step claims.

    Raises:
      ValueError: `num_steps` is below 1, `keep` is unknown, or `ball` is no `Ball`.
    """
    direction = optax.with_extra_args_support(direction)
    if not isinstance(ball, Ball):
        raise ValueError(f"ball: expected a Ball such as threat.linf(), got {ball!r}")
    rows = over_rows(ball)

    def init_direction(x0: Array) -> PyTree:
        return jax.vmap(direction.init)(x0), broadcast_rows(row_args, x0)

    def move(ball_: Ball, g: Array, x: Array, eps: Array, state: PyTree) -> tuple[Array, PyTree]:
        optax_state, per_row = state
        updates, new = direction.update(g, optax_state, x, eps=eps, ball=ball_, **per_row)
        return updates, (new, per_row)

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        g, evaluation, objective_state, status = ascend(
            objective, ball, state.x, target, state.objective_state, keys
        )
        moves, direction_state = with_row_ball(ball, move)(g, state.x, eps, state.direction_state)
        x = rows.project(state.x + moves.astype(state.x.dtype), x0, eps)
        return Proposal(x, evaluation, status, direction_state, objective_state)

    spec = make_spec(objective, ball, num_steps, keep, name, stationary=stationary)
    return assemble(propose, init_direction, spec, random_start=random_start)


def make_spec(
    objective: Objective,
    ball: Ball,
    num_steps: int,
    keep: str,
    name: str,
    *,
    stationary: bool = False,
    more_forwards: int = 0,
    cost: Cost | None = None,
    ties: str = "later",
    minimal: bool = False,
) -> AttackSpec:
    """Return the static part of an attack.

    Its steps cost what a call of its objective costs and `more_forwards`, or `cost`.
    """
    if cost is None:
        cost = Cost(objective.cost.forwards + more_forwards, objective.cost.backwards)
    return AttackSpec(
        num_steps=num_steps,
        objective=objective,
        ball=ball,
        keep=keep,
        deterministic=objective.deterministic,
        stationary=stationary and objective.stationary,
        cost=cost,
        name=name,
        ties=ties,
        minimal=minimal,
    )


def broadcast_rows(row_args: dict[str, Array | float] | None, x0: Array) -> dict[str, Array]:
    """Return every row argument as `[B]`, in the precision of `x0` `[B, ...]`."""
    return {
        name: jnp.broadcast_to(jnp.asarray(value, x0.dtype), x0.shape[:1])
        for name, value in (row_args or {}).items()
    }


def with_row_ball(ball: Ball, one: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Batch `one(ball, *example_args)`, giving every row its own ball where balls differ."""
    if ball.rows is None:
        return jax.vmap(lambda *args: one(ball, *args))
    bind, context = ball.rows
    return lambda *args: jax.vmap(lambda row, *a: one(bind(row), *a))(context, *args)


def ascend(
    objective: Objective, ball: Ball, x: Array, target: Target, state: PyTree, keys: Array
) -> tuple[Array, Eval, PyTree, Array]:
    """Differentiate the objective once at `x` `[B, ...]`.

    Returns:
      The gradient of each row with non-finite entries set to zero, the evaluation of `x`, the new
      state of the objective, and the status `[B]`: non-finite, or zero where the ball can move.
    """

    def total(x: Array) -> tuple[Array, tuple[Eval, PyTree]]:
        evaluation, new_state = objective.evaluate(x, target, state, keys)
        return jnp.sum(evaluation.ascent), (evaluation, new_state)

    g, (evaluation, new_state) = input_gradient(total)(x)
    finite = jnp.isfinite(g)
    g = jnp.where(finite, g, 0)
    axes = tuple(range(1, g.ndim))
    all_finite = jnp.all(finite, axes) & jnp.isfinite(evaluation.ascent)
    # the dual norm of a masked ball sees the pixels of its mask only
    movable = over_rows(ball).dual_norm(g) > 0
    status = jnp.where(movable, Status.OK, Status.ZERO_GRADIENT)
    status = jnp.where(all_finite, status, Status.NON_FINITE).astype(jnp.int8)
    return g, evaluation, new_state, status


def assemble(
    propose: ProposeFn,
    init_direction: Callable[[Array], PyTree],
    spec: AttackSpec,
    *,
    random_start: bool,
) -> Attack:
    """Put the bookkeeping around a proposal: start, best point, freezing, counting, result.

    Args:
      propose: evaluates the current iterates with one gradient and says where to go.
      init_direction: `x0 [B, ...] -> state`, every leaf `[B, ...]`.
      spec: the static part of the attack.
      random_start: start at a random point of the ball, else at the image.

    Raises:
      ValueError: `num_steps` is below 1, or `keep` is unknown.
    """
    if spec.num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {spec.num_steps}")
    if spec.keep not in ("best", "last"):
        raise ValueError(f'keep must be "best" or "last", got {spec.keep!r}')
    rows = over_rows(spec.ball)
    return Attack(
        init=functools.partial(_init, rows, init_direction, spec, random_start),
        step=functools.partial(_step, propose, rows, spec),
        finalize=functools.partial(_finalize, rows, spec),
        spec=spec,
    )


def _init(
    rows: Ball,
    init_direction: Callable[[Array], PyTree],
    spec: AttackSpec,
    random_start: bool,
    keys: Array,
    x0: Array,
    target: Target,
    eps: Array,
    x_start: Array | None = None,
) -> AttackState:
    pairs = jax.vmap(jax.random.split)(keys)
    if x_start is not None:
        x = rows.project(x_start, x0, eps)
    else:
        x = rows.sample(pairs[:, 0], x0, eps) if random_start else x0
    zeros = jnp.zeros(x0.shape[:1], jnp.int32)
    low, high = (jnp.asarray(b, x0.dtype) for b in spec.ball.bounds)
    # nothing can raise inside a compiled program: rows that are no images say so
    valid = ((x0 >= low - 1e-6) & (x0 <= high + 1e-6)).reshape(x0.shape[0], -1).all(1)
    state = AttackState(
        x=x,
        best_x=x,
        best_loss=jnp.full(x0.shape[:1], -jnp.inf, _loss_dtype(x0)),
        success=zeros.astype(jnp.bool_),
        status=jnp.where(valid, Status.OK, Status.INVALID_IMAGE).astype(jnp.int8),
        step=zeros,
        num_grads=zeros,
        num_queries=zeros,
        key=pairs[:, 1],
        direction_state=init_direction(x0),
        objective_state=spec.objective.init(x0, target, eps),
    )
    return tree.vary_like(state, x0)


def _step(
    propose: ProposeFn,
    rows: Ball,
    spec: AttackSpec,
    state: AttackState,
    x0: Array,
    target: Target,
    eps: Array,
    freeze: bool = False,
) -> AttackState:
    keys = jax.vmap(jax.random.fold_in)(state.key, state.step)
    proposal = propose(state, x0, target, eps, keys)
    freeze = freeze and not spec.minimal
    active = ~state.success if freeze else jnp.ones_like(state.success)
    evaluation = proposal.eval
    grads = spec.cost.backwards if proposal.grads is None else proposal.grads
    queries = spec.cost.forwards if proposal.queries is None else proposal.queries
    if spec.objective.approximate:
        asked = active & needs_judgement(spec, state, evaluation)
        evaluation = confirm(spec.objective, evaluation, asked, state.x, target, keys)
        queries = queries + asked.astype(jnp.int32)
    if spec.minimal:
        best_x, best_loss, success = keep_closest(rows, state, evaluation, x0, eps)
    else:
        best_x, best_loss, success = keep_best(spec, state, evaluation, active)
    moving = active & ~evaluation.success if freeze else active
    moved = (proposal.x, proposal.direction_state, proposal.objective_state)
    if freeze:
        stayed = (state.x, state.direction_state, state.objective_state)
        moved = tree.where(moving, moved, stayed)
    return AttackState(
        x=moved[0],
        best_x=best_x,
        best_loss=best_loss,
        success=success,
        status=jnp.where(active, jnp.maximum(state.status, proposal.status), state.status),
        step=state.step + moving,
        num_grads=state.num_grads + active * grads,
        num_queries=state.num_queries + active * queries,
        key=state.key,
        direction_state=moved[1],
        objective_state=moved[2],
    )


def _finalize(
    rows: Ball,
    spec: AttackSpec,
    state: AttackState,
    x0: Array,
    target: Target,
    eps: Array,
    freeze: bool = False,
) -> AttackResult:
    keys = jax.vmap(lambda k: jax.random.fold_in(k, spec.num_steps))(state.key)
    freeze = freeze and not spec.minimal
    judges_best = spec.objective.approximate and spec.keep == "best" and not spec.minimal
    if judges_best:
        state = judge_best(spec, state, target, keys)
    last = spec.objective.judge(state.x, target, keys)
    active = ~state.success if freeze else jnp.ones_like(state.success)
    if spec.minimal:
        x_adv, loss, success = keep_closest(rows, state, last, x0, eps)
    elif spec.keep == "best":
        x_adv, loss, success = keep_best(spec, state, last, active)
    else:
        # a frozen row succeeded where it stands, which is its best point
        x_adv = tree.where(active, state.x, state.best_x)
        loss = jnp.where(active, last.loss.astype(state.best_loss.dtype), state.best_loss)
        success = jnp.where(active, last.success, state.success)
    bad = active & ~jnp.isfinite(last.loss)
    success = success & (state.status != Status.INVALID_IMAGE)
    distance = rows.distance(x_adv, x0)
    if spec.minimal:
        distance = jnp.where(success, distance, jnp.inf)
    return AttackResult(
        x_adv=x_adv,
        success=success,
        loss=loss,
        distance=distance,
        num_steps=state.step,
        num_grads=state.num_grads,
        status=jnp.where(bad, jnp.maximum(state.status, Status.NON_FINITE), state.status),
        num_queries=state.num_queries + active * (1 + judges_best),
    )


def _loss_dtype(x: Array) -> jnp.dtype:
    """Losses are kept in float32 at least, whatever the pixels are."""
    return jnp.promote_types(x.dtype, jnp.float32)
