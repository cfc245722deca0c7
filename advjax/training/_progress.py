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

    Args:
      per_epoch: batches of one epoch.
      epochs: epochs of the run.
      done: epochs done before.
      show: False makes every method but `say` a no-op.
    """

    def __init__(self, per_epoch: int, epochs: int, done: int, *, show: bool) -> None:
        self._per_epoch, self._epochs, self._done = per_epoch, epochs, done
        self._show = show
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._show:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._per_epoch * self._epochs,
                initial=self._per_epoch * self._done,
                unit="batch",
                desc="compiling",
                dynamic_ncols=True,
                smoothing=0.05,
                file=sys.stderr,
            )
        return self

    def __exit__(self, *details: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, epoch: int) -> None:
        """Name the epoch that begins."""
        if self._bar is not None and epoch > self._done + 1:
            self._bar.set_description(f"epoch {epoch}/{self._epochs}", refresh=False)

    def tick(self) -> None:
        """Count one batch."""
        if self._bar is not None:
            self._bar.update()

    def loss(self, value: float) -> None:
        """Show the mean loss of the epoch so far."""
        if self._bar is not None:
            if self._bar.desc.startswith("compiling"):
                self._bar.set_description(f"epoch {self._done + 1}/{self._epochs}", refresh=False)
            self._bar.set_postfix(loss=f"{value:.4f}", refresh=False)

    def say(self, line: str) -> None:
        """Print a line on stdout without tearing the bar."""
        if self._bar is None:
            print(line)
        else:
            self._bar.write(line)
