"""What a sweep has decided, on disk: a killed sweep goes on with what is left.

A folder holds `identity.json`, which says what the sweep is about, and parts of decided examples,
each written whole or not at all. Verdicts do not depend on what else is in the pool, so that a
resumed sweep ends as one that was never interrupted.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from advjax.engine._stage import Stage, Tables

Done = Callable[[np.ndarray, Tables], None]


class KeptImages(Protocol):
    """Adversarial images `[N, ...]` and the index of the budget `[N]` that each is about."""

    images: np.ndarray
    budget: np.ndarray


class Known(NamedTuple):
    """What earlier runs found with one attack: `[n]` examples, their tables, and the work."""

    examples: np.ndarray
    tables: Tables | None
    computed: np.ndarray
    useful: np.ndarray

    def restore(self, tables: Tables, stage: Stage) -> None:
        """Put it into the tables of all examples and the counts of a stage."""
        if self.tables is None:
            return
        for column, rows in zip(tables, self.tables, strict=True):
            column[self.examples] = rows
        stage.computed += self.computed
        stage.useful += self.useful


class Ledger:
    """The folder of one sweep, of this process."""

    def __init__(self, folder: str | Path, identity: dict[str, Any], process: int, count: int):
        """Open the folder, or make it.

        Args:
          folder: made where it is not there.
          identity: by name, all that verdicts depend on, as JSON or hashes.
          process: number of this process; `count`: of how many.

        Raises:
          ValueError: the folder holds another sweep, with the names of what differs, or something
            else.
        """
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"resume: {folder} is a file; name a folder, which is made")
        if count > 1:
            self.folder = self.folder / f"process-{process}-of-{count}"
        path = self.folder / "identity.json"
        known = json.loads(json.dumps(identity))
        if path.exists():
            found = json.loads(path.read_text())
            other = sorted(k for k in {*found, *known} if found.get(k) != known.get(k))
            if other:
                raise ValueError(
                    f"resume: {folder} holds a sweep with another {', '.join(other)}; choose "
                    "another folder, or remove this one to start anew"
                )
            return
        # a kill in the middle of the first write leaves a hidden file
        if self.folder.is_dir() and any(p.name[0] != "." for p in self.folder.iterdir()):
            raise ValueError(f"resume: {folder} is not empty and holds no sweep; choose another")
        _write(path, json.dumps(known, indent=2).encode())

    def read(self, number: int, images: KeptImages | None) -> Known:
        """Return what is known of attack `number`; put its images among `images`.

        Raises:
          ValueError: a part is damaged, with its name.
        """
        parts = [self._load(path) for path in sorted(self.folder.glob(f"attack-{number}-*.npz"))]
        if not parts:
            return Known(np.zeros(0, int), None, np.zeros(1, int), np.zeros(1, int))
        examples = np.concatenate([part["examples"] for part in parts])
        if images is not None:
            for part in parts:
                images.images[part["examples"]] = part["images"]
                images.budget[part["examples"]] = part["budget"]
        columns = (np.concatenate([part[name] for part in parts]) for name in Tables._fields)
        computed, useful = (
            np.sum([part[name] for part in parts], axis=0) for name in ("computed", "useful")
        )
        return Known(examples, Tables(*columns), computed, useful)

    def writer(
        self, number: int, stage: Stage, images: KeptImages | None, then: Done | None
    ) -> Done:
        """Return a hook for decided examples of attack `number`, which calls `then` too."""
        written = [np.zeros_like(stage.computed), np.zeros_like(stage.useful)]

        def write(examples: np.ndarray, tables: Tables) -> None:
            work = [stage.computed - written[0], stage.useful - written[1]]
            written[:] = [stage.computed.copy(), stage.useful.copy()]
            kept = {}
            if images is not None:
                kept = {"images": images.images[examples], "budget": images.budget[examples]}
            file = io.BytesIO()
            np.savez(
                file, examples=examples, computed=work[0], useful=work[1], **kept,
                **tables._asdict(),
            )  # fmt: skip
            names = [path.stem for path in self.folder.glob(f"attack-{number}-*.npz")]
            part = max((int(name.rsplit("-", 1)[1]) + 1 for name in names), default=0)
            _write(self.folder / f"attack-{number}-{part:06d}.npz", file.getvalue())
            if then is not None:
                then(examples, tables)

        return write

    def _load(self, path: Path) -> dict[str, np.ndarray]:
        try:
            with np.load(path) as file:
                found = dict(file)
            missing = {*Tables._fields} - {*found}
            if missing:
                raise ValueError(f"no {', '.join(sorted(missing))}")
        except Exception as error:
            raise ValueError(
                f"resume: {path.name} in {self.folder} is damaged ({error}); remove it, its "
                "examples are attacked again"
            ) from error
        return found


def _write(path: Path, data: bytes) -> None:
    # the store loads pyarrow, which a sweep without a folder does not need
    from advjax.store import write_atomic

    write_atomic(path, data)
