"""The attacks of the field as compositions, each a few lines."""

import optax

from advjax import losses
from advjax.attacks._directions import (
    StepSize,
    normalise_by_mean_abs,
    smooth_gradient,
    steepest,
)
from advjax.attacks._kernel import build_attack
from advjax.attacks._smia import step_transform
from advjax.attacks._wrappers import with_input_diversity
from advjax.types import Array, Attack, Ball, Objective

StepAbs = Array | float | None


def fgsm(
    objective: Objective,
    ball: Ball,
    *,
    step_size: float | None = None,
    step_size_abs: StepAbs = None,
    keep: str = "last",
) -> Attack:
    """FGSM (Goodfellow et al. 2015): one step of the whole eps from the image.

    Args:
      objective: from `attacks.from_logits`.
      ball: the threat model.
      step_size: relative to eps; None: 1.
      step_size_abs: in pixel units, scalar or `[B]`, instead of `step_size`.
      keep: `"last"` (the default of one-step attacks) or `"best"`.

    Raises:
      ValueError: both step sizes are given.
    """
    scale, row_args = step_transform(step_size, step_size_abs, 1.0)
    return build_attack(
        objective, optax.chain(steepest(), scale), ball, num_steps=1, keep=keep,
        row_args=row_args, stationary=True, name="fgsm",
    )  # fmt: skip


def rs_fgsm(
    objective: Objective,
    ball: Ball,
    *,
    step_size: float | None = None,
    step_size_abs: StepAbs = None,
    keep: str = "last",
) -> Attack:
    """RS-FGSM (Wong et al. 2020, "Fast"): a random start, then one step of 1.25 eps.

    Args: as `fgsm`; `step_size` None: 1.25.

    Raises:
      ValueError: both step sizes are given.
    """
    scale, row_args = step_transform(step_size, step_size_abs, 1.25)
    return build_attack(
        objective, optax.chain(steepest(), scale), ball, num_steps=1, random_start=True,
        keep=keep, row_args=row_args, stationary=True, name="rs_fgsm",
    )  # fmt: skip


def bim(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 10,
    step_size: StepSize | None = None,
    step_size_abs: StepAbs = None,
    random_start: bool = False,
    keep: str = "best",
) -> Attack:
    """BIM (Kurakin et al. 2017): steps of `eps / num_steps` from the image.

    Args:
      objective: from `attacks.from_logits`.
      ball: the threat model.
      num_steps: moves.
      step_size: relative to eps, a number or a schedule; None: `1 / num_steps`.
      step_size_abs: in pixel units, scalar or `[B]`, instead of `step_size`.
      random_start: start at a random point of the ball.
      keep: `"best"` or `"last"`.

    Raises:
      ValueError: both step sizes are given, or `num_steps` is below 1.
    """
    scale, row_args = step_transform(step_size, step_size_abs, 1.0 / max(num_steps, 1))
    return build_attack(
        objective, optax.chain(steepest(), scale), ball, num_steps=num_steps,
        random_start=random_start, keep=keep, row_args=row_args,
        stationary=not callable(step_size), name="bim",
    )  # fmt: skip


def pgd(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 20,
    step_size: StepSize | None = None,
    step_size_abs: StepAbs = None,
    random_start: bool = True,
    keep: str = "best",
) -> Attack:
    """PGD (Madry et al. 2018): projected steepest ascent from a random point of the ball.

    Args: as `bim`; `step_size` None: `2.5 / num_steps`, at most 1; `random_start` True.

    Raises:
      ValueError: both step sizes are given, or `num_steps` is below 1.
    """
    scale, row_args = step_transform(step_size, step_size_abs, min(1.0, 2.5 / max(num_steps, 1)))
    return build_attack(
        objective, optax.chain(steepest(), scale), ball, num_steps=num_steps,
        random_start=random_start, keep=keep, row_args=row_args,
        stationary=not callable(step_size), name="pgd",
    )  # fmt: skip


def cw_linf(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 30,
    step_size: StepSize | None = None,
    step_size_abs: StepAbs = None,
    kappa: float = 50.0,
    random_start: bool = True,
    keep: str = "best",
) -> Attack:
    """CW-Linf: PGD on the margin loss of Carlini and Wagner (2017), whatever loss was given.

    Args: as `pgd`, and
      kappa: confidence in logits beyond which the loss is flat (50 in Dong et al. 2024).

    Raises:
      ValueError: both step sizes are given, or `num_steps` is below 1.
    """

    def margin(logits: Array, label: Array) -> Array:
        return losses.cw_margin(logits, label, kappa=kappa)

    attack = pgd(
        objective.with_loss(margin), ball, num_steps=num_steps, step_size=step_size,
        step_size_abs=step_size_abs, random_start=random_start, keep=keep,
    )  # fmt: skip
    return attack._replace(spec=attack.spec._replace(name="cw_linf"))


def mifgsm(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 10,
    step_size: StepSize | None = None,
    step_size_abs: StepAbs = None,
    decay: float = 1.0,
    random_start: bool = False,
    keep: str = "best",
) -> Attack:
    """MI-FGSM (Dong et al. 2018): momentum over gradients divided by their mean absolute value.

    Args: as `bim`, and
      decay: mu, how much of the momentum is kept.

    Raises:
      ValueError: both step sizes are given, or `num_steps` is below 1.
    """
    scale, row_args = step_transform(step_size, step_size_abs, 1.0 / max(num_steps, 1))
    return build_attack(
        objective, _momentum(decay, scale), ball, num_steps=num_steps,
        random_start=random_start, keep=keep, row_args=row_args, name="mifgsm",
    )  # fmt: skip


def difgsm(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 10,
    step_size: StepSize | None = None,
    step_size_abs: StepAbs = None,
    decay: float = 1.0,
    resize_rate: float = 1.1,
    probability: float = 0.5,
    random_start: bool = False,
    keep: str = "best",
) -> Attack:
    """DI-FGSM (Xie et al. 2019): MI-FGSM at randomly shrunk images.

    Args: as `mifgsm`, and
      resize_rate: see `with_input_diversity`.
      probability: see `with_input_diversity`.

    Raises:
      ValueError: both step sizes are given, or an argument is out of range.
    """
    diverse = with_input_diversity(objective, resize_rate=resize_rate, probability=probability)
    attack = mifgsm(
        diverse, ball, num_steps=num_steps, step_size=step_size, step_size_abs=step_size_abs,
        decay=decay, random_start=random_start, keep=keep,
    )  # fmt: skip
    return attack._replace(spec=attack.spec._replace(name="difgsm"))


def tifgsm(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 10,
    step_size: StepSize | None = None,
    step_size_abs: StepAbs = None,
    decay: float = 1.0,
    ksize: int = 15,
    sigma: float = 3.0,
    random_start: bool = False,
    keep: str = "best",
) -> Attack:
    """TI-FGSM (Dong et al. 2019): MI-FGSM on gradients smoothed by a Gaussian.

    Args: as `mifgsm`, and
      ksize: odd window of the Gaussian, in pixels.
      sigma: of the Gaussian, in pixels.

    Raises:
      ValueError: both step sizes are given, or an argument is out of range.
    """
    scale, row_args = step_transform(step_size, step_size_abs, 1.0 / max(num_steps, 1))
    return build_attack(
        objective, optax.chain(smooth_gradient(ksize, sigma), _momentum(decay, scale)), ball,
        num_steps=num_steps, random_start=random_start, keep=keep, row_args=row_args,
        name="tifgsm",
    )  # fmt: skip


def _momentum(
    decay: float, scale: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """The chain of the MI family."""
    return optax.chain(normalise_by_mean_abs(), optax.trace(decay), steepest(), scale)
