"""The alarm of one-step training: accuracy under PGD-5 after every epoch (Wong et al. 2020).

A model that is trained on single steps may collapse within an epoch to one that single steps no
longer break and every iterated attack does. The accuracy that training prints then rises.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from advjax.config import AttackConfig, TrainConfig
from advjax.data import Dataset
from advjax.models import Model
from advjax.training._evaluate import attacked_readouts, readouts, robust_scores
from advjax.types import Batch

PROBED = ("fast", "fgsm", "free")
POLICIES = ("warn", "stop", "ignore")
SCORE = "pgd5_accuracy"
ALARM = "overfitting"
DROP = 0.2
_EXAMPLES = 128


def make_probe(
    config: TrainConfig, dataset: Dataset, model: Model, eps: float, sharding: Any
) -> Callable[[Any], dict[str, float]]:
    """Make `(variables) -> {"pgd5_accuracy": ...}`, empty for methods that do not collapse.

    The accuracy is that over pixels for masks, and the recall for boxes.

    Args:
      config: its method, norm and `on_overfitting`.
      dataset: at most 128 images of its validation split are attacked, the same ones every time.
      model: in evaluation mode.
      eps: budget of training in pixel units.
      sharding: of the rows of a batch.
    """
    if config.method not in PROBED or config.on_overfitting == "ignore":
        return lambda variables: {}
    val = dataset.splits["val"]
    order = np.random.default_rng(config.data.seed).permutation(len(val))
    part = val.select(np.sort(order[:_EXAMPLES]))
    targets, task = np.asarray(part.targets), dataset.task
    rows = -(-len(part) // config.devices) * config.devices

    def place(batch: Batch) -> Batch:
        return jax.device_put(batch, sharding)

    def probe(variables: Any) -> dict[str, float]:
        clean = readouts(model, variables, part, task, rows, place=place)
        broken = attacked_readouts(
            model, variables, part, AttackConfig(name="pgd", num_steps=5, norm=config.norm), eps,
            task=task, batch_size=rows, seed=config.seed, place=place,
        )  # fmt: skip
        found = robust_scores(clean, broken, targets, task)
        return {SCORE: found["recall" if task == "detection" else "accuracy"]}

    return probe


def fell_by(record: dict[str, Any], history: Sequence[dict[str, Any]]) -> float:
    """Return by how much the score is below the best one of the epochs before."""
    earlier = [r[SCORE] for r in history if r.get(SCORE) is not None]
    return max(earlier, default=0.0) - record[SCORE] if SCORE in record else 0.0


def stops(config: TrainConfig, record: dict[str, Any]) -> bool:
    """Whether a run ends with this record."""
    return config.on_overfitting == "stop" and bool(record.get(ALARM))


def warning(config: TrainConfig, record: dict[str, Any], fall: float) -> str:
    """Say what happened and what to do."""
    what = "training stops here" if config.on_overfitting == "stop" else "training goes on"
    return (
        f"warning: {config.out}: catastrophic overfitting in epoch {record['epoch']}: accuracy "
        f"under PGD-5 fell by {100 * fall:.0f} points to {record[SCORE]:.4f}, while single steps "
        f"seem to be withstood; {what}. Use the best checkpoint, a smaller eps, fewer epochs, or "
        "method pgd"
    )
