"""FMN (Pintor et al. 2021): a ball whose radius follows the boundary while PGD walks on it."""

import functools
from typing import NamedTuple

import jax.numpy as jnp

from advjax import threat, tree
from advjax.attacks._kernel import Proposal, assemble, with_row_ball
from advjax.attacks._looks import Seen, count_looks, look, skip_looks, with_looks
from advjax.attacks._minimal import (
    check_norm,
    farthest,
    margin,
    minimal_spec,
    observe,
    within,
)
from advjax.types import Array, Attack, AttackState, Ball, Objective, Target

_euclidean = threat.l2()


class FmnState(NamedTuple):
    """Memory of one row.

    Attributes:
      radius: `[]`, of the ball on which the last point was projected.
      nearest: `[]`, distance of the nearest success so far, else inf.
      lost: `[]`, that radius over the distance of the last point, which bounds may have cut.
      seen: the nearest boundary seen from the image.
    """

    radius: Array
    nearest: Array
    lost: Array
    seen: Seen


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

    In all norms but l0, the first steps look from the image at the other classes (or findings),
    the nine most likely at most and in a tenth of the steps, for the point on any of their
    boundaries that is nearest to first order, within the bounds. There the walk starts in l2 and
    l-infinity; the published attack starts towards the most likely class, and stays with it. In
    l1 that point has few changed values, far out, from where a walk on a curved model ends farther
    away: the walk starts as published, and the last move tries that point where it is nearer than
    what was found. Linear models of up to ten classes are solved exactly.

    Each move goes a step along the gradient of the margin (best other logit minus the true one),
    then projects on a ball. Its radius is, before the first success, where the margin would vanish
    to first order, a share of `last_gamma` farther (else rounding can keep a point just short of
    the boundary for ever); from then on it shrinks by gamma after a success, to the nearest one at
    least, and grows by gamma after a failure. In l0 it changes by at least one. Where the bounds
    cut a point off that lay on the ball, as they do in l2, a radius is longer than the distance
    that it leads to, and is compared with distances by that ratio.

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
    plain = objective
    objective = objective.with_loss(margin) if norm == "l0" else with_looks(plain, num_steps)
    walk = _Walk(norm, num_steps, init_step, last_step, init_gamma, last_gamma)

    def init_direction(x0: Array) -> FmnState:
        radius = jnp.full(x0.shape[:1], 1 if norm == "l0" else jnp.inf, x0.dtype)
        infinite = jnp.full(x0.shape[:1], jnp.inf, x0.dtype)
        one = jnp.ones(x0.shape[:1], x0.dtype)
        return FmnState(radius, infinite, one, Seen.nothing(x0))

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        if norm != "l0":
            state = skip_looks(plain, ball, state, x0)
        g, evaluation, objective_state, status = observe(objective, ball, state, target, keys)
        looks = 0 if norm == "l0" else count_looks(plain, x0, target, keys, num_steps)
        x, memory = with_row_ball(ball, functools.partial(walk.move, looks))(
            g, evaluation.ascent, evaluation.success, state.x, x0, state.step,
            state.direction_state,
        )  # fmt: skip
        return Proposal(x, evaluation, status, memory, objective_state)

    spec = minimal_spec(objective, ball, num_steps, "fmn")
    return assemble(propose, init_direction, spec, random_start=False)


class _Walk(NamedTuple):
    """The options of `fmn`, which says what they are."""

    norm: str
    num_steps: int
    init_step: float
    last_step: float
    init_gamma: float
    last_gamma: float

    def move(
        self, looks: int, ball: Ball, g: Array, value: Array, success: Array, x: Array, x0: Array,
        step: Array, memory: FmnState,
    ) -> tuple[Array, FmnState]:  # fmt: skip
        """Return the next point of ONE row and its memory, after `looks` looks from the image."""
        # only the pixels of a mask count
        free = farthest(ball, x0) != x0
        g, distance = jnp.where(free, g, 0), ball.distance(x, x0)
        nearest = jnp.where(success, jnp.minimum(distance, memory.nearest), memory.nearest)
        memory = memory._replace(nearest=nearest)
        if not looks:
            return self._step(ball, g, value, success, x, x0, step, memory)
        # who starts elsewhere, at a point of the caller's, has nothing to look at
        looking = (step < looks) & (distance == 0)
        seen = look(self.norm, ball, g, value, x0, memory.seen, looking)
        memory = memory._replace(seen=seen)
        walked, after = self._step(ball, g, value, success, x, x0, step, memory)
        point = within(ball, x0 + seen.toward, x0)
        radius = ball.distance(point, x0)
        if self.norm == "l1":
            last = (step == self.num_steps - 1) & (radius > 0) & (radius < nearest)
            walked = jnp.where(last, point, walked)
        else:
            first = looking & (step == looks - 1)
            after = after._replace(radius=jnp.where(first, radius, after.radius))
            walked = jnp.where(first, point, walked)
        return tree.where(looking & (step < looks - 1), (x, memory), (walked, after))

    def _step(
        self, ball: Ball, g: Array, value: Array, success: Array, x: Array, x0: Array, step: Array,
        memory: FmnState,
    ) -> tuple[Array, FmnState]:  # fmt: skip
        """Return the point of ONE row that a step and a projection lead to, and its memory."""
        cosine = (1 + jnp.cos(jnp.pi * step.astype(x.dtype) / self.num_steps)) / 2
        size = self.last_step + (self.init_step - self.last_step) * cosine
        change = self.last_gamma + (self.init_gamma - self.last_gamma) * cosine
        if self.norm == "l0":
            radius = _count(memory.radius, success, memory.nearest, change)
        else:
            missing = jnp.where(jnp.isfinite(value), jnp.abs(value), 0).astype(g.dtype)
            missing = missing / jnp.maximum(ball.dual_norm(g), 1e-12)
            grown = jnp.where(
                jnp.isfinite(memory.nearest),
                memory.radius * (1 + change),
                (ball.distance(x, x0) + missing) * memory.lost * (1 + self.last_gamma),
            )
            shrunk = jnp.minimum(memory.radius * (1 - change), memory.nearest * memory.lost)
            radius = jnp.where(success, shrunk, grown)
        radius = jnp.minimum(radius, ball.distance(farthest(ball, x0), x0))
        moved = x + size * _euclidean.steepest(g)
        new = ball.project(moved, x0, radius)
        there = jnp.maximum(ball.distance(new, x0), 1e-12)
        cut = (ball.distance(moved, x0) > radius) & (there > 0.1 * radius)
        lost = jnp.where(cut, jnp.maximum(radius / there, 1), 1)
        return new, memory._replace(radius=radius, lost=lost)


def _count(radius: Array, success: Array, nearest: Array, change: Array) -> Array:
    """Return the next number of pixels that may change."""
    fewer = jnp.minimum(jnp.minimum(radius - 1, jnp.floor(radius * (1 - change))), nearest)
    more = jnp.maximum(radius + 1, jnp.floor(radius * (1 + change)))
    return jnp.maximum(jnp.where(success, fewer, more), 0)
