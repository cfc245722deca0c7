"""Losses of multi-label classification."""

import chex
import jax
import jax.numpy as jnp

from advjax.types import Array


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the labels of the sigmoid cross entropy.

    Args:
      logits: `[K]`.
      labels: `[K]`, in [0, 1] (soft targets are allowed). A negative entry marks an unknown
        finding, which contributes nothing and is left out of the mean.

    Returns:
      `[]`, non-negative; 0 where every label is unknown.
    """
    chex.assert_rank([logits, labels], [1, 1])
    chex.assert_equal_shape([logits, labels])
    known = labels >= 0
    labels = labels.astype(logits.dtype)
    terms = jax.nn.softplus(logits) - labels * logits
    total = jnp.sum(jnp.where(known, terms, 0))
    return total / jnp.maximum(jnp.sum(known), 1).astype(logits.dtype)
