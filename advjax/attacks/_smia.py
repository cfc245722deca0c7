"""SMIA, the stabilized medical image attack (Qi, Gong, Song, Ma, Zheng, ICLR 2021).

Two modes. `clean` is what the paper's objective says: ascend

    a1 * J(f(x_t), y)  -  1{t > 0} * a2 * D(f(x_t), f(x + G * (x_t - x)))

with a proper Gaussian G on the perturbation, a soft reference that gets no gradient, and a
projection on the ball after every step. `reference` is what the authors' file does, its defects
included, for comparing with numbers made by it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import losses, tree
from advjax.attacks._directions import (
    gaussian_kernel,
    scale_by_eps,
    scale_by_step_size_abs,
    smooth,
    steepest,
)
from advjax.attacks._kernel import Proposal, ascend, assemble, build_attack, make_spec
from advjax.attacks._objective import check_plain, grade
from advjax.types import (
    Array,
    Attack,
    AttackState,
    Ball,
    Cost,
    Eval,
    Objective,
    Output,
    PyTree,
    Target,
)

DivergenceFn = Callable[[Output, Output], Array]


def with_stabilisation(
    objective: Objective,
    *,
    weight: float | Array = 1.0,
    deviation: float | Array = 1.0,
    ksize: int = 3,
    sigma: float = 1.0,
    target: str = "soft",
    smooth_what: str = "perturbation",
    divergence: DivergenceFn | None = None,
) -> Objective:
    """Add SMIA's stabilisation term to an objective.

    Ascends `deviation * J(f(x_t), y) - weight * D(f(x_t), f(x_s))`, where `x_s` has a smoothed
    perturbation and its prediction gets no gradient; the term is absent at the first point.
    `loss` and `success` stay those of the objective. Costs one more forward pass.

    Args:
      objective: from `attacks.from_logits`; other wrappers go around the result.
      weight: a2 of the paper.
      deviation: a1 of the paper.
      ksize: odd window of the Gaussian, in pixels.
      sigma: of the Gaussian, in pixels.
      target: `"soft"` compares with the prediction of `x_s`, `"hard"` with its decision.
      smooth_what: `"perturbation"` smooths all of `x_t - x`; `"last_step"` only the last move.
      divergence: `D(output, reference)` of one example; None: by the kind of the task,
        `losses.divergence` for a soft target and `losses.decision_loss` for a hard one.

    Raises:
      ValueError: an argument is unknown or out of range, or the objective is wrapped already.
    """
    check_plain("smia", objective)
    _check_choice("target", target, ("soft", "hard"))
    _check_choice("smooth", smooth_what, ("perturbation", "last_step"))
    kernel = gaussian_kernel(ksize, sigma)

    def init(x0: Array, y: Target, eps: Array) -> PyTree:
        started = jnp.zeros(x0.shape[:1], jnp.bool_)
        return tree.vary_like((x0, x0, started), x0)

    def evaluate(x: Array, y: Target, state: PyTree, keys: Array) -> tuple[Eval, PyTree]:
        x0, previous, started = state
        output = objective.ascent_apply(x, keys)
        plain = grade(output, y, objective.loss, objective.criterion)
        origin = x0 if smooth_what == "perturbation" else previous
        smoothed = origin + jax.vmap(lambda d: smooth(d, kernel, mode="reflect"))(x - origin)
        reference = objective.ascent_apply(jax.lax.stop_gradient(smoothed), keys)
        reference = jax.lax.stop_gradient(reference)
        distance, same = _divergence(output, reference, y, target, divergence)
        a2 = jnp.where(started, weight, 0)
        ascent = _deviate(plain.loss, distance, same, deviation, a2)
        stopped = jax.lax.stop_gradient(x)
        return plain._replace(ascent=ascent), (x0, stopped, jnp.ones_like(started))

    return objective._replace(
        init=init,
        evaluate=evaluate,
        cost=Cost(objective.cost.forwards + 1, objective.cost.backwards),
        stationary=False,
        plain=False,
        with_loss=lambda loss: with_stabilisation(
            objective.with_loss(loss),
            weight=weight,
            deviation=deviation,
            ksize=ksize,
            sigma=sigma,
            target=target,
            smooth_what=smooth_what,
            divergence=divergence,
        ),
    )


def smia(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 10,
    step_size: float | None = None,
    step_size_abs: Array | float | None = None,
    a1: float | Array = 1.0,
    a2: float | Array = 1.0,
    ksize: int = 3,
    sigma: float = 1.0,
    target: str = "soft",
    smooth: str = "perturbation",
    mode: str = "clean",
    kernel: str = "authors",
    divergence: DivergenceFn | None = None,
    random_start: bool = False,
    keep: str = "best",
) -> Attack:
    """SMIA, the stabilized medical image attack (Qi et al., ICLR 2021), in two modes.

    With one step, or with `a2=0`, the clean mode is FGSM, or BIM.

    `mode="reference"` does what the authors' file does: the step is the whole eps at every
    iteration and **nothing is projected on the ball**, so that the perturbation grows up to
    `num_steps * eps` (only the bounds hold; the file's own clamp lacks its bounds and raises); the
    reference is the hard decision at the last step's sign field smoothed by a window that is no
    Gaussian (`kernel="authors"`, see `reference_smoothing`). It needs two forward passes a step.

    Args:
      objective: from `attacks.from_logits`.
      ball: the threat model.
      num_steps: T, 10 to 20 in the literature.
      step_size: relative to eps; None: `1 / num_steps`, or 1 in reference mode.
      step_size_abs: in pixel units, scalar or `[B]`, instead of `step_size`.
      a1: weight of the deviation from the label.
      a2: weight of the stabilisation.
      ksize: window of the Gaussian.
      sigma: of the Gaussian.
      target: `"soft"` or `"hard"` reference prediction (reference mode: always hard).
      smooth: `"perturbation"` or `"last_step"` (reference mode: always the last step).
      mode: `"clean"` or `"reference"`.
      kernel: in reference mode `"authors"` (RGB only) or `"gaussian"` (`ksize`, `sigma`).
      divergence: see `with_stabilisation`.
      random_start: start at a random point of the ball.
      keep: `"best"` or `"last"`.

    Raises:
      ValueError: an argument is unknown, or both step sizes are given.
    """
    _check_choice("mode", mode, ("clean", "reference"))
    default = 1.0 if mode == "reference" else 1.0 / max(num_steps, 1)
    scale, row_args = step_transform(step_size, step_size_abs, default)
    if mode == "clean":
        stabilised = with_stabilisation(
            objective,
            weight=a2,
            deviation=a1,
            ksize=ksize,
            sigma=sigma,
            target=target,
            smooth_what=smooth,
            divergence=divergence,
        )
        return build_attack(
            stabilised,
            optax.chain(steepest(), scale),
            ball,
            num_steps=num_steps,
            random_start=random_start,
            keep=keep,
            row_args=row_args,
            name="smia",
        )
    _check_choice("kernel", kernel, ("authors", "gaussian"))
    check_plain("smia", objective)
    if random_start:
        raise ValueError('smia: mode="reference" starts at the image; random_start needs "clean"')
    window = None if kernel == "authors" else gaussian_kernel(ksize, sigma)
    size = step_size_abs if step_size_abs is not None else (step_size, default)
    return _reference_attack(objective, ball, num_steps, size, a1, a2, window, keep)


def step_transform(
    step_size: Any, step_size_abs: Array | float | None, default: float
) -> tuple[optax.GradientTransformationExtraArgs, dict[str, Array | float]]:
    """Return the last link of a chain and its row arguments, from the two ways to give a step.

    Raises:
      ValueError: both are given.
    """
    if step_size is not None and step_size_abs is not None:
        raise ValueError(
            "step_size (relative to eps) and step_size_abs (pixel units) are both given; "
            "give one of them"
        )
    if step_size_abs is not None:
        return scale_by_step_size_abs(), {"step_size_abs": step_size_abs}
    return scale_by_eps(default if step_size is None else step_size), {}


def reference_smoothing(field: Array) -> Array:
    """Smooth one sign field as the authors' file does (kernel 3, sigma 1).

    Their window is the normal density taken at the wrong end, [.574, .348, .078] instead of a
    symmetric one, and their axes are swapped: it mixes the channels, `k[o] * sum_i k[i]`, and adds
    the rows y - 2, y and y + 2 with equal weight (zero outside), so that the output channels sum to
    1.72, 1.04 and 0.23 instead of 1.

    Args:
      field: `[H, W, 3]`.

    Raises:
      ValueError: there are not 3 channels.
    """
    if field.ndim != 3 or field.shape[-1] != 3:
        raise ValueError(
            f"smia: the authors' kernel mixes 3 channels, got shape {field.shape}; "
            'use kernel="gaussian" for other images'
        )
    density = np.exp(-((np.linspace(-1.0, 1.0, 3) + 1.0) ** 2) / 2.0)
    k = jnp.asarray(density / density.sum(), field.dtype)
    mixed = jnp.sum(field * k, axis=-1)
    padded = jnp.pad(mixed, ((2, 2), (0, 0)))
    rows = padded[:-4] + padded[2:-2] + padded[4:]
    return rows[..., None] * k


def _reference_attack(
    objective: Objective,
    ball: Ball,
    num_steps: int,
    size: Any,
    a1: float | Array,
    a2: float | Array,
    window: np.ndarray | None,
    keep: str,
) -> Attack:
    low, high = ball.bounds

    def smoothed(field: Array) -> Array:
        return reference_smoothing(field) if window is None else smooth(field, window)

    def absolute(eps: Array) -> Array:
        if isinstance(size, tuple):
            relative = size[1] if size[0] is None else size[0]
            return relative * eps
        return jnp.where(eps > 0, jnp.broadcast_to(jnp.asarray(size, eps.dtype), eps.shape), 0)

    def init_direction(x0: Array) -> PyTree:
        # the image at which the stabilisation term asks for a decision, and whether there is one
        return tree.vary_like((x0, jnp.zeros(x0.shape[:1], jnp.bool_)), x0)

    def propose(state: AttackState, x0: Array, y: Target, eps: Array, keys: Array) -> Proposal:
        asked, started = state.direction_state
        decision = objective.ascent_apply(asked, keys)

        def evaluate(x: Array, y: Target, inner: PyTree, keys: Array) -> tuple[Eval, PyTree]:
            output = objective.ascent_apply(x, keys)
            plain = grade(output, y, objective.loss, objective.criterion)
            term, same = _divergence(output, decision, y, "hard", None)
            ascent = jnp.where(started, _deviate(plain.loss, term, same, a1, a2), plain.loss)
            return plain._replace(ascent=ascent), inner

        g, evaluation, inner, status = ascend(
            objective._replace(evaluate=evaluate), ball, state.x, y, state.objective_state, keys
        )
        sign = jnp.sign(g)
        step = tree.expand(absolute(eps), sign)
        asked = state.x + step * jax.vmap(smoothed)(sign)
        x = jnp.clip(state.x + step * sign, low, high)
        return Proposal(x, evaluation, status, (asked, jnp.ones_like(started)), inner)

    spec = make_spec(objective, ball, num_steps, keep, "smia-reference", more_forwards=1)
    return assemble(propose, init_direction, spec, random_start=False)


def _deviate(loss: Array, term: Array, same: Array, a1: float | Array, a2: float | Array) -> Array:
    """Return `a1 * loss - a2 * term`; where both are the same function, their difference exactly.

    With a1 = a2 the gradient of such a row is zero. Computed as a difference it would be rounding
    noise, whose sign is a full step.
    """
    equal = same & (loss == term)
    return jnp.where(equal, (a1 - a2) * loss, a1 * loss - a2 * term)


def _divergence(
    output: Output, reference: Output, y: Target, kind: str, given: DivergenceFn | None
) -> tuple[Array, Array]:
    """Return D `[B]` between two outputs, and whether it is a loss at the target itself."""
    if given is None and kind == "hard":
        return jax.vmap(losses.decision_loss)(output, reference, y)
    if given is None:
        distance = jax.vmap(losses.divergence)(output, reference, y)
    else:
        distance = jax.vmap(given)(output, reference)
    return distance, jnp.zeros(distance.shape, jnp.bool_)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"smia: {name} must be one of {', '.join(known)}, got {value!r}")
