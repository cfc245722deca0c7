"""The words that every floor shares: what a loss, a ball, an objective and an attack are.

Everything here is a `NamedTuple` of pure functions or of arrays, so that it is a pytree,
prints itself, and needs no class of ours to be extended.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
PyTree = Any
Output = Any  # what a model returns: logits [B, C], or any pytree with leading [B]
Target = Any  # any pytree with leading [B]; one example's slice in losses and criteria

IGNORE = 255  # the class of a pixel of a mask that does not count


class LossFn(Protocol):
    """Loss of ONE example; attacks ascend it, training descends its mean."""

    def __call__(self, output: Output, target: Target, /) -> Array:
        """Return a scalar `[]`."""


class CriterionFn(Protocol):
    """What counts as success for ONE example; never the loss."""

    def __call__(self, output: Output, target: Target, /) -> Array:
        """Return a boolean scalar `[]`; a tie or a non-finite output is no success."""


class Ball(NamedTuple):
    """Geometry of a threat model around ONE example `x0`, intersected with the bounds.

    Attributes:
      name: `"linf"`, `"l2"`, ... for reports.
      project: `(x, x0, eps) -> x'`, the point of ball and bounds that belongs to `x`.
      sample: `(key, x0, eps) -> x`, a random point of ball and bounds. The key is consumed.
      steepest: `(g) -> d`, the unit direction of steepest ascent; zero where `g` is zero.
      distance: `(x, x0) -> []`, the norm of `x - x0`.
      dual_norm: `(g) -> []`, the dual norm: `max <g, d>` over the unit ball.
      bounds: `(low, high)`, scalars or arrays that broadcast against one example.
      rows: None, or `(bind, context)` for a ball that differs by row: `bind(context[i])` is row
        i's ball (a mask per image). `threat.over_rows` reads it.
    """

    name: str
    project: Callable[[Array, Array, Array], Array]
    sample: Callable[[Array, Array, Array], Array]
    steepest: Callable[[Array], Array]
    distance: Callable[[Array, Array], Array]
    dual_norm: Callable[[Array], Array]
    bounds: tuple[Any, Any] = (0.0, 1.0)
    rows: tuple[Callable[[Any], "Ball"], PyTree] | None = None


class Cost(NamedTuple):
    """Forward and backward passes of one call of an objective; static, so that costs are true."""

    forwards: int
    backwards: int


class Eval(NamedTuple):
    """What an objective says of a batch of points.

    Attributes:
      loss: `[B]`, the task loss at the points themselves (negated when targeted). This is what
        `keep="best"` ranks and what results report.
      success: `[B]` bool, by the criterion, at the points themselves.
      ascent: `[B]`, what the attack differentiates. The same as `loss` for a plain objective;
        another one where a wrapper changed the objective (input diversity, SMIA).

    Where the objective is `approximate`, `evaluate` takes all three from its stand-in.
    """

    loss: Array
    success: Array
    ascent: Array


class Objective(NamedTuple):
    """What an attack ascends; the sole caller of the model. Batched.

    Attributes:
      init: `(x0, target, eps) -> state`, every leaf `[B, ...]`. Calls no model.
      evaluate: `(x, target, state, keys) -> (Eval, state)`; differentiable in `x`.
      judge: `(x, target, keys) -> Eval`, one plain evaluation of the points as they are.
      cost: passes per `evaluate`.
      apply: `(x, keys) -> output`, the model itself: what is judged.
      ascent_apply: `(x, keys) -> output`, what is differentiated instead; `apply` where the model
        itself is.
      loss: the task loss of one example, already signed by `targeted`.
      criterion: success of one example.
      deterministic: the value depends on `x` and `target` only (no keys).
      stationary: the same point has the same value and gradient at every step.
      with_loss: `(loss) -> Objective` that ascends another loss, wrappers included.
      plain: `evaluate` is the loss of `ascent_apply` at `x` and nothing else.
      approximate: loss and success of `evaluate` are those of a stand-in. Such a success is a
        claim, which counts only when `judge` says so too.
      composite: `judge` looks at several draws or members, where `apply` is one draw or their
        mean: verdicts are those of `judge`.
      targeted: the target is the wanted one.
      randomised: the model draws random numbers, so that verdicts depend on keys.
    """

    init: Callable[[Array, Target, Array], PyTree]
    evaluate: Callable[[Array, Target, PyTree, Array], tuple[Eval, PyTree]]
    judge: Callable[[Array, Target, Array], Eval]
    cost: Cost
    apply: Callable[[Array, Array], Output]
    ascent_apply: Callable[[Array, Array], Output]
    loss: LossFn
    criterion: CriterionFn
    deterministic: bool
    stationary: bool
    with_loss: Callable[[LossFn], "Objective"]
    plain: bool = False
    approximate: bool = False
    composite: bool = False
    targeted: bool = False
    randomised: bool = False


class AttackSpec(NamedTuple):
    """What is static about an attack; read by runners and by the engine.

    Attributes:
      num_steps: moves of a full run.
      objective: the objective it ascends.
      ball: its threat model.
      keep: `"best"` or `"last"`, which point is returned.
      deterministic: no randomness after the start.
      stationary: the same iterate always makes the same move (plain sign-PGD).
      cost: forward and backward passes per step.
      name: for reports.
      ties: `"later"` or `"earlier"`, which of two points of the same loss is the best one.
      minimal: it looks for the nearest success instead of one in a given ball. `eps` is then a
        radius beyond which nothing counts, and a run never ends with its first success.
    """

    num_steps: int
    objective: Objective
    ball: Ball
    keep: str
    deterministic: bool
    stationary: bool
    cost: Cost
    name: str = "attack"
    ties: str = "later"
    minimal: bool = False


class AttackState(NamedTuple):
    """What the next step needs; every leaf has a leading row axis `[B, ...]`.

    Attributes:
      x: `[B, ...]` the current iterate, not evaluated yet.
      best_x: `[B, ...]` the best point evaluated so far.
      best_loss: `[B]` its loss; minus infinity before the first evaluation.
      success: `[B]` whether `best_x` is a success.
      status: `[B]` int8, `advjax.status.Status`.
      step: `[B]` int32, moves made.
      num_grads: `[B]` int32, backward passes spent while the row was active.
      num_queries: `[B]` int32, forward passes spent while the row was active.
      key: `[B]` keys of the rows.
      direction_state: state of the direction (an optax state per row, and its row arguments).
      objective_state: state of the objective.
    """

    x: Array
    best_x: Array
    best_loss: Array
    success: Array
    status: Array
    step: Array
    num_grads: Array
    num_queries: Array
    key: Array
    direction_state: PyTree
    objective_state: PyTree


class AttackResult(NamedTuple):
    """What a run returns. `success`, `loss` and `distance` describe the returned `x_adv`.

    Attributes:
      x_adv: `[B, ...]`, inside ball and bounds.
      success: `[B]` bool.
      loss: `[B]`, the task loss (negated when targeted).
      distance: `[B]`, in the norm of the ball; inf where an attack for the minimal norm failed.
      num_steps: `[B]` int32, moves made.
      num_grads: `[B]` int32, backward passes spent while the row was active.
      status: `[B]` int8, `advjax.status.Status`.
      num_queries: `[B]` int32, forward passes spent while the row was active, those of the
        gradients and the final one included.
    """

    x_adv: Array
    success: Array
    loss: Array
    distance: Array
    num_steps: Array
    num_grads: Array
    status: Array
    num_queries: Array


class Attack(NamedTuple):
    """Three pure functions and a static spec.

    Attributes:
      init: `(keys, x0, target, eps, x_start=None) -> AttackState`; calls no model.
      step: `(state, x0, target, eps, freeze=False) -> AttackState`; differentiates the objective
        as often as `spec.cost` says: once, but for black boxes and for attacks that need a gradient
        for every class. With `freeze`, rows that have succeeded stay where they succeeded.
      finalize: `(state, x0, target, eps, freeze=False) -> AttackResult`; evaluates once, and the
        best point too where the objective is `approximate`.
      spec: the static part.

    An `Attack` closes over the parameters of the model, hence over tracers: build it inside the
    function that is jitted, and never return it from there.
    """

    init: Callable[..., AttackState]
    step: Callable[..., AttackState]
    finalize: Callable[..., AttackResult]
    spec: AttackSpec


class Batch(NamedTuple):
    """One batch of data.

    Attributes:
      image: `[B, H, W, C]` float32 in [0, 1].
      target: pytree with leading `[B]`: int32 labels `[B]`, multi-hot `[B, K]` (negative: unknown),
        or classes of pixels `[B, H, W]` (255: ignored); or float32 boxes `[B, M, 5]`.
      id: `[B]` int32, a stable identity of the example.
      valid: `[B]` bool; False marks padding, which contributes exactly zero.
    """

    image: Any
    target: Any
    id: Any
    valid: Any
