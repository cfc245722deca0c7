"""Checkpoints of a run: atomic, the newest two and the best one kept.

    with checkpoint.Checkpoints("runs/a/checkpoints") as store:
        store.save(3, {"model": variables}, score=0.91, info={"epoch": 3})
        trees = store.restore(store.best_step(), {"model": abstract})

A checkpoint is a folder named by its step that appears by a rename when it is complete and
disappears by a rename when it is no longer wanted, so that a process killed at any moment
leaves complete checkpoints only. This is the only module that imports orbax.
"""

import contextlib
import errno
import gc
import logging
import math
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

PyTree = Any

_TRASH = ".old"
_INFO = "info"
# file headers, tables of contents and folders of one checkpoint
_OVERHEAD = 2**18
# what a full or limited disk says: no space, quota, file size limit
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def abstract(tree: PyTree) -> PyTree:
    """Return shapes, dtypes and shardings of the leaves, for `Checkpoints.restore`."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


@jax.jit
def _copies(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.copy(leaf) for leaf in leaves]


def _owned(tree: PyTree) -> PyTree:
    """Copy the jax arrays of a tree into buffers that a program made.

    On a CPU, the first training step on the buffers that the storage library hands out rounded
    otherwise in a quarter of the resumed runs (24 of 24 the same on copies), so that a resumed run
    was not the uninterrupted one to the last bit.
    """
    leaves, structure = jax.tree.flatten(tree)
    places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
    for n, copy in zip(places, _copies([leaves[n] for n in places]), strict=True):
        leaves[n] = copy
    return jax.tree.unflatten(structure, leaves)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, from Python or from the storage library, says that a disk is full."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return bool(code and int(code.group(1)) in _FULL) or "No space left on device" in str(error)


def disk_full(what: str, folder: Path | str) -> OSError:
    """Make the error that says what could not be written where, and what to do.

    Args:
      what: for instance `"checkpoint 3"`.
      folder: where it was to be written.
    """
    error = OSError(
        f"disk full: {what} could not be written in {folder}; what was saved before is intact. "
        "Free some space there (or move the run folder to a larger disk) and start the same "
        "command again: it goes on from the last complete checkpoint"
    )
    error.errno = errno.ENOSPC  # without a strerror, str() stays the sentence above
    return error


class Checkpoints:
    """The checkpoints of one run, newest two and best one kept; a context manager.

    Args:
      folder: where they are; created unless `read_only`.
      read_only: look only. Needed while another process may be writing, because an owner
        removes the remains of interrupted saves when it opens the folder.

    Raises:
      FileNotFoundError: `read_only` and the folder is missing.
      OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.folder = Path(folder).absolute()
        self._read_only = read_only
        if read_only and not self.folder.is_dir():
            raise FileNotFoundError(
                f"no checkpoints: {self.folder} is missing; train first (advjax train), or name "
                "the folder that holds config.json and checkpoints/"
            )
        if not read_only:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _explained(error, "the folder of checkpoints", self.folder) from error
            self._empty_trash()
            self._remove_partial("*")
        with _quiet():
            self._manager = ocp.CheckpointManager(self.folder, options=_options(read_only))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, error, trace
        self.close()

    def close(self) -> None:
        """Release the threads of the storage library."""
        with _quiet():
            self._manager.close()

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Return the newest complete step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Return the step of the highest score (of equal ones the later), or None."""
        return self._manager.best_step()

    def score(self, step: int) -> float:
        """Return the score that `step` was saved with."""
        return float(self._manager.metrics(step)["score"])

    def save(
        self,
        step: int,
        trees: Mapping[str, PyTree],
        *,
        score: float,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one checkpoint completely, then drop those no longer kept.

        Args:
          step: its number, larger than every earlier one.
          trees: named pytrees of jax or numpy arrays; each name can be restored alone.
          score: what `best_step` compares, higher is better.
          info: anything that JSON can hold.

        Raises:
          OSError: the disk is full or read-only; earlier checkpoints are intact.
          ValueError: the score is not finite, a leaf is no array, or the step exists already.
        """
        if not math.isfinite(score):
            raise ValueError(f"checkpoint {step}: score must be finite, got {score}")
        if step in self._manager.all_steps():
            raise ValueError(f"checkpoint {step} exists already in {self.folder}")
        if _INFO in trees:
            raise ValueError(f"trees: the name {_INFO!r} is taken; use another one")
        for name, tree in trees.items():
            _check_leaves(name, tree)
        items: dict[str, Any] = {name: ocp.args.StandardSave(t) for name, t in trees.items()}
        items[_INFO] = ocp.args.JsonSave(dict(info or {}))
        self._check_room(step, trees)
        try:
            with _quiet():
                args = ocp.args.Composite(**items)
                self._manager.save(step, args=args, metrics={"score": float(score)}, force=True)
        except Exception as error:
            self._remove_partial(step)
            raise _explained(error, f"checkpoint {step}", self.folder) from error
        self._empty_trash()

    def restore(self, step: int | None, abstracts: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """Read the named trees of one checkpoint.

        Args:
          step: a complete step, as `latest_step` and `best_step` return; None is refused.
          abstracts: for each wanted name, the tree with leaves that have shape and dtype (and
            sharding, if the arrays are to be placed on several devices): `abstract(tree)`.

        Returns:
          The trees, in the structure of `abstracts`.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          ValueError: it cannot be read, or holds other shapes than asked for.
        """
        self._require(step)
        items = {name: ocp.args.StandardRestore(tree) for name, tree in abstracts.items()}
        read = self._read(step, ocp.args.Composite(**items))
        return {name: _owned(read[name]) for name in abstracts}

    def info(self, step: int | None) -> dict[str, Any]:
        """Return the `info` that `step` was saved with.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          ValueError: it cannot be read.
        """
        self._require(step)
        args = ocp.args.Composite(**{_INFO: ocp.args.JsonRestore()})
        return dict(self._read(step, args)[_INFO])

    def _check_room(self, step: int, trees: Mapping[str, PyTree]) -> None:
        """Refuse before anything is written what the disk cannot hold.

        The storage library reports a full disk from several threads at once, in tracebacks.
        """
        needed = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(dict(trees)))
        if shutil.disk_usage(self.folder).free < needed + _OVERHEAD:
            raise disk_full(f"checkpoint {step} ({needed / 1e6:.1f} MB)", self.folder)

    def _require(self, step: int | None) -> None:
        if step is None or step not in self._manager.all_steps():
            known = ", ".join(map(str, self.steps())) or "none"
            wanted = "" if step is None else f" {step}"
            raise FileNotFoundError(
                f"no checkpoint{wanted} in {self.folder} (complete ones: {known}); train first, "
                "or name another run folder"
            )

    def _read(self, step: int | None, args: Any) -> Any:
        try:
            with _quiet():
                return self._manager.restore(step, args=args)
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
            raise ValueError(
                f"checkpoint {self.folder / str(step)} cannot be read: it is damaged, or it was "
                f"written by another model or configuration ({reason}). Remove that folder to "
                "fall back on the checkpoint before it, or start a new run folder"
            ) from error

    def _empty_trash(self) -> None:
        if not self._read_only:
            shutil.rmtree(self.folder / _TRASH, ignore_errors=True)

    def _remove_partial(self, step: int | str) -> None:
        """Remove what interrupted saves left; never touches a complete checkpoint."""
        for path in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


def _score(metrics: Any) -> float:
    return metrics["score"]


def _options(read_only: bool) -> ocp.CheckpointManagerOptions:
    policies = ocp.checkpoint_managers
    return ocp.CheckpointManagerOptions(
        # best_fn makes orbax store the scores at all; the policy decides what is kept
        best_fn=_score,
        best_mode="max",
        preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(2), policies.BestN(get_metric_fn=_score, n=1)]
        ),
        # synchronous: an error belongs to the save that caused it
        enable_async_checkpointing=False,
        # a rename, which a kill cannot leave half done as it can a recursive removal
        todelete_subdir=None if read_only else _TRASH,
        read_only=read_only,
        create=not read_only,
    )


def _check_leaves(name: str, tree: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        storable = isinstance(leaf, jax.Array | np.ndarray | int | float | bool)
        if not storable or isinstance(leaf, np.generic):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"checkpoint tree {name!r}: leaf {where} is a {type(leaf).__name__}; convert it "
                "with jnp.asarray (numpy scalars and strings cannot be stored)"
            )


def _explained(error: Exception, what: str, folder: Path) -> Exception:
    """Turn what the system says into one sentence; leave a mistake of the program as it is."""
    if is_disk_full(error):
        return disk_full(what, folder)
    if isinstance(error, OSError):
        return OSError(f"{what} could not be written in {folder}: {error}; check its permissions")
    return error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax and its threads from printing tracebacks of errors that are raised anyway."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    hook, thread_hook = sys.unraisablehook, threading.excepthook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    threading.excepthook = lambda _: None
    try:
        yield
    except BaseException:
        # futures that failed unseen complain when they are collected: here, or at the exit
        logging.getLogger("asyncio").addFilter(_is_no_echo)
        gc.collect()
        raise
    finally:
        sys.unraisablehook, threading.excepthook = hook, thread_hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_no_echo(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not any(word in text for word in ("orbax", "OCDBT", "ocdbt"))


def write_atomic(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Write a file so that it is either the old one or the complete new one, never a part.

    Args:
      path: the file.
      write: writes the new content to the path that it is given (in the same folder).

    Raises:
      OSError: it cannot be written; the old file is intact.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise _explained(error, target.name, target.parent) from error
    finally:
        temporary.unlink(missing_ok=True)
