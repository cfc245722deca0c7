"""CW-L2 (Carlini and Wagner 2017): Adam on distance plus margin, the constant by bisection."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax import tree
from advjax.attacks._kernel import Proposal, assemble, with_row_ball
from advjax.attacks._looks import Seen, count_looks, look, skip_looks, with_looks
from advjax.attacks._minimal import check_norm, farthest, minimal_spec, observe, within
from advjax.types import Array, Attack, AttackState, Ball, Eval, Objective, Target

_INSIDE = 0.999999  # keeps the inverse of tanh finite at the bounds
_STUCK = 0.9999  # a tenth of the moves with more than this share of the loss before ends a constant


class CwState(NamedTuple):
    """Memory of one row.

    Attributes:
      w: `[...]`, the point in tanh space; `start`: the first one.
      adam: state of the optimiser.
      moves: `[]` int32, moves with this constant; `tried`: `[]` int32, constants done with.
      constant: `[]`, weight of the margin.
      low: `[]`, the largest constant that failed; `high`: the smallest that succeeded, else inf.
      reached: `[]` bool, whether this tenth of the moves has had a success.
      total: `[]`, sum of the losses of this tenth of the moves; `before`: of the tenth before.
      seen: the nearest boundary seen from the image.
    """

    w: Array
    start: Array
    adam: Any
    moves: Array
    tried: Array
    constant: Array
    low: Array
    high: Array
    reached: Array
    total: Array
    before: Array
    seen: Seen

    @property
    def begun(self) -> Array:
        """`[]` bool, whether the first constant has had a move."""
        return self.moves + self.tried > 0


class _Rule(NamedTuple):
    """What is static about a move: as in `cw_l2`, moves between two checks of the loss, looks."""

    adam: optax.GradientTransformation
    num_steps: int
    num_constants: int
    kappa: float
    period: int
    looks: int = 0


def cw_l2(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 1000,
    num_constants: int = 9,
    init_constant: float = 1e-3,
    learning_rate: float = 0.01,
    last_learning_rate: float = 1e-4,
    kappa: float = 0.0,
) -> Attack:
    """CW-L2 (Carlini and Wagner 2017): the smallest Euclidean perturbation, by Adam.

    Minimises `|x - x0|^2 + c * max(kappa - margin, 0)` in tanh space, where the margin is the best
    other logit minus the true one. Every row searches its own constant c: ten times more until the
    first success, then by bisection. A row goes on to its next constant after `num_steps`, or
    earlier when its mean loss did not fall from one tenth of them to the next, and stays, at no
    cost, after the last one. Adam's steps shrink by a cosine: with a constant rate they would pass
    over a boundary that is nearer than one of them for ever. Adam follows the most likely other
    class, and constants and rates fit logits of ordinary size: before the first constant, a few
    moves look from the image at the other classes (nine at most), and one tries the point that is
    nearest to first order.

    Args:
      objective: from `attacks.from_logits`; whatever loss was given, the margin is ascended.
      ball: `threat.l2()`, masked or not. Images are `[B, ...]`, usually `[B, H, W, C]` in [0, 1].
      num_steps: moves for each constant; a whole run has `num_steps * num_constants`.
      num_constants: constants tried.
      init_constant: the first one.
      learning_rate: of Adam, in tanh space, at first.
      last_learning_rate: what it has shrunk to after `num_steps`, the same as `learning_rate` for
        the published attack.
      kappa: confidence: a point is a success only where the margin is at least that, in logits.

    Returns:
      An `Attack` for the minimal norm: its `eps` is a radius beyond which nothing counts.

    Raises:
      ValueError: an argument is out of range, or the norm of the ball is another one.
    """
    check_norm("cw_l2", ball, ("l2",))
    if num_steps < 1 or num_constants < 1:
        raise ValueError(
            f"num_steps and num_constants must be at least 1, got {num_steps}, {num_constants}"
        )
    if init_constant <= 0 or not 0 < last_learning_rate <= learning_rate or kappa < 0:
        raise ValueError(
            "cw_l2: expected init_constant > 0, 0 < last_learning_rate <= learning_rate and "
            f"kappa >= 0, got {init_constant}, {last_learning_rate}, {learning_rate}, {kappa}"
        )
    plain, total = objective, num_steps * num_constants
    objective = _confident(with_looks(plain, total), kappa)
    adam = optax.adam(
        optax.cosine_decay_schedule(learning_rate, num_steps, last_learning_rate / learning_rate)
    )
    rule = _Rule(adam, num_steps, num_constants, kappa, period=-(-num_steps // 10))

    def init_direction(x0: Array) -> CwState:
        def one(x0: Array) -> CwState:
            zero, none = jnp.zeros((), x0.dtype), jnp.zeros((), jnp.int32)
            return CwState(
                w=x0, start=x0, adam=adam.init(x0), moves=none, tried=none,
                constant=zero + init_constant, low=zero, high=zero + jnp.inf,
                reached=none > 0, total=zero, before=zero + jnp.inf,
                seen=Seen(zero + jnp.inf, jnp.zeros_like(x0)),
            )  # fmt: skip

        return jax.vmap(one)(x0)

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        state = skip_looks(plain, ball, state, x0)
        g, evaluation, objective_state, status = observe(objective, ball, state, target, keys)
        active = state.direction_state.tried < num_constants
        move = functools.partial(
            _move, rule._replace(looks=count_looks(plain, x0, target, keys, total))
        )
        x, memory = with_row_ball(ball, move)(
            g, evaluation.ascent, evaluation.success, state.x, x0, state.step,
            state.direction_state,
        )  # fmt: skip
        return Proposal(
            x, evaluation, jnp.where(active, status, 0).astype(jnp.int8), memory, objective_state,
            grads=(active * spec.cost.backwards).astype(jnp.int32),
            queries=(active * spec.cost.forwards).astype(jnp.int32),
        )  # fmt: skip

    spec = minimal_spec(objective, ball, total, "cw_l2")
    return assemble(propose, init_direction, spec, random_start=False)


def _move(
    rule: _Rule, ball_: Ball, g: Array, value: Array, success: Array, x: Array, x0: Array,
    step: Array,
    memory: CwState,
) -> tuple[Array, CwState]:  # fmt: skip
    """Look from the image, try what was seen, then take the steps of every constant."""
    at_home = ball_.distance(x, x0) == 0
    looking = ~memory.begun & at_home & (step < rule.looks)
    trying = ~memory.begun & (step == rule.looks)
    free = jnp.where(farthest(ball_, x0) != x0, g, 0)
    seen = look("l2", ball_, free, value - rule.kappa, x0, memory.seen, looking)
    memory = memory._replace(seen=seen)
    point = within(ball_, x0 + memory.seen.toward, x0)
    waits = jnp.where(trying, x0, jnp.where(step == rule.looks - 1, point, x)), memory
    return tree.where(
        looking | trying, waits, _descend(rule, ball_, g, value, success, x, x0, memory)
    )


def _descend(
    rule: _Rule, ball_: Ball, g: Array, value: Array, success: Array, x: Array, x0: Array,
    memory: CwState,
) -> tuple[Array, CwState]:  # fmt: skip
    """Take one step of Adam in tanh space; maybe go on to the next constant."""
    low, high = (jnp.asarray(b, x.dtype) for b in ball_.bounds)
    centre, half = (low + high) / 2, (high - low) / 2
    first = jnp.arctanh(jnp.clip((x - centre) / half, -1, 1) * _INSIDE)
    w = jnp.where(memory.begun, memory.w, first)
    start = jnp.where(memory.begun, memory.start, first)

    short = value <= rule.kappa
    missing = jnp.where(short, rule.kappa - value, 0).astype(x.dtype)
    loss = jnp.sum(jnp.square(x - x0)) + memory.constant * missing
    slope = 2 * (x - x0) - memory.constant * jnp.where(short, g, 0)
    slope = slope * half * (1 - jnp.square(jnp.tanh(w)))
    updates, adam_state = rule.adam.update(slope, memory.adam, w)

    moves = memory.moves + 1
    # what an early, large step hit in passing says nothing of the constant
    reached = success | (memory.reached & (memory.moves % rule.period != 0))
    total = memory.total + loss
    checking = moves % rule.period == 0
    over = (moves >= rule.num_steps) | (checking & (total > _STUCK * memory.before))
    same = memory._replace(
        w=w + updates, start=start, adam=adam_state, moves=moves, reached=reached,
        total=jnp.where(checking, 0, total), before=jnp.where(checking, total, memory.before),
    )  # fmt: skip
    new = tree.where(over, _next_constant(same, rule.adam.init(start)), same)
    done = memory.tried >= rule.num_constants
    new = tree.where(done, memory, new)
    return jnp.where(done, x, within(ball_, centre + half * jnp.tanh(new.w), x0)), new


def _next_constant(memory: CwState, adam: Any) -> CwState:
    """Return the memory of a row that begins again with its next constant."""
    low = jnp.where(memory.reached, memory.low, memory.constant)
    high = jnp.where(memory.reached, memory.constant, memory.high)
    constant = jnp.where(jnp.isfinite(high), (low + high) / 2, 10 * memory.constant)
    return memory._replace(
        w=memory.start, adam=adam, moves=jnp.zeros_like(memory.moves), tried=memory.tried + 1,
        constant=constant, low=low, high=high, reached=jnp.zeros_like(memory.reached),
        total=jnp.zeros_like(memory.total), before=jnp.full_like(memory.before, jnp.inf),
    )  # fmt: skip


def _confident(objective: Objective, kappa: float) -> Objective:
    """Return the objective with successes of a margin of at least `kappa` only."""

    def judge(x: Array, target: Target, keys: Array) -> Eval:
        found = objective.judge(x, target, keys)
        return found._replace(success=found.success & (found.loss >= kappa))

    def evaluate(x: Array, target: Target, state: Any, keys: Array) -> tuple[Eval, Any]:
        found, state = objective.evaluate(x, target, state, keys)
        return found._replace(success=found.success & (found.loss >= kappa)), state

    return objective._replace(judge=judge, evaluate=evaluate)
