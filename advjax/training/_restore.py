"""A trained model out of the folder of its run."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from advjax import models
from advjax.checkpoint import Checkpoints
from advjax.config import TrainConfig
from advjax.models import Model
from advjax.training import _run
from advjax.training._state import join_variables, split_variables


def restore_model(
    run_dir: str | os.PathLike[str], which: str = "best"
) -> tuple[Model, dict[str, Any], TrainConfig, dict[str, Any]]:
    """Load the model of a training run.

    Args:
      run_dir: what `advjax train` wrote; it may have been moved, and may still be training.
      which: `"best"` by the validation split, or `"latest"`.

    Returns:
      `(model, variables, config, info)`. `variables` are the moving average where the run kept
      one. `info` describes the data (`name`, `task`, `num_classes`, `class_names`,
      `image_shape`, `num_examples`, `fingerprint`) and the checkpoint (`epoch`, `record`).

    Raises:
      FileNotFoundError: the folder is no run, or has no checkpoint yet.
      ValueError: `which` is unknown, or a file is damaged.
    """
    if which not in ("best", "latest"):
        raise ValueError(f"which: unknown {which!r}; use 'best' or 'latest'")
    header = _run.read_header(run_dir)
    config, info = _run.config_of(header), dict(header["dataset"])
    model = models.build(config.model, num_classes=info["num_classes"])
    images = jax.ShapeDtypeStruct((1, *info["image_shape"]), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    params, model_state = split_variables(_on_first_device(shapes))
    wanted = {"params": params, "model_state": model_state, "ema": None}
    if config.ema is not None:
        wanted["ema"] = {"params": params, "model_state": model_state}
    with Checkpoints(Path(run_dir) / _run.CHECKPOINTS, read_only=True) as store:
        step = store.best_step() if which == "best" else store.latest_step()
        tree = store.restore(step, {"model": wanted})["model"]
        record = store.info(step).get("record", {})
    source = tree if tree["ema"] is None else tree["ema"]
    variables = join_variables(source["params"], source["model_state"])
    return model, variables, config, {**info, "epoch": step, "record": record}


def _on_first_device(shapes: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def place(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, shapes)
