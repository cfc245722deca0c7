"""Where results come from: versions, revision, machine."""

import datetime
import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advjax._version import __version__
from advjax.store._files import write_atomic
from advjax.store._fingerprint import fingerprint, jsonable

_PACKAGES = ("chex", "flax", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "pyarrow")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; an absent one is empty.

    Raises:
      ValueError: the file is no JSON object, with the remedy.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        found = error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path}: damaged manifest; restore it, or choose another out folder and evaluate again"
        )
    return found


def save_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest atomically, as JSON that a person can read."""
    text = json.dumps(jsonable(manifest), indent=2, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode())


def identity_hashes(identity: Mapping[str, Any]) -> dict[str, str]:
    """Hash every entry of an identity, and the version of the package whose rows these are."""
    parts = {**identity, "advjax": __version__.split(".")[0]}
    return {name: fingerprint(parts[name]) for name in sorted(parts)}


def check_identity(folder: Path, stored: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Refuse to mix rows of different inputs or configs.

    Raises:
      ValueError: an entry differs, naming which, and the remedy.
    """
    names = sorted({*stored, *given})
    other = [name for name in names if stored.get(name) != given.get(name)]
    if other:
        raise ValueError(
            f"{folder}: holds rows of another evaluation, which differs in {', '.join(other)}; "
            "choose another out folder, or remove this one if its rows are not needed"
        )


def environment() -> dict[str, Any]:
    """Return versions of packages, Python, platform, and the git revision if there is one."""
    return {
        "versions": {"advjax": __version__, **_versions()},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_revision": git_revision(),
    }


def stamped(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the time and environment of now; an older one moves to `earlier`."""
    here = environment()
    before = {name: manifest[name] for name in here if name in manifest}
    earlier = list(manifest.get("earlier", []))
    if before and before != here:
        earlier.append({**before, "updated": manifest.get("updated")})
    return {**manifest, **here, "updated": now(), "earlier": earlier}


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def git_revision() -> str | None:
    """Return the commit of the sources that run (`-dirty` when changed), None outside git."""
    here = Path(__file__).resolve()
    # a revision counts only where git tracks this very file: not that of a folder around .venv
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = _git(here.parent, "rev-parse", "HEAD")
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return commit if commit is None or not changed else f"{commit}-dirty"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says, None where it fails or does not exist."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def _versions() -> dict[str, str]:
    """Return versions of what matters, of what is installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
