"""Training methods: what loss the parameters descend. One file a method, one line in the table."""

from advjax.tasks import Task, get_task
from advjax.training.methods._attacked import (
    Version,
    divergence,
    forward,
    masked_mean,
    perturb,
    weighted,
)
from advjax.training.methods._base import Aux, Context, Helper, Inner, Method, compose
from advjax.training.methods._build import (
    HELPED,
    METHODS,
    build,
    drawn,
    iterated,
    one_step,
    random_step,
    trained_eps,
    training_ball,
)
from advjax.training.methods._draws import Draws, draw, rows_of
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

__all__ = [
    "HELPED",
    "METHODS",
    "Aux",
    "Context",
    "Draws",
    "Helper",
    "Inner",
    "Method",
    "Task",
    "Version",
    "awp",
    "build",
    "compose",
    "distillation",
    "divergence",
    "draw",
    "drawn",
    "fast",
    "fgsm",
    "forward",
    "free",
    "get_task",
    "gradient",
    "hat",
    "iterated",
    "maadvt",
    "mart",
    "masked_mean",
    "mixed",
    "mpadvt",
    "one_step",
    "perturb",
    "pgd",
    "random_step",
    "rows_of",
    "standard",
    "trades",
    "trained_eps",
    "training_ball",
    "weighted",
]
