"""Result rows as Parquet parts beside a manifest. The parts are the truth, the manifest tells."""

import errno
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from advjax.store import _manifest
from advjax.store._files import file_name, remove_stale, write_atomic
from advjax.store._fingerprint import fingerprint, jsonable
from advjax.store._schema import REPEATING, SCHEMA, describe, to_table

_GROUP = ("model", "data", "attack", "eps", "restart")
_METADATA = b"advjax"
_SAME_EPS = 1e-9

Filter = str | float | Collection[str] | Collection[float] | None


class _Part(NamedTuple):
    """What is known of a part without reading its rows."""

    key: str
    path: Path
    identity: str | None
    groups: tuple[dict[str, Any], ...]  # _GROUP, rows, first and last example id


class Store:
    """The rows of one evaluation: `FOLDER/rows/part-*.parquet` and `FOLDER/manifest.json`.

        store = Store("runs/quickstart", identity={"weights": hash, "config": config})
        if not store.has(model="standard", attack="pgd", eps=8 / 255):
            store.write(columns, key="standard/pgd/8")
        pandas.read_parquet("runs/quickstart/rows")

    A part is written once, atomically: a kill at any moment leaves a store that opens, in which
    every part is whole. Parts that a person deletes are simply computed again.
    """

    def __init__(self, folder: str | Path, *, identity: Mapping[str, Any] | None = None) -> None:
        """Open a store, or make one.

        Args:
          folder: of the evaluation.
          identity: what the rows depend on, by name: hashes of weights and data, attack configs,
            seed, ... (anything `fingerprint` takes). None opens an existing store to read.

        Raises:
          FileNotFoundError: nothing is there and no identity was given.
          ValueError: the store holds rows of another identity, or a part is damaged.
        """
        self.folder = Path(folder)
        self.rows = self.folder / "rows"
        self._path = self.folder / "manifest.json"
        self._writable = identity is not None
        if identity is None and not self.rows.is_dir():
            raise FileNotFoundError(
                f"{self.folder}: no rows here; give the out folder of `advjax evaluate`"
            )
        self._manifest = _manifest.read_manifest(self._path)
        stored = self._manifest.get("identity")
        hashes = stored if identity is None else _manifest.identity_hashes(identity)
        if stored and hashes:
            _manifest.check_identity(self.folder, stored, hashes)
        self._identity = fingerprint(hashes) if hashes else None
        if self._writable:
            self.rows.mkdir(parents=True, exist_ok=True)
            for place in (self.folder, self.rows):
                remove_stale(place)
        written = {part["key"]: i for i, part in enumerate(self._manifest.get("parts", []))}
        found = sorted(self._scan(), key=lambda part: written.get(part.key, len(written)))
        self._parts = {part.key: part for part in found}
        if self._writable and stored is None:
            self._manifest = {"format": 1, "created": _manifest.now(), "identity": hashes or {}}
            self.write_manifest()

    @property
    def manifest(self) -> dict[str, Any]:
        """What `write_manifest` wrote, and the list of parts."""
        return {**self._manifest, "parts": [_listed(part) for part in self._parts.values()]}

    def keys(self) -> tuple[str, ...]:
        """Return the keys of the stored parts."""
        return tuple(self._parts)

    def num_rows(
        self,
        *,
        model: Filter = None,
        data: Filter = None,
        attack: Filter = None,
        eps: Filter = None,
        restart: Filter = None,
    ) -> int:
        """Count stored rows that match; each filter is a value, a collection of values or None."""
        wanted = {"model": model, "data": data, "attack": attack, "eps": eps, "restart": restart}
        return sum(
            group["rows"]
            for part in self._parts.values()
            for group in part.groups
            if _matches(group, wanted)
        )

    def has(
        self,
        *,
        model: Filter = None,
        data: Filter = None,
        attack: Filter = None,
        eps: Filter = None,
        restart: Filter = None,
    ) -> bool:
        """Whether any stored row matches; the filters are those of `num_rows`."""
        wanted = {"model": model, "data": data, "attack": attack, "eps": eps, "restart": restart}
        return self.num_rows(**wanted) > 0

    def write(self, columns: Mapping[str, Any], key: str, *, overwrite: bool = False) -> Path:
        """Write one part.

        Args:
          columns: as `advjax.store.SCHEMA`, each `[N]` (`target`, `probabilities`: `[N, L]`); a
            single value stands for N equal ones.
          key: name of the part, such as `"standard/pgd/0.03"`.
          overwrite: replace a stored part of the same key.

        Returns:
          The path of the part.

        Raises:
          ValueError: wrong columns, a row that is stored already, a part that is stored already,
            or a store opened to read.
          OSError: the disk is full; earlier parts are intact.
        """
        if not self._writable:
            raise ValueError(f"{self.folder}: opened to read; open it with an identity to write")
        if key in self._parts and not overwrite:
            raise ValueError(
                f"{self.folder}: part {key!r} is stored already; ask `keys()` first, "
                "or write it with overwrite=True"
            )
        table = to_table(columns)
        groups = _groups(table)
        self._refuse_overlap(table, groups, key)
        about = {"key": key, "identity": self._identity, "groups": groups}
        table = table.replace_schema_metadata({_METADATA: json.dumps(about).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(
            table, sink, compression="zstd", write_page_checksum=True, use_dictionary=REPEATING
        )
        path = self.rows / f"part-{file_name(key)}.parquet"
        write_atomic(path, sink.getvalue().to_pybytes())
        self._parts[key] = _Part(key, path, self._identity, tuple(groups))
        self.write_manifest()
        return path

    def table(
        self,
        columns: Sequence[str] | None = None,
        *,
        model: Filter = None,
        data: Filter = None,
        attack: Filter = None,
        eps: Filter = None,
        restart: Filter = None,
    ) -> pa.Table:
        """Read matching rows as an Arrow table; the arguments are those of `read`."""
        wanted = {"model": model, "data": data, "attack": attack, "eps": eps, "restart": restart}
        names = list(SCHEMA.names if columns is None else columns)
        unknown = [name for name in names if name not in SCHEMA.names]
        if unknown:
            raise ValueError(f"unknown column {unknown}; a row has {', '.join(SCHEMA.names)}")
        needed = list(dict.fromkeys([*names, *(n for n in _GROUP if wanted[n] is not None)]))
        schema = pa.schema([SCHEMA.field(name) for name in needed])
        tables = [schema.empty_table()]
        for part in self._parts.values():
            matching = [_matches(group, wanted) for group in part.groups]
            if any(matching):
                rows = _read(part.path, needed).cast(schema)
                tables.append(rows if all(matching) else rows.filter(_mask(rows, wanted)))
        return pa.concat_tables(tables).select(names)

    def read(
        self,
        columns: Sequence[str] | None = None,
        *,
        model: Filter = None,
        data: Filter = None,
        attack: Filter = None,
        eps: Filter = None,
        restart: Filter = None,
    ) -> dict[str, np.ndarray]:
        """Read matching rows as NumPy arrays.

        Args:
          columns: names; None: all.
          model: a value, a collection of values, or None for all; likewise the others.
          data: see model.
          attack: see model; `"none"` is the clean row.
          eps: see model; budgets closer than 1e-9 are the same.
          restart: see model.

        Returns:
          Columns `[N]`; `target` and `probabilities` are `[N, L]` where all rows are equally
          long, else `[N]` arrays.

        Raises:
          ValueError: a column does not exist, or a part is damaged.
        """
        table = self.table(columns, model=model, data=data, attack=attack, eps=eps, restart=restart)
        return {name: _to_numpy(table[name]) for name in table.column_names}

    def write_manifest(
        self,
        *,
        config: Any = None,
        inputs: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write `manifest.json`: what is given replaces what was there, the rest stays.

        Args:
          config: of the evaluation, a dataclass or a mapping.
          inputs: hashes of weights and data, by name.
          extra: whatever a reader of the rows needs; merged by name into what is there.

        Raises:
          ValueError: the store was opened to read.
          OSError: the disk is full; the old manifest is intact.
        """
        if not self._writable:
            raise ValueError(f"{self.folder}: opened to read; open it with an identity to write")
        kept = _manifest.stamped(self._manifest)
        if config is not None:
            kept["config"] = config
        if inputs is not None:
            kept["inputs"] = dict(inputs)
        if extra is not None:
            kept["extra"] = {**kept.get("extra", {}), **extra}
        self._manifest = jsonable(kept)
        _manifest.save_manifest(self._path, self.manifest)
        return self._path

    def _scan(self) -> Iterator[_Part]:
        """Look at the footers of all parts."""
        for path in sorted(self.rows.glob("part-*.parquet")):
            try:
                stored = pq.read_schema(path).metadata or {}
                about = json.loads(stored[_METADATA])
                part = _Part(about["key"], path, about["identity"], tuple(about["groups"]))
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                raise _damaged(path, error) from None
            if self._identity is None:  # a lost manifest: the parts must agree with each other
                self._identity = part.identity
            if part.identity != self._identity:
                raise ValueError(
                    f"{path}: belongs to another evaluation than the other parts; move it away, "
                    "or choose another out folder"
                )
            yield part

    def _refuse_overlap(self, table: pa.Table, groups: list[dict[str, Any]], key: str) -> None:
        """Raise where a row of another part is about the same thing."""
        for part in self._parts.values():
            near = [
                same
                for group in groups
                for old in part.groups
                if _matches(old, same := {name: group[name] for name in _GROUP})
                and old["first"] <= group["last"]
                and group["first"] <= old["last"]
            ]
            if part.key == key or not near:
                continue
            # most parts of one attack are about other images; that is seen without their groups
            ids = _read(part.path, ["example_id"])["example_id"].to_numpy()
            if not np.intersect1d(ids, table["example_id"].to_numpy()).size:
                continue
            stored = _read(part.path, ["example_id", *_GROUP])
            for same in near:
                old_ids, new_ids = (
                    rows.filter(_mask(rows, same))["example_id"].to_numpy()
                    for rows in (stored, table)
                )
                twice = np.intersect1d(old_ids, new_ids)
                if twice.size:
                    row = describe({**same, "example_id": int(twice[0])})
                    raise ValueError(
                        f"{self.folder}: {twice.size} row(s) of part {key!r} are stored already "
                        f"in part {part.key!r}, the first is {row}"
                    )


def _groups(table: pa.Table) -> list[dict[str, Any]]:
    """Return which (model, data, attack, eps, restart) a table covers, and how much of each."""
    found = table.group_by(list(_GROUP)).aggregate(
        [([], "count_all"), ("example_id", "min"), ("example_id", "max")]
    )
    renamed = {"count_all": "rows", "example_id_min": "first", "example_id_max": "last"}
    return found.rename_columns([renamed.get(n, n) for n in found.column_names]).to_pylist()


def _values(wanted: Any) -> list[Any]:
    """Return a filter as a list of values."""
    single = isinstance(wanted, str) or not isinstance(wanted, Collection)
    return [wanted] if single else list(wanted)


def _matches(group: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a group passes all filters."""
    for name, filter_ in wanted.items():
        if filter_ is None:
            continue
        tolerance = _SAME_EPS if name == "eps" else 0
        if not any(
            group[name] == value
            if isinstance(value, str)
            else abs(group[name] - value) <= tolerance
            for value in _values(filter_)
        ):
            return False
    return True


def _mask(table: pa.Table, wanted: Mapping[str, Any]) -> pa.Array:
    """Return which rows pass all filters."""
    keep = np.ones(table.num_rows, bool)
    for name, filter_ in wanted.items():
        if filter_ is None:
            continue
        if name == "eps":
            values = table[name].to_numpy()[:, None]
            keep &= (np.abs(values - np.array(_values(filter_))) <= _SAME_EPS).any(1)
        else:
            keep &= pc.is_in(
                table[name], pa.array(_values(filter_), SCHEMA.field(name).type)
            ).to_numpy()
    return pa.array(keep)


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of one part, checksums verified."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        return file.read(columns=list(columns)).replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> Exception:
    """Make the error of a part that cannot be read."""
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EMFILE:
        return error
    return ValueError(
        f"{path}: damaged part; delete this file and run the same evaluation again, "
        "which computes its rows anew and nothing else"
    )


def _listed(part: _Part) -> dict[str, Any]:
    """Describe a part in the manifest."""
    rows = sum(group["rows"] for group in part.groups)
    return {"key": part.key, "file": f"rows/{part.path.name}", "rows": rows}


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Turn a column into NumPy; lists become two-dimensional where that is possible."""
    if not pa.types.is_list(column.type):
        return np.array(column.to_numpy())  # a copy: what Arrow lends is read-only
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], column.type)
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    flat = np.array(lists.flatten().to_numpy(zero_copy_only=False))
    if lengths.size and (lengths == lengths[0]).all():
        return flat.reshape(lengths.size, int(lengths[0]))
    rows = np.empty(lengths.size, object)
    rows[:] = np.split(flat, np.cumsum(lengths)[:-1]) if lengths.size else []
    return rows
