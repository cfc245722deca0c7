"""Files that are either whole or not there: temporary file, fsync, rename."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import time
from pathlib import Path

_TEMPORARY = re.compile(r"\.tmp-(\d+)-")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DAY = 86400.0


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one.

    Raises:
      OSError: the disk is full, with the remedy; or any other failure of the system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name[-80:]}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise OSError(
                error.errno,
                f"no space left while writing {path.name} ({len(data)} bytes) in {path.parent}: "
                "what was written before is intact; free some space and run the same command "
                "again, it goes on from there",
            ) from None
        raise
    _sync_folder(path.parent)


def remove_stale(folder: Path) -> None:
    """Remove temporary files whose writer is gone; those of a living process stay."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _TEMPORARY.match(path.name)
        if found and not _alive(int(found[1]), path):
            path.unlink(missing_ok=True)


def file_name(name: str) -> str:
    """Make a name that is safe on every file system and different for different names."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:80]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def _alive(process: int, path: Path) -> bool:
    """Whether the writer of a temporary file may still be at work."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _DAY:
            return False
    if os.name != "posix":  # elsewhere, signal 0 is not a question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
