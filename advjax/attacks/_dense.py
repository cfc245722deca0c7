"""Attacks on dense predictions: masks, and the cells of a detector.

Each is PGD's kernel with another loss to ascend (`losses.staged_cross_entropy` and others); what is
reported, and what ranks the points, stays the loss of the objective. A single label is a mask of
one pixel to them.
"""

import functools

import optax

from advjax import losses
from advjax.attacks._directions import StepSize, normalise_by_max_abs, steepest
from advjax.attacks._kernel import build_attack
from advjax.attacks._smia import step_transform
from advjax.attacks._wrappers import with_ascent
from advjax.losses._dense import check_pull
from advjax.types import Array, Attack, Ball, Objective

StepAbs = Array | float | None
DAG_STEP = 0.5 / 255


def segpgd(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 20,
    step_size: StepSize | None = None,
    step_size_abs: StepAbs = None,
    random_start: bool = True,
    keep: str = "best",
) -> Attack:
    """SegPGD (Gu et al. 2022): PGD that first breaks pixels, then keeps them broken.

    Ascends the cross entropy of the pixels, in which those still right weigh `1 - t / 2T` and
    wrong ones `t / 2T` at step t = 0 .. T - 1; see `losses.staged_cross_entropy`.

    Args:
      objective: from `attacks.from_logits`, of a model with logits `[B, H, W, K]` and masks
        `[B, H, W]`, or of a detector.
      ball: the threat model.
      num_steps: T.
      step_size: relative to eps, a number or a schedule; None: `2.5 / num_steps`, at most 1.
      step_size_abs: in pixel units, scalar or `[B]`, instead of `step_size`.
      random_start: start at a random point of the ball, else at the image.
      keep: `"best"` by the loss of the objective, or `"last"`.

    Raises:
      ValueError: both step sizes are given, `num_steps` is below 1, or the objective is wrapped.
    """
    loss = functools.partial(losses.staged_cross_entropy, targeted=objective.targeted)
    return _pgd(
        with_ascent(objective, loss, num_steps=max(num_steps, 1)), ball, num_steps, step_size,
        step_size_abs, random_start, keep, "segpgd",
    )  # fmt: skip


def cospgd(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 20,
    step_size: StepSize | None = None,
    step_size_abs: StepAbs = None,
    squash: str = "softmax",
    random_start: bool = True,
    keep: str = "best",
) -> Attack:
    """CosPGD (Agnihotri et al. 2023): PGD with pixels weighted by how right they are.

    Ascends the cross entropy of the pixels, each weighted by the cosine of its probabilities with
    its one-hot class; see `losses.cosine_cross_entropy`.

    Args: as `segpgd`, and
      squash: `"softmax"` or `"sigmoid"`, what makes probabilities of logits.

    Raises:
      ValueError: both step sizes are given, `num_steps` is below 1, `squash` is unknown, or the
        objective is wrapped.
    """
    if squash not in ("softmax", "sigmoid"):
        raise ValueError(f'squash must be "softmax" or "sigmoid", got {squash!r}')
    loss = functools.partial(
        losses.cosine_cross_entropy, targeted=objective.targeted, squash=squash
    )
    return _pgd(
        with_ascent(objective, loss), ball, num_steps, step_size, step_size_abs, random_start,
        keep, "cospgd",
    )  # fmt: skip


def dag(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 200,
    step_size: float | None = None,
    step_size_abs: StepAbs = None,
    shift: int = 1,
    active: str = "not_reached",
    against: str = "prediction",
    random_start: bool = False,
    keep: str = "best",
) -> Attack:
    """DAG (Xie et al. 2017): raise adversarial classes at the active pixels, or boxes, only.

    Each step adds the gradient of `losses.class_pull`, divided by its largest absolute value, times
    0.5/255. Untargeted, the adversarial class is the one `shift` places on; targeted, the wanted
    one. The defaults are those of the official code for segmentation; the paper has
    `active="correct", against="label"`. Of a detector the cells of `losses.detection_pixels` count,
    anew at each step: a box that has lost its class is no longer active.

    Published without a budget and stopped where at most 1 % of the pixels are active: that is
    `eps=1`, `stop="success"` and the criterion `pixel_accuracy_below(0.01)`, or, targeted,
    `pixels_reached(0.99)`. A run that goes on without an active pixel has no gradient, and says so.

    Args:
      objective: from `attacks.from_logits`, of a model with logits `[B, H, W, K]` and masks
        `[B, H, W]`, or of a detector (untargeted).
      ball: the threat model.
      num_steps: moves; 200 for segmentation and 150 for detection as published.
      step_size: largest change of a step relative to eps; None: see `step_size_abs`.
      step_size_abs: largest change of a step in pixel units, scalar or `[B]`; None: 0.5/255.
      shift: to the adversarial class, cyclically, no multiple of the number of classes.
      active: `"not_reached"` or `"correct"`, see `losses.class_pull`.
      against: `"prediction"` or `"label"`, see `losses.class_pull`.
      random_start: start at a random point of the ball, else at the image.
      keep: `"best"` by the loss of the objective, or `"last"`.

    Raises:
      ValueError: both step sizes are given, `num_steps` is below 1, a word is unknown or needs the
        true classes, or the objective is wrapped.
    """
    check_pull(active, against, targeted=objective.targeted)
    loss = functools.partial(
        losses.class_pull, targeted=objective.targeted, shift=shift, active=active, against=against
    )
    if step_size is None and step_size_abs is None:
        step_size_abs = DAG_STEP
    scale, row_args = step_transform(step_size, step_size_abs, 1.0)
    return build_attack(
        with_ascent(objective, loss), optax.chain(normalise_by_max_abs(), scale), ball,
        num_steps=num_steps, random_start=random_start, keep=keep, row_args=row_args,
        stationary=True, name="dag",
    )  # fmt: skip


def _pgd(
    objective: Objective,
    ball: Ball,
    num_steps: int,
    step_size: StepSize | None,
    step_size_abs: StepAbs,
    random_start: bool,
    keep: str,
    name: str,
) -> Attack:
    scale, row_args = step_transform(step_size, step_size_abs, min(1.0, 2.5 / max(num_steps, 1)))
    return build_attack(
        objective, optax.chain(steepest(), scale), ball, num_steps=num_steps,
        random_start=random_start, keep=keep, row_args=row_args,
        stationary=not callable(step_size), name=name,
    )  # fmt: skip
