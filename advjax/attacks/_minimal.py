"""What attacks for the minimal norm share: margins, the reach of a ball, a search on a line.

Their `eps` is only a radius beyond which a success does not count. No function here sees it, so
that it cannot change a path.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from advjax.attacks._kernel import ascend, make_spec
from advjax.types import (
    Array,
    AttackSpec,
    AttackState,
    Ball,
    Cost,
    Eval,
    Objective,
    PyTree,
    Target,
)


def check_norm(
    name: str, ball: Ball, known: tuple[str, ...], *, finite: bool = True, normalised: bool = False
) -> str:
    """Return the norm of a ball, masked or not.

    Args:
      name: of the attack.
      ball: what it was given.
      known: norms that it takes.
      finite: whether it needs finite bounds.
      normalised: whether it takes balls of `threat.normalised`.

    Raises:
      ValueError: `ball` is no `Ball`, its norm is none of `known`, or its geometry or its bounds
        are others than the attack can follow.
    """
    if not isinstance(ball, Ball):
        raise ValueError(f"ball: expected a Ball such as threat.l2(), got {ball!r}")
    norm, *changes = ball.name.split("-")
    if norm not in known:
        raise ValueError(f"{name}: knows the norms {', '.join(known)}, not {ball.name!r}")
    if "normalised" in changes and not normalised:
        raise ValueError(
            f"{name}: goes the shortest way in pixels, which in the ball {ball.name!r} is another "
            f"one; use threat.{norm}(), or deepfool"
        )
    if finite and not all(np.isfinite(bound).all() for bound in ball.bounds):
        raise ValueError(
            f"{name}: needs finite bounds of the pixels, got {ball.bounds}; give those of the "
            f"images, as in threat.{norm}((0, 1))"
        )
    return norm


def gaps(output: Array, target: Array) -> Array:
    """Return how far ONE example is beyond each decision that would break it, `[C]`.

    Single label: every other logit minus the true one, minus infinity for the true class itself.
    Multi-hot labels `[K]`: every known logit in the wrong direction. Some gap is positive exactly
    where the default criterion calls the example broken; NaN for a label that is no class.

    Raises:
      ValueError: there is one class only and labels are single.
    """
    if jnp.ndim(target) == 1:
        chex.assert_equal_shape([output, target])
        against = jnp.where(target > 0.5, -output, output)
        return jnp.where(target >= 0, against, -jnp.inf)
    chex.assert_rank(
        [output, target], [1, 0],
        custom_message="minimal-norm attacks need logits [B, C] and labels [B] or [B, K]",
    )  # fmt: skip
    if output.shape[0] < 2:
        raise ValueError("a margin needs at least 2 classes; for 1 logit use labels [B, 1]")
    hot = jnp.arange(output.shape[0]) == target
    true = jnp.sum(jnp.where(hot, output, 0))
    return jnp.where(jnp.any(hot), jnp.where(hot, -jnp.inf, output - true), jnp.nan)


def margin(output: Array, target: Array) -> Array:
    """Return the largest of `gaps`: a loss whose sign is the verdict, `[]`."""
    return jnp.max(gaps(output, target))


def observe(
    objective: Objective, ball: Ball, state: AttackState, target: Target, keys: Array
) -> tuple[Array, Eval, PyTree, Array]:
    """Differentiate the objective as `ascend` does, and believe the model itself only.

    These attacks turn back where they succeed: a false claim of a stand-in would lead them away.
    """
    g, evaluation, objective_state, status = ascend(
        objective, ball, state.x, target, state.objective_state, keys
    )
    if objective.approximate:
        ascent = evaluation.ascent
        evaluation = objective.judge(state.x, target, keys)._replace(ascent=ascent)
    return g, evaluation, objective_state, status


def minimal_spec(
    objective: Objective, ball: Ball, num_steps: int, name: str, backwards: int | None = None
) -> AttackSpec:
    """Return the spec of an attack whose evaluations are verdicts already (see `observe`)."""
    cost = Cost(
        objective.cost.forwards + objective.approximate,
        objective.cost.backwards if backwards is None else backwards,
    )
    judged = objective._replace(approximate=False)
    return make_spec(judged, ball, num_steps, "best", name, cost=cost, minimal=True)


def farthest(ball: Ball, x0: Array) -> Array:
    """Return the corner of the bounds farthest from ONE image; `x0` outside of a mask."""
    low, high = (jnp.asarray(b, x0.dtype) for b in ball.bounds)
    corner = jnp.where(x0 - low > high - x0, low, high)
    return ball.project(corner, x0, 2 * ball.distance(corner, x0) + 1)


def within(ball: Ball, x: Array, x0: Array) -> Array:
    """Return ONE point brought into the bounds, and back to `x0` outside of a mask."""
    low, high = (jnp.asarray(b, x0.dtype) for b in ball.bounds)
    x = jnp.clip(x, low, high)
    return ball.project(x, x0, 2 * ball.distance(x, x0) + 1)


class Line(NamedTuple):
    """A bisection between the image and a success, for one row.

    Attributes:
      end: `[...]`, the success; `share` 1 of the way.
      low: `[]`, the largest share that failed; `high`: the smallest that succeeded.
      tried: `[]` int32, middles judged so far.
    """

    end: Array
    low: Array
    high: Array
    tried: Array

    @classmethod
    def to(cls, end: Array) -> "Line":
        """Start one that ends at the success `end` `[...]`."""
        zero = jnp.zeros((), end.dtype)
        return cls(end, zero, zero + 1, jnp.zeros((), jnp.int32))

    def middle(self, x0: Array) -> Array:
        """Return the point to judge next."""
        return x0 + (self.low + self.high) / 2 * (self.end - x0)

    def learn(self, success: Array) -> "Line":
        """Take the verdict on `middle`."""
        share = (self.low + self.high) / 2
        return self._replace(
            low=jnp.where(success, self.low, share),
            high=jnp.where(success, share, self.high),
            tried=self.tried + 1,
        )
