"""Read a `.safetensors` file: eight bytes of length, a JSON header, raw little-endian numbers."""

import json
import os
from typing import Any

import numpy as np

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "<i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?",
}  # fmt: skip


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a file by their names; bfloat16 as float32.

    Raises:
      ValueError: the file is damaged, or holds numbers of another kind.
    """
    data = np.fromfile(path, np.uint8)
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError(f"{path}: no safetensors file, or cut off in its header")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
        found = {k: v for k, v in header.items() if k != "__metadata__"}
        return {name: _array(data[8 + length :], entry) for name, entry in found.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: a damaged safetensors file ({error})") from None


def _array(data: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _DTYPES:
        raise ValueError(f"numbers of type {kind}; known: {', '.join(_DTYPES)}")
    if not 0 <= start <= end <= len(data):
        raise ValueError(f"bytes {start} to {end} of {len(data)}")
    values = data[start:end].view(_DTYPES[kind]).reshape(shape)
    if kind == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values
