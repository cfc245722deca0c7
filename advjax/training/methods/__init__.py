"""Training methods: what loss the parameters descend. One file a method, one line in the table."""

from collections.abc import Callable

from advjax import attacks, threat
from advjax.config import TrainConfig
from advjax.training.methods._base import (
    Aux,
    Inner,
    Method,
    Task,
    get_task,
    perturb,
    rows_of,
    weighted,
)
from advjax.training.methods.fgsm import fgsm
from advjax.training.methods.mixed import mixed
from advjax.training.methods.pgd import pgd
from advjax.training.methods.standard import standard
from advjax.types import Attack, Ball, Objective

__all__ = [
    "METHODS",
    "Aux",
    "Inner",
    "Method",
    "Task",
    "build",
    "fgsm",
    "get_task",
    "iterated",
    "mixed",
    "one_step",
    "perturb",
    "pgd",
    "rows_of",
    "standard",
    "weighted",
]

_BALLS = {"linf": threat.linf, "l2": threat.l2}


def _ball(config: TrainConfig) -> Ball:
    if config.norm not in _BALLS:
        raise ValueError(f"norm: unknown {config.norm!r}; use one of {', '.join(_BALLS)}")
    if config.norm == "linf" and config.eps > 1:
        raise ValueError(
            f"eps: {config.eps} is more than the whole range of pixels; budgets are in [0, 1] "
            "pixel units, for instance 8/255 = 0.0314"
        )
    return _BALLS[config.norm]()


def one_step(config: TrainConfig) -> Inner:
    """Make the FGSM that a config describes (from the clean image, one step of eps).

    Raises:
      ValueError: the norm is unknown.
    """
    ball = _ball(config)

    def make(objective: Objective) -> Attack:
        return attacks.fgsm(objective, ball)

    return Inner("fgsm", make, config.eps, config.batch_norm_attack)


def iterated(config: TrainConfig) -> Inner:
    """Make the PGD that a config describes: random start, `attack_steps`, the last iterate.

    Raises:
      ValueError: the norm is unknown, or a number is impossible.
    """
    ball = _ball(config)
    if config.attack_steps < 1:
        raise ValueError(f"attack_steps: expected at least 1, got {config.attack_steps}")
    size = config.attack_step_size
    if size is None:
        size = 2.5 / config.attack_steps
    if size <= 0:
        raise ValueError(f"attack_step_size: must be positive, got {size}")

    def make(objective: Objective) -> Attack:
        steps = config.attack_steps
        return attacks.pgd(objective, ball, num_steps=steps, step_size=size, keep="last")

    return Inner("pgd", make, config.eps, config.batch_norm_attack)


def _build_standard(config: TrainConfig, task: Task) -> Method:
    del config
    return standard(task)


def _build_fgsm(config: TrainConfig, task: Task) -> Method:
    return fgsm(task, one_step(config), update=config.batch_norm_update)


def _build_pgd(config: TrainConfig, task: Task) -> Method:
    return pgd(task, iterated(config), update=config.batch_norm_update)


def _build_mixed(config: TrainConfig, task: Task) -> Method:
    inners = (one_step(config), iterated(config))
    return mixed(task, inners, update=config.batch_norm_update)


METHODS: dict[str, Callable[[TrainConfig, Task], Method]] = {
    "fgsm": _build_fgsm,
    "mixed": _build_mixed,
    "pgd": _build_pgd,
    "standard": _build_standard,
}


def build(config: TrainConfig, task: str) -> Method:
    """Make the method that a config names.

    Args:
      config: `method`, `eps`, `norm`, `attack_*` and `batch_norm_*` are read.
      task: `"single"` or `"multi"`, the task of the data set.

    Raises:
      ValueError: an unknown method, task, norm or policy, or an impossible number.
    """
    if config.method not in METHODS:
        raise ValueError(f"method: unknown {config.method!r}; use one of {', '.join(METHODS)}")
    return METHODS[config.method](config, get_task(task))
