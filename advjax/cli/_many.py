"""Lists on the line of `advjax train`: one run for each combination, trained together."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from advjax import training
from advjax.cli._main import UsageError
from advjax.config import TrainConfig

# flag -> the name in folders
_LISTS = {
    "--seeds": "seed",
    "--optimizer.learning-rate": "lr",
    "--lr": "lr",
    "--eps": "eps",
    "--beta": "beta",
}
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")
_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(/\d+(\.\d*)?)?$", re.I)

Lists = dict[str, list[float]]


def split_lists(argv: Sequence[str]) -> tuple[list[str], Lists]:
    """Take the lists out of the words of a command line.

    `--seeds` is always a list, `0..3` or `0,2,5`; the other flags are where they have a comma.

    Returns:
      The other words, and the values by the name that folders have for them.

    Raises:
      UsageError: a list is empty, repeats a value, or has words that are no numbers.
    """
    rest: list[str] = []
    lists: Lists = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag not in _LISTS or (not equals and not words):
            rest.append(word)
            continue
        if not equals:
            value = words[0]
        if flag != "--seeds" and "," not in value:
            # one value is the parser's, which knows the long name only
            long = "--optimizer.learning-rate" if flag == "--lr" else word.partition("=")[0]
            rest.append(f"{long}{equals}{value if equals else ''}")
            continue
        if not equals:
            words.pop(0)
        lists[_LISTS[flag]] = _values(flag, value)
    return rest, lists


def _values(flag: str, text: str) -> list[float]:
    found = _RANGE.match(text)
    if found:
        values = [float(i) for i in range(int(found[1]), int(found[2]) + 1)]
    else:
        parts = [part for part in text.split(",") if part]
        wrong = [part for part in parts if not _NUMBER.match(part)]
        if wrong:
            raise UsageError(f"{flag}: {wrong[0]!r} is no number; write {flag} 0..3 or 1,2,4")
        values = [_number(part) for part in parts]
    if not values or len(set(values)) < len(values):
        raise UsageError(f"{flag}: expected different numbers, such as 0..3 or 1,2,4, got {text!r}")
    if flag == "--seeds" and any(v != int(v) or v < 0 for v in values):
        raise UsageError(f"{flag}: seeds are whole numbers, got {text!r}")
    return values


def _number(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom) if bottom else float(top)


def expand(config: TrainConfig, lists: Lists) -> list[TrainConfig]:
    """Return one config for every combination, in the folders OUT/seed-0, OUT/eps-0.01-seed-0, ...

    Args:
      config: what they share.
      lists: from `split_lists`.

    Raises:
      ValueError: the method takes no notice of a list, so that all its runs would be one.
    """
    for name, used in (("eps", training.uses_eps(config)), ("beta", training.uses_beta(config))):
        if name in lists and not used:
            raise ValueError(
                f"--{name}: {config.method} training takes no notice of it; leave the list out"
            )
    names = [name for name in ("lr", "eps", "beta", "seed") if name in lists]
    made = []
    for values in itertools.product(*(lists[name] for name in names)):
        given = dict(zip(names, values, strict=True))
        folder = "-".join(f"{name}-{value:.4g}" for name, value in given.items())
        one = dataclasses.replace(config, out=str(Path(config.out) / folder))
        if "seed" in given:
            one = dataclasses.replace(one, seed=int(given["seed"]))
        if "eps" in given:
            one = dataclasses.replace(one, eps=given["eps"])
        if "beta" in given:
            one = dataclasses.replace(one, beta=given["beta"])
        if "lr" in given:
            optimizer = dataclasses.replace(one.optimizer, learning_rate=given["lr"])
            one = dataclasses.replace(one, optimizer=optimizer)
        made.append(one)
    return made
