"""Configs as JSON and back, and what two configs differ in."""

import dataclasses
import types
import typing
from typing import Any

from advjax.config import TrainConfig

# where a run lies is no part of what it is: a folder may be moved
_FREE = ("out",)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts of what JSON can hold."""
    return dataclasses.asdict(config)


def config_from_dict(values: dict[str, Any], cls: type = TrainConfig, path: str = "") -> Any:
    """Make a config from nested dicts; absent fields keep their defaults.

    Args:
      values: as `config_to_dict` returns.
      cls: the dataclass.
      path: prefix of field names in errors.

    Raises:
      ValueError: a field is unknown, or a group of fields is not a dict.
    """
    if not isinstance(values, dict):
        raise ValueError(f"config: {path or cls.__name__} must be an object, got {values!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"config: unknown field {path + unknown[0]!r}; known: {', '.join(sorted(hints))}"
        )
    made = {name: _revive(hints[name], v, f"{path}{name}.") for name, v in values.items()}
    return cls(**made)


def _revive(hint: Any, value: Any, path: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and value is not None:
            return config_from_dict(value, typing.cast(type, option), path)
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            element = typing.get_args(option)[0]
            return tuple(_revive(element, v, path) for v in value)
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value) if int not in options else value
    return value


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    """Return `"optimizer.learning_rate: 0.1 -> 0.2"` for every field that differs."""
    found = []
    for name in sorted(set(old) | set(new)):
        if not path and name in _FREE:
            continue
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{path}{name}.")
        elif _plain(a) != _plain(b):
            found.append(f"{path}{name}: {a!r} -> {b!r}")
    return found


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
