"""DeepFool (Moosavi-Dezfooli et al. 2016): steps to the nearest linearised boundary."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import criteria, tree
from advjax.attacks._gradient import in_fast_layout
from advjax.attacks._kernel import Proposal, assemble, with_row_ball
from advjax.attacks._minimal import Line, check_norm, gaps, margin, minimal_spec, within
from advjax.attacks._objective import grade
from advjax.status import Status
from advjax.types import Array, Attack, AttackState, Ball, Eval, Objective, Target

_NUDGE = 1e-4  # added to the length of every step, as published, against rounding


class DeepfoolState(NamedTuple):
    """Memory of one row.

    Attributes:
      total: `[...]`, the steps so far, without overshoot.
      found: `[]` bool, whether some point was a success.
      line: the search between image and first success.
    """

    total: Array
    found: Array
    line: Line


def deepfool(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 50,
    overshoot: float = 0.02,
    num_classes: int = 10,
    search_steps: int = 10,
) -> Attack:
    """DeepFool (Moosavi-Dezfooli et al. 2016), in the Euclidean and the l-infinity norm.

    Each move linearises the differences between the true logit and the others, steps to the
    nearest of the boundaries, and evaluates the image plus `1 + overshoot` times all steps. A row
    that has succeeded takes back what was too much: `search_steps` moves bisect between the image
    and that point. Then it stays, at no cost.

    A gradient step costs one forward pass and as many backward passes as there are candidates; a
    bisection one forward pass. `num_grads` and `num_queries` count them; `spec.cost` is their
    upper bound. The loss of results is the largest difference.

    Args:
      objective: untargeted, from `attacks.from_logits`, not wrapped.
      ball: `threat.l2()` or `threat.linf()`, masked or not. Images are `[B, ...]`, usually
        `[B, H, W, C]` in [0, 1].
      num_steps: moves, bisections included.
      overshoot: share by which the steps are lengthened.
      num_classes: how many classes compete, the true one and the most likely others, at most as
        many as there are; with multi-hot labels how many findings.
      search_steps: bisections after the first success; 0: as published.

    Returns:
      An `Attack` for the minimal norm: its `eps` is a radius beyond which nothing counts.

    Raises:
      ValueError: an argument is out of range, the objective is targeted or wrapped, or the norm of
        the ball is another one.
    """
    check_norm("deepfool", ball, ("linf", "l2"), finite=False, normalised=True)
    if num_classes < 2 or overshoot < 0 or search_steps < 0:
        raise ValueError(
            "deepfool: expected num_classes >= 2, overshoot >= 0 and search_steps >= 0, got "
            f"{num_classes}, {overshoot}, {search_steps}"
        )
    if not objective.plain:
        raise ValueError("deepfool: linearises the model itself; give it an unwrapped objective")
    if objective.targeted or objective.criterion is criteria.reached:
        raise ValueError("deepfool: is untargeted; use ddn, fmn or cw_l2 towards a target")
    objective = objective.with_loss(margin)

    def init_direction(x0: Array) -> DeepfoolState:
        none = jnp.zeros(x0.shape[:1], jnp.bool_)
        return DeepfoolState(jnp.zeros_like(x0), none, jax.vmap(Line.to)(x0))

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        values, slopes, evaluation, finite = _linearise(
            objective, state.x, target, keys, num_classes
        )
        memory = state.direction_state
        # a start of the caller's is where the steps so far have led
        given = tree.where(state.step == 0, state.x - x0, memory.total)
        memory = memory._replace(total=given)
        walking = ~memory.found
        idle = memory.found & (memory.line.tried >= search_steps)
        x, memory, usable = with_row_ball(ball, functools.partial(_move, overshoot, search_steps))(
            values, slopes, evaluation.success, state.x, x0, memory
        )
        status = jnp.where(usable, Status.OK, Status.ZERO_GRADIENT)
        status = jnp.where(finite, status, Status.NON_FINITE)
        return Proposal(
            x, evaluation, jnp.where(walking, status, Status.OK).astype(jnp.int8), memory,
            state.objective_state,
            grads=(walking * values.shape[1]).astype(jnp.int32),
            queries=(~idle * spec.cost.forwards).astype(jnp.int32),
        )  # fmt: skip

    spec = minimal_spec(objective, ball, num_steps, "deepfool", backwards=num_classes)
    return assemble(propose, init_direction, spec, random_start=False)


def _move(
    overshoot: float, search_steps: int, ball_: Ball, values: Array, slopes: Array,
    success: Array, x: Array, x0: Array,
    memory: DeepfoolState,
) -> tuple[Array, DeepfoolState, Array]:  # fmt: skip
    """Step to the nearest boundary, or bisect back; return whether any gradient was of use."""
    dual = jax.vmap(ball_.dual_norm)(slopes)
    usable = (dual > 0) & jnp.isfinite(values)
    lengths = jnp.where(usable, jnp.abs(values) / jnp.where(usable, dual, 1), jnp.inf)
    at = jnp.argmin(lengths)
    length = jnp.where(jnp.any(usable), lengths[at] + _NUDGE, 0).astype(x.dtype)
    total = memory.total + length * ball_.steepest(slopes[at])
    walked = x0 + (1 + overshoot) * total

    idle = memory.found & (memory.line.tried >= search_steps)
    line = tree.where(memory.found & ~idle, memory.line.learn(success), memory.line)
    line = tree.where(success & ~memory.found, Line.to(x), line)
    # wrong when clean: there is nothing to take back
    clean = success & ~memory.found & (ball_.distance(x, x0) == 0)
    line = line._replace(tried=jnp.where(clean, search_steps, line.tried))
    found = memory.found | success
    new = within(ball_, jnp.where(found, line.middle(x0), walked), x0)
    new = jnp.where(found & (line.tried >= search_steps), x, new)
    return new, DeepfoolState(total, found, line), jnp.any(usable)


def _linearise(
    objective: Objective, x: Array, target: Target, keys: Array, num_classes: int
) -> tuple[Array, Array, Eval, Array]:
    """Evaluate the model once, and differentiate its largest gaps.

    Returns:
      The gaps `[B, K]`, their gradients `[B, K, ...]` with non-finite entries set to zero, the
      evaluation of `x`, and `[B]` whether everything was finite.
    """

    def evaluate(x: Array) -> tuple[Array, Eval]:
        output = objective.ascent_apply(x, keys)
        evaluation = grade(output, target, objective.loss, objective.criterion)
        return jax.vmap(gaps)(output, target), evaluation

    def differentiate(x: Array) -> tuple[Array, Array, Eval]:
        every, pull, evaluation = jax.vjp(evaluate, x, has_aux=True)
        # of single labels the true class is one of the candidates, and no boundary
        count = min(num_classes, every.shape[1]) - (jnp.ndim(target) == 1)
        values, at = jax.lax.top_k(every, count)
        hot = jax.nn.one_hot(at, every.shape[1], dtype=every.dtype)
        slopes = jax.vmap(lambda cotangent: pull(cotangent)[0], 1, 1)(hot)
        return values, slopes, evaluation

    values, slopes, evaluation = in_fast_layout(differentiate)(x)
    if objective.approximate:
        evaluation = objective.judge(x, target, keys)
    finite = jnp.isfinite(slopes)
    axes = tuple(range(1, slopes.ndim))
    all_finite = jnp.all(finite, axes) & jnp.all(jnp.isfinite(values), 1)
    return values, jnp.where(finite, slopes, 0), evaluation, all_finite
