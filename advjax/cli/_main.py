"""Which command, and what a failure looks like."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from advjax._version import __version__

HELP = """advjax: how robust is this medical image model?

usage: advjax COMMAND [CONFIG] [--field value ...]

commands:
  train     train a classifier, plainly or adversarially; goes on where a killed run stopped
  evaluate  attack trained models over many budgets and write rows, curves and a report
  sweep     the same by the engine, for a fraction of the gradients; grids, shards, clusters
  transfer  judge the adversarial images of each trained model by all the others
  report    make report.html and curves.png from stored rows again
  data      list [NAME] | check SOURCE | prepare NAME: what there is, and whether it is sound

CONFIG is a Python file with `config = TrainConfig(...)` (see experiments/configs/), or the
config.json of an earlier run; fields given after it win. `advjax COMMAND --help` lists them.

sources: phantom:{dermoscopy,xray,ct,fundus,endoscopy} | npz:PATH | folder:PATH | tfds:NAME
budgets are in [0, 1] pixel units; 8/255 may be written as 8/255.

example:
  advjax train --out runs/derm --method pgd --eps 4/255 --data.source phantom:dermoscopy
  advjax evaluate --runs runs/derm --out runs/derm-robustness
"""


_INTERRUPTED = "interrupted; the same command goes on where it stopped"


class UsageError(ValueError):
    """The words of the command line are off; exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: arguments without the program's name; None: those of the process.

    Returns:
      0 done, 1 failed, 2 wrong usage.
    """
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _silence()
        return 0
    return code


def _silence() -> None:
    """Send what is still to be printed nowhere, or Python complains of the pipe at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    try:
        with _interruptible_imports():
            command = _command(arguments[0])
        return command(arguments[1:]) or 0
    except UsageError as error:
        return _say(f"{error}", 2)
    except KeyboardInterrupt:
        return _say(_INTERRUPTED, 1)
    except SystemExit as stop:  # the parser has said why
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BrokenPipeError:
        raise  # an OSError, but no failure
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("ADVJAX_DEBUG"):
            raise
        return _say(_explain(error), 1)
    except Exception as error:
        if os.environ.get("ADVJAX_DEBUG"):
            raise
        lines = str(error).strip().splitlines() or [""]
        return _say(
            f"{type(error).__name__}: {lines[0][:300]} (not expected here; the same command with "
            "ADVJAX_DEBUG=1 shows where it comes from; what was saved is intact)",
            1,
        )


@contextlib.contextmanager
def _interruptible_imports() -> Iterator[None]:
    """End at once on Ctrl-C: extensions that are being loaded turn it into errors of their own."""
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before is not signal.default_int_handler:
        yield  # somebody else decides what an interrupt is
        return

    def stop(number: int, frame: Any) -> None:
        del number, frame
        os.write(2, f"advjax: {_INTERRUPTED}\n".encode())
        os._exit(1)  # nothing is open yet

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _command(name: str) -> Callable[[list[str]], int | None]:
    """Import a command only when it is asked for: `--help` must not wait for jax."""
    if name == "train":
        from advjax.cli._train import train as chosen
    elif name == "evaluate":
        from advjax.cli._evaluate import evaluate as chosen
    elif name == "sweep":
        from advjax.cli._sweep import sweep as chosen
    elif name == "transfer":
        from advjax.cli._transfer import transfer as chosen
    elif name == "report":
        from advjax.cli._report import report as chosen
    elif name == "data":
        from advjax.cli._data import data as chosen
    else:
        known = "train, evaluate, sweep, transfer, report, data"
        raise UsageError(f"unknown command {name!r}; known: {known}")
    return chosen


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ImportError) and "pip install" not in text:
        return f"{text}; install what the command line needs: pip install 'advjax[run]'"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and "space" not in text.lower():
        return f"{text}: no space left; free some and run the same command again"
    return text


def warn(text: str) -> None:
    """Say on one line of stderr what the user should doubt."""
    print(f"advjax: warning: {text}", file=sys.stderr)


def _say(text: str, code: int) -> int:
    print(f"advjax: {text}", file=sys.stderr)
    return code
