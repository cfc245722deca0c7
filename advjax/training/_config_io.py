"""Configs as JSON and back, and what two configs differ in."""

import dataclasses
import numbers
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
      ValueError: a field is unknown, a value is of another type than its field, or a group of
        fields is not a dict.
    """
    if not isinstance(values, dict):
        raise ValueError(
            f"config: {path.rstrip('.') or cls.__name__} must be a group of fields, got {values!r}"
        )
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"config: unknown field {path + unknown[0]!r}; known: {', '.join(sorted(hints))}"
        )
    made = {name: _revive(hints[name], v, f"{path}{name}") for name, v in values.items()}
    return cls(**made)


def _revive(hint: Any, value: Any, where: str) -> Any:
    """Return a value as the type of its field has it, or say what was expected."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if dataclasses.is_dataclass(option):
            return config_from_dict(value, typing.cast(type, option), f"{where}.")
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            element = typing.get_args(option)[0]
            return tuple(_revive(element, v, f"{where}[{i}]") for i, v in enumerate(value))
        if option in (bool, str) and isinstance(value, option):
            return value
        # NumPy's numbers are numbers too; a bool is none
        if option is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return int(value)
        if option is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            return float(value)
    wanted = " or ".join(_word(option) for option in options)
    raise ValueError(f"config: {where} must be {wanted}, got {value!r}")


def _word(option: Any) -> str:
    """Name a type as a person would."""
    if typing.get_origin(option) is tuple:
        return f"a list, each entry {_word(typing.get_args(option)[0])}"
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    return words.get(option, "None")


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
