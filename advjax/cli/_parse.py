"""From words to a typed config: a file first, then the fields given on the line."""

import json
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from advjax.cli._main import UsageError
from advjax.training import config_from_dict

Config = TypeVar("Config")
_FRACTION = re.compile(r"^(--?[\w.-]+=)?(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)$")


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
    words = [_decimal(word) for word in argv]
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
      ValueError: it holds no config of this class, or unknown fields.
    """
    file = Path(path)
    if file.suffix not in (".py", ".json"):
        raise UsageError(f"{path!r} is no config: give a .py or .json file, or --field value")
    if not file.is_file():
        raise FileNotFoundError(f"{path}: there is no such config file")
    if file.suffix == ".json":
        try:
            values = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: no valid JSON ({error})") from None
        return config_from_dict(values.get("config", values), cls)
    found: Any = runpy.run_path(str(file)).get("config")
    if not isinstance(found, cls):
        raise ValueError(
            f"{path}: expected `config = {cls.__name__}(...)`, found {type(found).__name__}"
        )
    return found


def _decimal(word: str) -> str:
    """Write 8/255 as a decimal number, so that budgets read as people say them."""
    match = _FRACTION.match(word)
    if match is None or float(match[3]) == 0:
        return word
    return f"{match[1] or ''}{float(match[2]) / float(match[3])!r}"
