"""Losses of multi-label classification."""

import dataclasses
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from advjax.types import Array, LossFn


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the labels of the sigmoid cross entropy.

    Args:
      logits: `[K]`.
      labels: `[K]`, in [0, 1] (soft targets are allowed). A negative entry marks an unknown
        finding, which contributes nothing and is left out of the mean.

    Returns:
      `[]`, non-negative; 0 where every label is unknown; NaN where one is above 1 or NaN.
    """
    chex.assert_rank([logits, labels], [1, 1])
    chex.assert_equal_shape([logits, labels])
    # a NaN is no unknown finding
    known = ~(labels < 0)
    labels = labels.astype(logits.dtype)
    terms = jax.nn.softplus(logits) - jnp.where(labels > 1, jnp.nan, labels) * logits
    total = jnp.sum(jnp.where(known, terms, 0))
    return total / jnp.maximum(jnp.sum(known), 1).astype(logits.dtype)


_REDUCERS = ("max", "mean", "min")


@dataclasses.dataclass(frozen=True)
class _LabelMargin:
    labels: tuple[int, ...] | None
    reduce: str
    kappa: float

    def __call__(self, logits: Array, labels: Array) -> Array:
        chex.assert_rank([logits, labels], [1, 1])
        chex.assert_equal_shape([logits, labels])
        count = logits.shape[0]
        chosen = tuple(range(count)) if self.labels is None else self.labels
        if max(chosen) >= count:
            raise ValueError(f"label_margin: the model has labels 0..{count - 1}, got {chosen}")
        part = jnp.zeros(count, jnp.bool_).at[jnp.asarray(chosen)].set(True) & (labels >= 0)
        margins = jnp.where(labels > 0.5, -logits, logits)
        if self.kappa != float("inf"):
            margins = jnp.minimum(margins, self.kappa)
        number = jnp.sum(part)
        if self.reduce == "mean":
            return jnp.sum(jnp.where(part, margins, 0)) / jnp.maximum(number, 1)
        outside = -jnp.inf if self.reduce == "max" else jnp.inf
        reducer = jnp.max if self.reduce == "max" else jnp.min
        return jnp.where(number > 0, reducer(jnp.where(part, margins, outside)), 0)


def label_margin(
    labels: Sequence[int] | None = None, *, reduce: str = "max", kappa: float = float("inf")
) -> LossFn:
    """Margin loss over a chosen set of labels: the logit on the wrong side of 0.

    The margin of a label is `z` where it is 0 and `-z` where it is 1: positive exactly where the
    label is predicted wrongly. An attack that ascends the `"max"` aims at any of the labels, with
    `"min"` at all of them. Targeted, the loss is negated and the labels are the wanted ones: there
    `"max"` aims at reaching all.

    Args:
      labels: indices in [0, K); None: all labels.
      reduce: `"max"`, `"mean"` or `"min"` over the chosen labels that are known.
      kappa: in logits; a label that is wrong by so much counts no further (for untargeted
        attacks), so that in a mean the easy labels leave the others their share.

    Returns:
      `(logits [K], labels [K] in {0, 1}, negative: unknown) -> []`; 0 where no chosen label is
      known. Two losses of the same arguments are equal.

    Raises:
      ValueError: no label, a negative one, or an unknown word; when called, a label beyond K.
    """
    chosen = None if labels is None else tuple(int(index) for index in labels)
    if chosen is not None and (not chosen or min(chosen) < 0):
        raise ValueError(f"label_margin: labels must be indices from 0 on, got {labels}")
    if reduce not in _REDUCERS:
        raise ValueError(f"label_margin: reduce must be one of {', '.join(_REDUCERS)}")
    return _LabelMargin(chosen, reduce, float(kappa))
