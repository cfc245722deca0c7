"""The progress bar of a training run."""

import sys
from collections.abc import Callable
from typing import Any


def loading(show: bool) -> Callable[..., Any] | None:
    """Return what wraps a sequence of things to load in a bar, or None."""
    if not show:
        return None
    from tqdm import tqdm

    return lambda things: tqdm(things, desc="loading data", leave=False, file=sys.stderr)


class Progress:
    """A tqdm bar over all batches of a run, training and validation; a context manager.

    It appears after the first batch, so that the time of compiling does not spoil its rate.

    Args:
      per_epoch: batches of one epoch.
      epochs: epochs of the run.
      done: epochs done before.
      show: False makes every method but `say` a no-op.
    """

    def __init__(self, per_epoch: int, epochs: int, done: int, *, show: bool) -> None:
        self._per_epoch, self._epochs, self._epoch = per_epoch, epochs, done
        self._seen = per_epoch * done
        self._show = show
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._show and self._seen < self._per_epoch * self._epochs:
            print("compiling ...", end="\r", file=sys.stderr, flush=True)
        return self

    def __exit__(self, *details: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, epoch: int) -> None:
        """Name the epoch that begins."""
        self._epoch = epoch
        if self._bar is not None:
            self._bar.set_description(self._name(), refresh=False)

    def tick(self) -> None:
        """Count one batch."""
        self._seen += 1
        if self._bar is not None:
            self._bar.update()
        elif self._show:
            self._bar = self._open()

    def loss(self, value: float) -> None:
        """Show the mean loss of the epoch so far."""
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{value:.4f}", refresh=False)

    def say(self, line: str) -> None:
        """Print a line on stdout without tearing the bar."""
        if self._bar is None:
            print(line)
        else:
            self._bar.write(line)

    def _name(self) -> str:
        return f"epoch {self._epoch}/{self._epochs}"

    def _open(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self._per_epoch * self._epochs,
            initial=self._seen,
            unit="batch",
            desc=self._name(),
            dynamic_ncols=True,
            smoothing=0.05,
            file=sys.stderr,
        )
