"""DDN (Rony et al. 2019): the direction by gradients, the length by success and failure."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import tree
from advjax.attacks._kernel import Proposal, assemble, with_row_ball
from advjax.attacks._looks import Seen, count_looks, look, skip_looks, with_looks
from advjax.attacks._minimal import (
    Line,
    check_norm,
    farthest,
    minimal_spec,
    observe,
    within,
)
from advjax.types import Array, Attack, AttackState, Ball, Objective, Target

_LAST_STEP = 0.01  # share of the first step that the cosine ends with


class DdnState(NamedTuple):
    """Memory of one row.

    Attributes:
      radius: `[]`, length of the current perturbation before the bounds cut it.
      nearest: `[...]`, the nearest success so far; `distance`: `[]`, its length, else inf.
      line: the search at the end.
      searching: `[]` bool, whether the current point is a middle of the line.
      seen: the nearest boundary seen from the image.
    """

    radius: Array
    nearest: Array
    distance: Array
    line: Line
    searching: Array
    seen: Seen


class _Rule(NamedTuple):
    """What is static about a move: moves before the search, looks, and as in `ddn`."""

    gamma: float
    walk: int
    levels: int | None
    looks: int = 0


def ddn(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 100,
    init_radius: float = 1.0,
    gamma: float = 0.05,
    levels: int | None = None,
    ascend: str = "margin",
    search_steps: int | None = None,
) -> Attack:
    """DDN (Rony et al. 2019): the smallest Euclidean perturbation, by decoupled steps.

    Each move adds a unit step along the gradient (shrinking by a cosine from 1 to 0.01), then
    scales the whole perturbation to a radius that shrinks by `gamma` after a success and grows by
    `gamma` after a failure. A zero gradient is replaced by a random direction. The radius falls by
    at most `gamma` a move; the last `search_steps` moves therefore bisect between the image and
    the nearest success. A walk follows the most likely other class: the first moves look from the
    image at the others too (nine at most, in a tenth of the moves), and the last one before the
    search tries the point that is nearest to first order, where it is nearer than what was found.

    Args:
      objective: from `attacks.from_logits`.
      ball: `threat.l2()`, masked or not. Images are `[B, ...]`, usually `[B, H, W, C]` in [0, 1].
      num_steps: moves, those of the search included.
      init_radius: first radius, in pixel units.
      gamma: share by which the radius changes, in (0, 1).
      levels: evaluate points of so many equidistant pixel values only (256 for 8 bits); None: any.
      ascend: `"margin"` (best other logit minus the true one, whatever loss was given) or `"loss"`,
        that of the objective, without looks at other classes. Published is the cross entropy,
        which mixes all classes where logits are small, and then ends farther away.
      search_steps: moves of the final search; None: a tenth of `num_steps`; 0: as published.

    Returns:
      An `Attack` for the minimal norm: its `eps` is a radius beyond which nothing counts.

    Raises:
      ValueError: an argument is out of range, or the norm of the ball is another one.
    """
    check_norm("ddn", ball, ("l2",))
    if not 0 < gamma < 1 or init_radius <= 0:
        raise ValueError(
            f"ddn: gamma must be in (0, 1) and init_radius positive, got {gamma}, {init_radius}"
        )
    if ascend not in ("margin", "loss"):
        raise ValueError(f'ascend must be "margin" or "loss", got {ascend!r}')
    if levels is not None and levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}; None: no rounding")
    searches = num_steps // 10 if search_steps is None else search_steps
    if not 0 <= searches <= max(num_steps - 1, 0):
        raise ValueError(f"search_steps must be in [0, num_steps), got {search_steps}")
    rule = _Rule(gamma, num_steps - searches, levels)
    plain = objective
    if ascend == "margin":
        objective = with_looks(plain, num_steps)

    def init_direction(x0: Array) -> DdnState:
        rows = x0.shape[:1]
        return DdnState(
            radius=jnp.full(rows, init_radius, x0.dtype),
            nearest=x0,
            distance=jnp.full(rows, jnp.inf, x0.dtype),
            line=jax.vmap(Line.to)(x0),
            searching=jnp.zeros(rows, jnp.bool_),
            seen=Seen.nothing(x0),
        )

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        if ascend == "margin":
            state = skip_looks(plain, ball, state, x0)
        g, evaluation, objective_state, status = observe(objective, ball, state, target, keys)
        # the objective has had `keys`
        noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        looks = count_looks(plain, x0, target, keys, num_steps) if ascend == "margin" else 0
        move = functools.partial(_move, rule._replace(looks=looks))
        x, memory = with_row_ball(ball, move)(
            g, evaluation.ascent, evaluation.success, state.x, x0, state.step, noise_keys,
            state.direction_state,
        )  # fmt: skip
        return Proposal(x, evaluation, status, memory, objective_state)

    spec = minimal_spec(objective, ball, num_steps, "ddn")._replace(deterministic=False)
    return assemble(propose, init_direction, spec, random_start=False)


def _move(
    rule: _Rule, ball_: Ball, g: Array, value: Array, success: Array, x: Array, x0: Array,
    step: Array, key: Array,
    memory: DdnState,
) -> tuple[Array, DdnState]:  # fmt: skip
    """Look from the image, step along the gradient, or bisect back to the image."""
    looking = (step < rule.looks) & (ball_.distance(x, x0) == 0)
    if rule.looks:
        free = jnp.where(farthest(ball_, x0) != x0, g, 0)
        memory = memory._replace(seen=look("l2", ball_, free, value, x0, memory.seen, looking))
    new, after = _walk(rule, ball_, g, success, x, x0, step, key, memory)
    if rule.looks:
        point = _rounded(rule.levels, ball_, x0 + memory.seen.toward, x0)
        length = ball_.distance(point, x0)
        last = (step == rule.walk - 1) & (length > 0) & (length < after.distance)
        new = jnp.where(last, point, new)
    return tree.where(looking & (step < rule.looks - 1), (x, memory), (new, after))


def _walk(
    rule: _Rule, ball_: Ball, g: Array, success: Array, x: Array, x0: Array, step: Array,
    key: Array,
    memory: DdnState,
) -> tuple[Array, DdnState]:  # fmt: skip
    """Step along the gradient and scale to the radius, or bisect back to the image."""
    distance = ball_.distance(x, x0)
    closer = success & (distance < memory.distance)
    nearest = jnp.where(closer, x, memory.nearest)
    distance = jnp.where(closer, distance, memory.distance)

    radius = memory.radius * jnp.where(success, 1 - rule.gamma, 1 + rule.gamma).astype(x.dtype)
    radius = jnp.minimum(radius, ball_.distance(farthest(ball_, x0), x0))
    noise = jax.random.normal(key, x.shape, x.dtype)
    unit = ball_.steepest(jnp.where(ball_.dual_norm(g) > 0, g, noise))
    share = (1 + jnp.cos(jnp.pi * step.astype(x.dtype) / rule.walk)) / 2
    size = _LAST_STEP + (1 - _LAST_STEP) * share
    walked = x0 + radius * ball_.steepest(x - x0 + size * unit)

    line = tree.where(memory.searching, memory.line.learn(success), Line.to(nearest))
    searching = memory.searching | ((step >= rule.walk) & jnp.isfinite(distance))
    new = _rounded(rule.levels, ball_, jnp.where(searching, line.middle(x0), walked), x0)
    return new, DdnState(radius, nearest, distance, line, searching, memory.seen)


def _rounded(levels: int | None, ball_: Ball, x: Array, x0: Array) -> Array:
    """Return a point of the bounds, of so many pixel values where levels are given."""
    if levels is not None:
        low, high = (jnp.asarray(b, x.dtype) for b in ball_.bounds)
        unit = (high - low) / (levels - 1)
        x = low + jnp.round((x - low) / unit) * unit
    return within(ball_, x, x0)
