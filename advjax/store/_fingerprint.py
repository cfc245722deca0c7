"""A stable hash of configs and arrays: same content, same hash, on every machine."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def fingerprint(value: Any) -> str:
    """Return the sha256 of content, as 64 hexadecimal digits.

    Args:
      value: None, bool, int, float, str, bytes, Path, NumPy or JAX arrays and scalars,
        dataclasses, and mappings (order does not matter), lists and tuples of these.

    Returns:
      A hash that differs when a value, a type (1, 1.0 and True), a dtype, a shape or the name of
      a field differs. A list and a tuple of the same items are the same, as in JSON.

    Raises:
      ValueError: something of another type is inside, with the way to it.
    """
    digest = hashlib.sha256()
    _feed(digest, value, "value")
    return digest.hexdigest()


def jsonable(value: Any) -> Any:
    """Return the same content in JSON's types; what JSON has no word for becomes text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: jsonable(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _feed(digest: Any, value: Any, where: str) -> None:
    """Feed a value, tagged with its type and length so that no two contents run together."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        _put(digest, "dataclass", type(value).__name__.encode())
        _feed(digest, fields, where)
    elif isinstance(value, Mapping):
        _put(digest, "map", str(len(value)).encode())
        if not all(isinstance(key, str | int) for key in value):
            raise ValueError(f"fingerprint: {where} has keys that are neither text nor whole")
        for key in sorted(value, key=lambda k: (str(type(k)), k)):
            _put(digest, "key", json.dumps(key).encode())
            _feed(digest, value[key], f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        _put(digest, "list", str(len(value)).encode())
        for index, item in enumerate(value):
            _feed(digest, item, f"{where}[{index}]")
    elif isinstance(value, bytes):
        _put(digest, "bytes", value)
    elif isinstance(value, str | Path):
        _put(digest, "str", str(value).encode())
    elif value is None or isinstance(value, bool | int):
        _put(digest, type(value).__name__, repr(value).encode())
    elif isinstance(value, float):
        _put(digest, "float", float(value).hex().encode())
    else:
        _feed_array(digest, value, where)


def _feed_array(digest: Any, value: Any, where: str) -> None:
    """Feed an array: dtype, shape, little-endian bytes in C order."""
    array = np.asarray(value)
    if array.dtype.kind not in "biufcSU" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"fingerprint: {where} is a {type(value).__name__}; give plain values, dataclasses, "
            "mappings, lists or arrays of numbers"
        )
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    _put(digest, "array", f"{array.dtype.name}{array.shape}".encode())
    _put(digest, "data", np.ascontiguousarray(array).tobytes())


def _put(digest: Any, tag: str, data: bytes) -> None:
    """Feed one tagged, length-prefixed piece."""
    digest.update(f"{tag}:{len(data)}:".encode())
    digest.update(data)
