"""Training: one pure step, methods in a table, and a loop that can be killed at any moment.

    result = training.train(TrainConfig(out="runs/a", method="pgd", eps=4 / 255))
    model, variables, config, info = training.restore_model("runs/a")

Several seeds, learning rates, budgets or weights in one program:

    training.train_many([dataclasses.replace(config, seed=i, out=f"runs/a/seed-{i}") for i in ...])

The step alone, for programs of your own:

    step = jax.jit(training.make_train_step(model, method, optimizer), donate_argnums=0)
    state = training.init_state(model, method, optimizer, seed, image_shape)
    state, metrics = step(state, batch)
"""

from advjax.training import methods
from advjax.training._checks import uses_beta, uses_eps
from advjax.training._config_io import config_from_dict, config_to_dict
from advjax.training._evaluate import predict, predict_attacked, robust_scores, scores
from advjax.training._gap import (
    Goal,
    flip_predictions,
    generated,
    least_likely,
    towards,
)
from advjax.training._gap_loop import GapResult, load_gap, train_gap
from advjax.training._loop import TrainResult, train
from advjax.training._many import train_many
from advjax.training._optim import build_optimizer, learning_rate_at, set_learning_rate
from advjax.training._restore import restore_model
from advjax.training._state import (
    TrainState,
    eval_variables,
    init_state,
    join_variables,
    split_variables,
    step_key,
)
from advjax.training._step import make_train_step, unique_keys
from advjax.training._sums import NonFiniteLossError
from advjax.training._uap import UapResult, train_uap, uap_radius

__all__ = [
    "GapResult",
    "Goal",
    "NonFiniteLossError",
    "TrainResult",
    "TrainState",
    "UapResult",
    "build_optimizer",
    "config_from_dict",
    "config_to_dict",
    "eval_variables",
    "flip_predictions",
    "generated",
    "init_state",
    "join_variables",
    "learning_rate_at",
    "least_likely",
    "load_gap",
    "make_train_step",
    "methods",
    "predict",
    "predict_attacked",
    "restore_model",
    "robust_scores",
    "scores",
    "set_learning_rate",
    "split_variables",
    "step_key",
    "towards",
    "train",
    "train_gap",
    "train_many",
    "train_uap",
    "uap_radius",
    "unique_keys",
    "uses_beta",
    "uses_eps",
]
