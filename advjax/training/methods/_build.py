"""From a config to a method: the table, and the attacks that configs describe."""

import math
from collections.abc import Callable

from advjax import attacks, threat
from advjax.config import TrainConfig
from advjax.tasks import Task, get_task
from advjax.training.methods._base import Context, Helper, Inner, Method
from advjax.training.methods._draws import Draws, check_draws
from advjax.training.methods.awp import awp
from advjax.training.methods.distillation import distillation
from advjax.training.methods.fast import fast
from advjax.training.methods.fgsm import fgsm
from advjax.training.methods.free import free
from advjax.training.methods.gradient import gradient
from advjax.training.methods.hat import hat
from advjax.training.methods.maadvt import maadvt
from advjax.training.methods.mart import mart
from advjax.training.methods.mixed import mixed
from advjax.training.methods.mpadvt import mpadvt
from advjax.training.methods.pgd import pgd
from advjax.training.methods.standard import standard
from advjax.training.methods.trades import trades
from advjax.types import Array, Attack, Ball, Objective, PyTree

NORMS = ("linf", "l2")
SPACES = ("pixels", "normalised")
# the methods that look at another, trained model
HELPED = ("distillation", "hat")
# the methods that compare probabilities of classes, clean and attacked or of two models
_COMPARING = ("distillation", "hat", "maadvt", "mart", "trades")
# of the Gaussian start of TRADES and MART, in pixel units
_NOISE = 0.001
_MPADVT_EPS = (0.01, 0.04)
_STEPS = (1, 9)
# steps in the papers' code, in the units of the ball
_MPADVT_STEP = 1 / 255
_MAADVT_STEP = 0.007


def training_ball(config: TrainConfig, bounds: tuple[float, float] = (0.0, 1.0)) -> Ball:
    """Make the ball that a config trains in.

    Raises:
      ValueError: the norm or the space is unknown, or eps is more than all of the pixels.
    """
    if config.norm not in NORMS:
        raise ValueError(f"norm: unknown {config.norm!r}; use one of {', '.join(NORMS)}")
    if config.space not in SPACES:
        raise ValueError(f"space: unknown {config.space!r}; use one of {', '.join(SPACES)}")
    if config.space == "normalised":
        return threat.normalised(config.norm, config.model.std, bounds)
    if config.norm == "linf" and config.eps > 1:
        raise ValueError(
            f"eps: {config.eps} is more than the whole range of pixels; budgets are in [0, 1] "
            "pixel units, for instance 8/255 = 0.0314"
        )
    return threat.by_name(config.norm, bounds)


def one_step(config: TrainConfig) -> Inner:
    """Make the FGSM that a config describes (from the clean image, one step of eps).

    Raises:
      ValueError: the norm is unknown.
    """
    ball = training_ball(config)

    def make(objective: Objective) -> Attack:
        return attacks.fgsm(objective, ball)

    return Inner("fgsm", make, config.eps, config.batch_norm_attack)


def random_step(config: TrainConfig) -> Inner:
    """Make the RS-FGSM that a config describes: a random start, one step of 1.25 eps.

    Raises:
      ValueError: the norm is unknown, or the step negative.
    """
    ball, size = training_ball(config), config.attack_step_size
    if size is not None and not 0 <= size < math.inf:
        raise ValueError(f"attack_step_size: must not be negative, got {size}")

    def make(objective: Objective) -> Attack:
        return attacks.rs_fgsm(objective, ball, step_size=size)

    return Inner("rs_fgsm", make, config.eps, config.batch_norm_attack)


def iterated(config: TrainConfig, *, noise: float | None = None) -> Inner:
    """Make the PGD that a config describes: `attack_steps`, the last iterate.

    Args:
      config: `eps`, `norm`, `space` and `attack_*` are read.
      noise: None: it starts at a random point of the ball; else the standard deviation of the
        Gaussian noise that it starts with.

    Raises:
      ValueError: the norm is unknown, or a number is impossible.
    """
    ball, steps = training_ball(config), config.attack_steps
    if steps < 1:
        raise ValueError(f"attack_steps: expected at least 1, got {steps}")
    size = _step_size(config)
    size = 2.5 / steps if size is None else size

    def make(objective: Objective) -> Attack:
        return attacks.pgd(objective, ball, num_steps=steps, step_size=size, keep="last")

    return Inner("pgd", make, config.eps, config.batch_norm_attack, noise)


def drawn(config: TrainConfig, draws: Draws, step: float, *, noise: float | None = None) -> Inner:
    """Make the PGD whose rows draw their budgets.

    Args:
      config: `norm`, `space`, `attack_step_size` and `batch_norm_attack` are read.
      draws: what is drawn.
      step: size of the steps in the units of the ball, where `attack_step_size` is None.
      noise: as for `iterated`.

    Raises:
      ValueError: the norm is unknown, or a number is impossible.
    """
    ball, relative = training_ball(config), _step_size(config)
    check_draws(draws)

    def make(objective: Objective) -> Attack:
        return attacks.pgd(
            objective, ball, num_steps=draws.steps[1], step_size=relative,
            step_size_abs=step if relative is None else None, keep="last",
        )  # fmt: skip

    return Inner("pgd", make, draws.eps[1], config.batch_norm_attack, noise, draws)


def _step_size(config: TrainConfig) -> float | None:
    size = config.attack_step_size
    if size is not None and not 0 < size < math.inf:
        raise ValueError(f"attack_step_size: must be positive, got {size}")
    return size


def _draws(config: TrainConfig, eps: tuple[float, float], share: float) -> Draws:
    """Return the ranges of a config; those of the paper where it has none."""
    for name in ("eps_range", "steps_range"):
        given = getattr(config, name)
        if given is not None and len(given) != 2:
            raise ValueError(f"{name}: expected two numbers, low and high, got {given}")
    low, high = eps if config.eps_range is None else config.eps_range
    fewest, most = _STEPS if config.steps_range is None else config.steps_range
    return Draws((low, high), (fewest, most), share, config.draw_per)


def trained_eps(config: TrainConfig) -> tuple[float, float]:
    """Return the smallest and the largest budget of a method that attacks."""
    if config.method == "mpadvt":
        return _draws(config, _MPADVT_EPS, 1.0).eps
    if config.method == "maadvt":
        return _draws(config, (config.eps, config.eps), 1.0).eps
    return config.eps, config.eps


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _standard(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    return standard(task, temperature=_or(config.temperature, 1.0))


def _fgsm(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    return fgsm(task, one_step(config), update=config.batch_norm_update)


def _pgd(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    return pgd(task, iterated(config), update=config.batch_norm_update)


def _mixed(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    inners = (one_step(config), iterated(config))
    return mixed(task, inners, update=config.batch_norm_update)


def _fast(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    return fast(task, random_step(config), update=config.batch_norm_update)


def _free(config: TrainConfig, task: Task, context: Context) -> Method:
    shape = context.image_shape
    whole = None if shape is None else (config.batch_size, *shape)
    ball = training_ball(config, (-math.inf, math.inf))
    return free(task, ball, config.eps, whole, replays=config.replays)


def _trades(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    inner = iterated(config, noise=_NOISE)
    return trades(task, inner, beta=_or(config.beta, 6.0), update=config.batch_norm_update)


def _mart(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    inner = iterated(config, noise=_NOISE)
    return mart(task, inner, beta=_or(config.beta, 6.0), update=config.batch_norm_update)


def _maadvt(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    draws = _draws(config, (config.eps, config.eps), 1.0)
    inner = drawn(config, draws, _MAADVT_STEP, noise=_NOISE)
    return maadvt(task, inner, beta=_or(config.beta, 6.0), update=config.batch_norm_update)


def _mpadvt(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    draws = _draws(config, _MPADVT_EPS, config.adversarial_share)
    return mpadvt(task, drawn(config, draws, _MPADVT_STEP), update=config.batch_norm_update)


def _hat(config: TrainConfig, task: Task, context: Context) -> Method:
    inner = iterated(config, noise=_NOISE)
    method = hat(
        task, inner, context.helper or _nobody(), beta=_or(config.beta, 2.5),
        gamma=config.hat_gamma, reach=config.hat_reach, update=config.batch_norm_update,
    )  # fmt: skip
    return _needs_helper(method, context)


def _distillation(config: TrainConfig, task: Task, context: Context) -> Method:
    temperature = _or(config.temperature, 20.0)
    method = distillation(task, context.helper or _nobody(), temperature=temperature)
    return _needs_helper(method, context)


def _gradient(config: TrainConfig, task: Task, context: Context) -> Method:
    del context
    return gradient(task, weight=config.gradient_weight)


def _nobody() -> Helper:
    """Stand in for a helper while a config is only checked."""

    def apply(variables: PyTree, images: Array) -> Array:
        raise ValueError("the helper is missing; give Context(helper=Helper(apply, variables))")

    return Helper(apply, {})


def _needs_helper(method: Method, context: Context) -> Method:
    if context.helper is not None:
        return method

    def init(params: PyTree) -> PyTree:
        raise ValueError(
            f"{method.name}: needs another model; give Context(helper=Helper(apply, variables)), "
            "or `advjax train --helper RUN`"
        )

    return method._replace(init=init)


METHODS: dict[str, Callable[[TrainConfig, Task, Context], Method]] = {
    "distillation": _distillation,
    "fast": _fast,
    "fgsm": _fgsm,
    "free": _free,
    "gradient": _gradient,
    "hat": _hat,
    "maadvt": _maadvt,
    "mart": _mart,
    "mixed": _mixed,
    "mpadvt": _mpadvt,
    "pgd": _pgd,
    "standard": _standard,
    "trades": _trades,
}


def build(config: TrainConfig, task: str, context: Context | None = None) -> Method:
    """Make the method that a config names, inside of `awp` where `config.awp` is positive.

    Args:
      config: `method` and what the method reads: budgets, weights, `batch_norm_*`.
      task: the task of the data set, see `tasks.TASKS`.
      context: the shape of the images for `free`, a trained model for `hat` and `distillation`;
        without it those methods can be built but not started.

    Raises:
      ValueError: an unknown method, task, norm or policy, or an impossible number.
    """
    if config.method not in METHODS:
        raise ValueError(f"method: unknown {config.method!r}; use one of {', '.join(METHODS)}")
    if task == "detection":
        _check_detection(config)
    method = METHODS[config.method](config, get_task(task), context or Context())
    if config.awp < 0:
        raise ValueError(f"awp: must not be negative, got {config.awp}; 0 switches it off")
    return awp(method, config.awp) if config.awp else method


def _check_detection(config: TrainConfig) -> None:
    """Refuse what detectors, which have no probabilities of classes, cannot do.

    Raises:
      ValueError: naming what they can.
    """
    if config.method in _COMPARING:
        known = ", ".join(sorted(set(METHODS) - set(_COMPARING)))
        raise ValueError(
            f"method: {config.method} compares probabilities of classes, which detectors do not "
            f"have; use one of {known}"
        )
    if config.method == "standard" and config.temperature not in (None, 1.0):
        raise ValueError("temperature: detectors have no softmax to soften; leave it out")
