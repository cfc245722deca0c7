"""From words to a typed config: a file first, then the fields given on the line."""

import dataclasses
import json
import os
import re
import runpy
import traceback
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from advjax import config
from advjax.cli._main import UsageError
from advjax.training import config_from_dict

Config = TypeVar("Config")
_UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
# 8/255, but not the folder 2024/05
_FRACTION = re.compile(r"^(--?[\w.-]+=)?((?!0\d)\d+(?:\.\d+)?)/((?!0)\d+(?:\.\d+)?)$")


def parse(cls: type[Config], argv: Sequence[str], *, command: str, description: str) -> Config:
    """Read a config.

    Args:
      cls: the frozen dataclass.
      argv: `[CONFIG] [--field value ...]`; CONFIG ends with `.py` or `.json`.
      command: name of the command, for the help.
      description: what the command does, for the help.

    Returns:
      The config. Exits with 2 on an unknown field or a value of another type, and with 0 after
      `--help`.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file has no such config.
    """
    before = ["", *argv]
    words = [w if _names_shard(b, w) else _decimal(w) for b, w in zip(before, argv, strict=False)]
    # one attack is named in the singular
    words = [re.sub(r"^--attack(?==|$)", "--attacks", word) for word in words]
    words = [re.sub(r"^--data(?==|$)", "--data.source", word) for word in words]
    default = cls()
    if words and not words[0].startswith("-"):
        default = read_config(words.pop(0), cls)
    return tyro.cli(
        cls,
        default=default,
        args=words,
        prog=f"advjax {command} [CONFIG]",
        description=description,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )


def read_config(path: str, cls: type[Config]) -> Config:
    """Read `config = ...` of a Python file, or the JSON of an earlier run.

    Raises:
      FileNotFoundError: the file does not exist.
      UsageError: it is neither Python nor JSON.
      ValueError: it holds no config of this class, unknown fields or values of another type, or
        it cannot be run; with the line of the file where that is known.
    """
    file = Path(path)
    if file.suffix not in (".py", ".json"):
        raise UsageError(f"{path!r} is no config: give a .py or .json file, or --field value")
    if not file.is_file():
        raise FileNotFoundError(f"{path}: there is no such config file")
    found = _json(file, cls) if file.suffix == ".json" else _run(file, cls)
    try:
        return config_from_dict(found, cls)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _json(file: Path, cls: type) -> dict[str, Any]:
    """Return the fields that a JSON file holds."""
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: no valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected the fields of a {cls.__name__}, found no object")
    return values.get("config", values)


def _run(file: Path, cls: type) -> dict[str, Any]:
    """Run a Python file and return the fields of its `config`."""
    try:
        found: Any = runpy.run_path(str(file)).get("config")
    except Exception as error:  # whatever a person's own file may raise
        if os.environ.get("ADVJAX_DEBUG"):
            raise
        raise ValueError(_mistake(file, error)) from None
    if not isinstance(found, cls):
        raise ValueError(
            f"{file}: expected `config = {cls.__name__}(...)`, found {type(found).__name__}"
        )
    return dataclasses.asdict(typing.cast(Any, found))


def _mistake(file: Path, error: Exception) -> str:
    """Say in one line what is wrong with a Python config: where, what, and what was meant."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(file)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f"{file}, line {line}" if line else f"{file}"
    unknown = _UNKNOWN.search(str(error))
    cls = getattr(config, unknown[1], None) if unknown else None
    if unknown and cls is not None:
        known = ", ".join(field.name for field in dataclasses.fields(cls))
        return f"{where}: {unknown[1]} has no field {unknown[2]!r}; known: {known}"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{where}: it imports {error.name!r}, which is not installed here; install it, or take "
            "the import out"
        )
    return f"{where}: {type(error).__name__}: {' '.join(str(error).split())}"


def _names_shard(before: str, word: str) -> bool:
    """Whether a word is `i/n` of `--shard`, which is no number."""
    return before == "--shard" or word.startswith("--shard=")


def _decimal(word: str) -> str:
    """Write 8/255 as a decimal number, so that budgets read as people say them."""
    match = _FRACTION.match(word)
    if match is None or float(match[3]) == 0:
        return word
    return f"{match[1] or ''}{float(match[2]) / float(match[3])!r}"
