"""Clean and robust validation between epochs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from advjax.config import TrainConfig
from advjax.data import Dataset, Split
from advjax.models import Model
from advjax.training._evaluate import attacked_readouts, readouts, robust_scores, scores
from advjax.types import Batch

_ROWS = 128


def make_validation(
    config: TrainConfig, dataset: Dataset, model: Model, sharding: Any
) -> tuple[Callable[..., dict[str, float]], int]:
    """Make `(variables, tick) -> {"val_accuracy": ..., "robust_accuracy": ...}`.

    The robust part attacks the first `val_examples` images of a fixed random order with
    `val_attack` at `val_eps`. One clean program and one attack program serve every epoch.

    Args:
      config: what to attack with, and how much.
      dataset: its `"val"` split is used, never `"test"`.
      model: in evaluation mode.
      sharding: of the rows of a batch.

    Returns:
      The function, and how many batches it counts.
    """
    val: Split = dataset.splits["val"]
    count = len(val)
    attacked = count if config.val_examples is None else min(config.val_examples, count)
    order = np.random.default_rng(config.data.seed).permutation(count)
    chosen = np.sort(order[:attacked])
    # one size for both programs, a multiple of the devices
    rows = min(_ROWS, attacked or count)
    rows = -(-rows // config.devices) * config.devices
    part = val.select(chosen)
    eps = config.eps if config.val_eps is None else config.val_eps
    targets = np.asarray(val.targets)

    def place(batch: Batch) -> Batch:
        return jax.device_put(batch, sharding)

    def validate(variables: Any, tick: Callable[[], None]) -> dict[str, float]:
        clean = readouts(model, variables, val, dataset.task, rows, place=place, tick=tick)
        found = {f"val_{n}": v for n, v in scores(clean, targets, dataset.task).items()}
        if not attacked:
            return found
        broken = attacked_readouts(
            model,
            variables,
            part,
            config.val_attack,
            eps,
            task=dataset.task,
            batch_size=rows,
            seed=config.seed,
            place=place,
            tick=tick,
        )
        robust = robust_scores(clean[chosen], broken, targets[chosen], dataset.task)
        return {**found, **{f"robust_{n}": v for n, v in robust.items()}}

    return validate, -(-count // rows) + -(-attacked // rows)
