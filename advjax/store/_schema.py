"""The columns of a result row, and the check that rows are what they should be."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# columns of few values: of the others a dictionary is larger than they are, and takes as long again
REPEATING = [
    "model", "data", "attack", "eps", "restart", "num_steps", "num_grads", "num_queries", "status",
]  # fmt: skip
IDENTITY = ("model", "data", "attack", "example_id", "eps", "restart")

SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("model", pa.string()),
            ("data", pa.string()),
            ("attack", pa.string()),  # "none" for the clean row, at eps 0
            ("example_id", pa.int64()),
            ("eps", pa.float64()),
            ("restart", pa.int32()),
            ("success", pa.bool_()),
            ("wrong_when_clean", pa.bool_()),
            ("evaluated", pa.bool_()),
            ("loss", pa.float32()),
            ("linf", pa.float32()),
            ("l2", pa.float32()),
            ("num_steps", pa.int32()),
            ("num_grads", pa.int32()),
            ("num_queries", pa.int32()),  # forward passes, those of the gradients included
            ("status", pa.int8()),
            ("confidence", pa.float32()),
            ("target", pa.list_(pa.int16())),
            ("probabilities", pa.list_(pa.float32())),  # empty where the output is not known
        )
    ]
)


def to_table(columns: Mapping[str, Any]) -> pa.Table:
    """Check columns and turn them into a table of `SCHEMA`.

    Args:
      columns: one entry per column, each `[N]`; `target` and `probabilities` are `[N, L]` or a
        sequence of N sequences. A single text, number or flag stands for N equal ones.

    Raises:
      ValueError: a column is missing, unknown, of the wrong type, length or range, or two rows
        are about the same (model, data, attack, example, eps, restart).
    """
    missing = [name for name in SCHEMA.names if name not in columns]
    unknown = [name for name in columns if name not in SCHEMA.names]
    if missing or unknown:
        raise ValueError(
            "rows: "
            + "; ".join(
                f"{what} column {', '.join(names)}"
                for what, names in (("missing", missing), ("unknown", unknown))
                if names
            )
            + f"; a row has exactly {', '.join(SCHEMA.names)}"
        )
    count = np.size(columns["example_id"])
    if count == 0:
        raise ValueError("rows: there is no row to write")
    arrays = [_column(field, columns[field.name], count) for field in SCHEMA]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA)
    _check_values(table)
    return table


def duplicates(table: pa.Table) -> pa.Table:
    """Return the identities that occur more than once."""
    counted = table.select(IDENTITY).group_by(list(IDENTITY)).aggregate([([], "count_all")])
    return counted.filter(pc.greater(counted["count_all"], 1))


def _surely_unique(table: pa.Table) -> bool:
    """Whether every identity occurs once: by counting, where they are dense, as those of sweeps."""
    places, size = np.zeros(table.num_rows, np.int64), 1
    for name in IDENTITY:
        codes = table[name].combine_chunks().dictionary_encode()
        size *= len(codes.dictionary)
        if size > 4 * table.num_rows:
            return False
        places = places * len(codes.dictionary) + codes.indices.to_numpy()
    return bool(np.bincount(places, minlength=1).max() <= 1)


def describe(row: Mapping[str, Any]) -> str:
    """Say which row is meant."""
    return ", ".join(f"{name}={row[name]!r}" for name in IDENTITY)


def _check_values(table: pa.Table) -> None:
    """Check what types cannot say."""
    eps = table["eps"].to_numpy()
    if not (np.isfinite(eps).all() and eps.min() >= 0):
        raise ValueError("rows: eps must be finite and not negative, in pixel units [0, 1]")
    clean = pc.equal(table["attack"], "none").to_numpy()
    if (eps[clean] != 0).any():
        raise ValueError('rows: attack "none" is the clean row, its eps must be 0')
    if _surely_unique(table):
        return
    twice = duplicates(table)
    if twice.num_rows:
        raise ValueError(
            f"rows: {twice.num_rows} row(s) occur twice, the first is "
            f"{describe(twice.slice(0, 1).to_pylist()[0])}"
        )


def _column(field: pa.Field, values: Any, count: int) -> pa.Array:
    """Turn one column into an Arrow array of the right type, or say what is wrong with it."""
    if pa.types.is_list(field.type):
        return _lists(field, values, count)
    if pa.types.is_string(field.type):
        if isinstance(values, str):
            return pa.repeat(pa.scalar(values, field.type), count)
        texts = list(values)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"rows: column {field.name} must hold text")
        found = np.array(texts, object)
    else:
        found = np.asarray(values)
        found = np.full(count, found) if found.ndim == 0 else found
    if found.shape != (count,):
        raise ValueError(
            f"rows: column {field.name} has shape {found.shape}, example_id has {count} rows"
        )
    text = pa.types.is_string(field.type)
    return pa.array(found if text else _cast(field, found), field.type)


def _lists(field: pa.Field, values: Any, count: int) -> pa.Array:
    """Turn `[N, L]`, or N sequences, into an Arrow list array."""
    if isinstance(values, np.ndarray) and values.ndim == 2 and len(values) == count:
        offsets = np.arange(count + 1, dtype=np.int32) * values.shape[1]
        items = pa.array(_cast(field, values).ravel(), field.type.value_type)
        return pa.ListArray.from_arrays(pa.array(offsets), items, type=field.type)
    rows = [np.atleast_1d(np.asarray(row)) for row in values]
    if len(rows) != count or any(row.ndim != 1 for row in rows):
        raise ValueError(
            f"rows: column {field.name} needs one flat list per row: [{count}, L], "
            f"got {len(rows)} rows of shape {rows[0].shape if rows else ()}"
        )
    offsets = np.concatenate([[0], np.cumsum([row.size for row in rows])]).astype(np.int32)
    flat = np.concatenate([row for row in rows if row.size] or [np.zeros(0, np.int16)])
    items = pa.array(_cast(field, flat), field.type.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=field.type)


def _cast(field: pa.Field, values: np.ndarray) -> np.ndarray:
    """Cast numbers to the type of the column where nothing is lost but float precision."""
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    wanted = np.dtype(kind.to_pandas_dtype())
    given = values.dtype.kind
    fits = {"b": "b", "i": "iu", "f": "fiu"}[wanted.kind]
    if values.size and given not in fits:
        raise ValueError(f"rows: column {field.name} must be {wanted}, got {values.dtype}")
    if wanted.kind == "i" and values.size:
        limit = np.iinfo(wanted)
        if values.min() < limit.min or values.max() > limit.max:
            raise ValueError(f"rows: column {field.name} does not fit into {wanted}")
    return values.astype(wanted)
