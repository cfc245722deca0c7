"""The metrics of an epoch, and what is said when they are no numbers."""

from typing import Any

import numpy as np

from advjax.config import TrainConfig


class NonFiniteLossError(ValueError):
    """The loss or the gradient became NaN or infinite."""


class Sums:
    """Sums of the metrics of an epoch.

    Args:
      config: of the run.
      epoch: its number, from 1.
      steps_per_epoch: steps of an epoch.
    """

    def __init__(self, config: TrainConfig, epoch: int, steps_per_epoch: int) -> None:
        self._config, self._epoch, self._seen = config, epoch, 0
        self._before = (epoch - 1) * steps_per_epoch
        self._totals: dict[str, float] = {}

    def add(self, values: dict[str, Any]) -> None:
        """Add what one step returned.

        Raises:
          NonFiniteLossError: loss or gradient are no numbers.
        """
        self._seen += 1
        _check_finite(self._config, values, self._epoch, self._before + self._seen)
        for name, value in values.items():
            self._totals[name] = self._totals.get(name, 0.0) + float(value)

    def loss(self) -> float:
        """Return the mean loss so far."""
        return self._totals["loss"] / self._totals["count"]

    def means(self) -> dict[str, float]:
        """Return the means over the examples of the epoch, of the gradient norm over its steps."""
        totals = dict(self._totals)
        count, norm = totals.pop("count"), totals.pop("grad_norm") / self._seen
        return {**{n: v / count for n, v in totals.items()}, "grad_norm": norm}


def _check_finite(config: TrainConfig, values: dict[str, Any], epoch: int, step: int) -> None:
    for name in ("loss", "grad_norm"):
        if not np.isfinite(values[name]):
            raise NonFiniteLossError(
                f"{config.out}: {name} is {float(values[name])} at step {step} (epoch {epoch}); "
                f"lower optimizer.learning_rate ({config.optimizer.learning_rate:g}) or set "
                "optimizer.grad_clip=1.0 and start again in a new folder; checkpoints of earlier "
                "epochs are intact"
            )
