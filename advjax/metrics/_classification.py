"""Accuracy, sensitivity and specificity, kappa and confidence, on the host."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from advjax.metrics._bootstrap import weighted_mean
from advjax.metrics._types import Array, PerClass, Rates, class_names, examples, per_class


def accuracy(prediction: ArrayLike, target: ArrayLike) -> float:
    """Share of examples predicted right.

    Args:
      prediction: `[N]` classes, or `[N, K]` in {0, 1}.
      target: `[N]` classes, or `[N, K]` in {0, 1}, negative where unknown. A multi-label example
        is right when every known label is.

    Raises:
      ValueError: there is no example, or the shapes differ.
    """
    found, wanted = _pair("accuracy", prediction, target)
    right = found == wanted
    return float(np.mean(right if wanted.ndim == 1 else np.all(right | (wanted < 0), axis=1)))


def label_accuracy(prediction: ArrayLike, target: ArrayLike) -> float:
    """Share of known labels predicted right, over all examples and labels together.

    Args:
      prediction: `[N, K]` in {0, 1}.
      target: `[N, K]` in {0, 1}, negative where unknown. NaN where no label is known at all.

    Raises:
      ValueError: there is no example, or the shapes differ.
    """
    found, wanted = _pair("label_accuracy", prediction, target)
    known = wanted >= 0
    return float(np.mean(found[known] == wanted[known])) if known.any() else float("nan")


def confusion_matrix(
    prediction: ArrayLike, target: ArrayLike, *, num_classes: int | None = None
) -> Array:
    """Count pairs of classes.

    Args:
      prediction: `[N]` classes.
      target: `[N]` classes.
      num_classes: C; None: one more than the largest class seen.

    Returns:
      `[C, C]` int64, row = true class, column = predicted class.

    Raises:
      ValueError: there is no example, the shapes differ, or a class is not in 0..C-1.
    """
    found, wanted = _pair("confusion_matrix", prediction, target)
    if wanted.ndim != 1:
        raise ValueError("confusion_matrix: single-label classes [N] only")
    largest = int(max(found.max(), wanted.max()))
    count = largest + 1 if num_classes is None else num_classes
    if min(found.min(), wanted.min()) < 0 or largest >= count:
        raise ValueError(f"confusion_matrix: classes must lie in 0..{count - 1}; check num_classes")
    pairs = wanted.astype(np.int64) * count + found
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def balanced_accuracy(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    num_classes: int | None = None,
    names: Sequence[str] | None = None,
) -> PerClass:
    """Mean over classes of the share of the class that is predicted right (recall).

    Args:
      prediction: `[N]` classes.
      target: `[N]` classes.
      num_classes: C; None: the number of names, else one more than the largest class seen.
      names: of the classes, for `undefined`.

    Returns:
      Recall per class. A class without an example (0/0) is undefined and named.

    Raises:
      ValueError: as for `confusion_matrix`, or another number of names than classes.
    """
    count = len(names) if num_classes is None and names is not None else num_classes
    matrix = confusion_matrix(prediction, target, num_classes=count)
    return per_class(_ratio(matrix.diagonal(), matrix.sum(1)), names)


def sensitivity_specificity(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    num_classes: int | None = None,
    names: Sequence[str] | None = None,
) -> Rates:
    """Sensitivity and specificity: one pair for two classes, else one pair per class.

    Args:
      prediction: `[N]` classes, or `[N, K]` in {0, 1}.
      target: `[N]` classes, or `[N, K]` in {0, 1}, negative where unknown.
      num_classes: C, needed for `[N]` unless names are given. With C = 2, class 1 is the positive
        one and the result has one entry; with more, each class stands against the rest and the
        mean is the macro average. For `[N, K]` every label is its own pair.
      names: C (or K) names.

    Returns:
      Per class (C = 2: `[1]`, for class 1). Without a positive the sensitivity, without a
      negative the specificity is 0/0: undefined, named and left out of the mean.

    Raises:
      ValueError: no example, differing shapes, no number of classes, or a class out of range.
    """
    found, wanted = _pair("sensitivity_specificity", prediction, target)
    if wanted.ndim == 1:
        count = num_classes if num_classes is not None else len(names or ())
        if count < 2:
            raise ValueError("sensitivity_specificity: say num_classes (at least 2) or names")
        if min(found.min(), wanted.min()) < 0 or max(found.max(), wanted.max()) >= count:
            raise ValueError(f"sensitivity_specificity: classes must lie in 0..{count - 1}")
        labels = class_names(names, count)
        classes = np.arange(count) if count > 2 else np.array([1])
        labels = labels if count > 2 else labels[1:]
        found, wanted = found == classes[:, None], (wanted == classes[:, None]).astype(np.int8)
    else:
        labels = class_names(names, wanted.shape[1])
        found, wanted = found.T > 0, wanted.T
    ones = np.ones((1, wanted.shape[1]))
    sensitivity = weighted_mean(found, ones, wanted > 0)[0]
    specificity = weighted_mean(~found, ones, wanted == 0)[0]
    return Rates(per_class(sensitivity, labels), per_class(specificity, labels))


def quadratic_kappa(
    prediction: ArrayLike, target: ArrayLike, *, num_classes: int | None = None
) -> float:
    """Cohen's kappa with quadratic weights, for graded diseases.

    Args:
      prediction: `[N]` grades.
      target: `[N]` grades.
      num_classes: C; None: one more than the largest grade seen.

    Returns:
      1 for perfect agreement, 0 for what chance gives. NaN (0/0) where chance alone would agree
      perfectly: both sides hold one and the same grade throughout.

    Raises:
      ValueError: as for `confusion_matrix`.
    """
    seen = confusion_matrix(prediction, target, num_classes=num_classes).astype(np.float64)
    grade = np.arange(seen.shape[0])
    weight = (grade[:, None] - grade[None, :]) ** 2.0
    chance = np.outer(seen.sum(1), seen.sum(0)) / seen.sum()
    bottom = float((weight * chance).sum())
    return 1.0 - float((weight * seen).sum()) / bottom if bottom > 0 else float("nan")


def confidence(probabilities: ArrayLike, *, multi_label: bool = False) -> Array:
    """How sure a model is of each example.

    Args:
      probabilities: `[N, C]` from a softmax, or `[N, K]` from sigmoids.
      multi_label: the probabilities come from sigmoids.

    Returns:
      `[N]`: the largest probability; multi-label: the mean of `max(p, 1 - p)`.

    Raises:
      ValueError: there is no example, or the array is not `[N, C]`.
    """
    (found,) = examples("confidence", probabilities)
    if found.ndim != 2:
        raise ValueError(f"confidence: expected probabilities [N, C], got shape {found.shape}")
    if multi_label:
        return np.maximum(found, 1 - found).mean(1)
    return found.max(1)


def mean_confidence(probabilities: ArrayLike, *, multi_label: bool = False) -> float:
    """Mean of `confidence`; the same arguments and errors."""
    return float(confidence(probabilities, multi_label=multi_label).mean())


def predicted(probabilities: ArrayLike, *, multi_label: bool = False) -> Array:
    """Decide: the most probable class `[N]`, or per label whether p > 1/2 `[N, K]` (int64).

    Raises:
      ValueError: there is no example, or the array is not `[N, C]`.
    """
    (found,) = examples("predicted", probabilities)
    if found.ndim != 2:
        raise ValueError(f"predicted: expected probabilities [N, C], got shape {found.shape}")
    return (found > 0.5).astype(np.int64) if multi_label else found.argmax(1)


def _pair(name: str, prediction: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    """Return integer arrays of one shape, `[N]` or `[N, K]`."""
    found, wanted = examples(name, prediction, target)
    if found.shape != wanted.shape or found.ndim not in (1, 2):
        raise ValueError(
            f"{name}: prediction and target must both be [N] or both [N, K], "
            f"got {found.shape} and {wanted.shape}"
        )
    return _whole(name, found), _whole(name, wanted)


def _whole(name: str, array: Array) -> Array:
    """Return classes as int64; probabilities given by mistake are an error."""
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    if array.dtype.kind != "f" or not np.array_equal(array, np.round(array)):
        raise ValueError(f"{name}: expected whole classes, got {array.dtype}; see `predicted`")
    return array.astype(np.int64)


def _ratio(top: Array, bottom: Array) -> Array:
    """Divide, 0/0 being NaN."""
    out = np.full(np.shape(top), np.nan)
    return np.divide(top, bottom, out=out, where=np.asarray(bottom) > 0)
