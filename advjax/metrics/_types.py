"""What metrics return, and the checks that they share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


class PerClass(NamedTuple):
    """One number per class, their mean, and the classes for which the number does not exist.

    Attributes:
      mean: over the classes where it is defined; NaN where it is defined for none.
      values: `[C]` float64, NaN where undefined.
      undefined: names of the classes left out of the mean. Never silently: print them.
    """

    mean: float
    values: Array
    undefined: tuple[str, ...]


class Rates(NamedTuple):
    """Sensitivity (share of positives found) and specificity (share of negatives cleared)."""

    sensitivity: PerClass
    specificity: PerClass


class Interval(NamedTuple):
    """A value with its interval; all three of the same shape, a scalar being `[]`."""

    value: Array
    low: Array
    high: Array


def per_class(values: Array, names: Sequence[str] | None) -> PerClass:
    """Average the defined values and name the others."""
    values = np.asarray(values, np.float64)
    labels = class_names(names, values.shape[0])
    defined = np.isfinite(values)
    mean = float(values[defined].mean()) if defined.any() else float("nan")
    missing = tuple(label for label, ok in zip(labels, defined, strict=True) if not ok)
    return PerClass(mean, values, missing)


def class_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return `count` names, by default the numbers of the classes.

    Raises:
      ValueError: another number of names was given.
    """
    if names is None:
        return tuple(str(index) for index in range(count))
    if len(names) != count:
        raise ValueError(f"names: {len(names)} names for {count} classes; give one per class")
    return tuple(str(name) for name in names)


def examples(name: str, *arrays: Any) -> tuple[Array, ...]:
    """Return NumPy arrays with the same, positive number of examples.

    Raises:
      ValueError: there is no example, or the numbers differ.
    """
    found = tuple(np.asarray(array) for array in arrays)
    sizes = [array.shape[0] if array.ndim else None for array in found]
    if None in sizes or len(set(sizes)) != 1:
        raise ValueError(f"{name}: arrays need the same number of examples, got {sizes}")
    if sizes[0] == 0:
        raise ValueError(f"{name}: there is no example; a metric of nothing does not exist")
    return found
