"""Losses that look at an image and at its adversarial version together, for training.

`(clean, adversarial, target) -> []` of ONE example. Their gradients flow into both outputs, as in
the reference implementations of TRADES and MART.
"""

import chex
import jax
import jax.numpy as jnp

from advjax.losses._classification import check_label, cross_entropy, kl
from advjax.types import Array

# the guards of the reference implementation of MART, which its numbers depend on
_GUARD = 1e-12
_ABOVE_ONE = 1.0001
_WEIGHT_ONE = 1.0000001


def trades(clean: Array, adversarial: Array, label: Array, *, beta: Array | float = 6.0) -> Array:
    """TRADES (Zhang et al. 2019, eq. 5): cross entropy, and how far the prediction moved.

    `CE(clean, label) + beta * KL(softmax(clean) || softmax(adversarial))`.

    Args:
      clean: `[C]` logits of the image.
      adversarial: `[C]` logits of its adversarial version.
      label: `[]` integer in [0, C); NaN is returned for a label outside.
      beta: weight of the divergence, may be traced.

    Returns:
      `[]`, non-negative.
    """
    return cross_entropy(clean, label) + beta * kl(adversarial, clean)


def mart(clean: Array, adversarial: Array, label: Array, *, beta: Array | float = 6.0) -> Array:
    """MART (Wang et al. 2020, eq. 11), with the guards of the authors' code.

    `CE(adversarial, label) - log(1.0001 - p'_k) + beta * KL(p || p') * (1.0000001 - p_label)`,
    where p and p' are the clean and the adversarial probabilities and k the likeliest other class.

    Args:
      clean: `[C]` logits of the image, C >= 2.
      adversarial: `[C]` logits of its adversarial version.
      label: `[]` integer in [0, C); NaN is returned for a label outside.
      beta: weight of the divergence, may be traced.

    Returns:
      `[]`.

    Raises:
      ValueError: there is only one class.
    """
    hot, _ = check_label(clean, label)
    if clean.shape[0] < 2:
        raise ValueError("mart needs at least 2 classes; use mart_multilabel for 1 logit")
    moved = jax.nn.softmax(adversarial)
    other = jnp.max(jnp.where(hot, -jnp.inf, moved))
    boosted = cross_entropy(adversarial, label) - _log_rest(other)
    log_p = jax.nn.log_softmax(clean)
    p = jnp.exp(log_p)
    divergence = jnp.sum(p * (log_p - jnp.log(moved + _GUARD)))
    return boosted + beta * divergence * (_WEIGHT_ONE - jnp.sum(jnp.where(hot, p, 0)))


def mart_multilabel(
    clean: Array, adversarial: Array, labels: Array, *, beta: Array | float = 6.0
) -> Array:
    """MART for several labels: that of two classes, label by label, and the mean over the labels.

    With q the probability that is given to what a label is (p for 1, 1 - p for 0), and q' that of
    the adversarial version: `-log q' - log(1.0001 - (1 - q')) + beta * KL(p || p') * (1.0000001 -
    q)`, which is -2 log q' and the weighted divergence up to the guards of `mart`. Neither MART
    nor MAAdvT (Xu et al. 2021) prints it; for one label it is `mart` on the logits (0, z).

    Args:
      clean: `[K]` logits of the image.
      adversarial: `[K]` logits of its adversarial version.
      labels: `[K]`, 0 or 1; a negative entry marks an unknown finding, which contributes nothing.
      beta: weight of the divergence, may be traced.

    Returns:
      `[]`; 0 where every label is unknown.
    """
    chex.assert_rank([clean, adversarial, labels], [1, 1, 1])
    chex.assert_equal_shape([clean, adversarial, labels])
    sign = jnp.where(labels > 0.5, 1, -1).astype(clean.dtype)
    # towards what the label is: q = sigmoid(z), and the rest 1 - q = sigmoid(-z)
    z, moved = sign * clean, sign * adversarial
    boosted = jax.nn.softplus(-moved) - _log_rest(jax.nn.sigmoid(-moved))
    divergence = sum(
        jax.nn.sigmoid(s * z)
        * (jax.nn.log_sigmoid(s * z) - jnp.log(jax.nn.sigmoid(s * moved) + _GUARD))
        for s in (1, -1)
    )
    terms = boosted + beta * divergence * (_WEIGHT_ONE - jax.nn.sigmoid(z))
    return _known_mean(terms, labels)


def binary_kl(logits: Array, reference: Array) -> Array:
    """Mean over the labels of the divergence of two predictions of several labels.

    `KL(Bernoulli(sigmoid(reference)) || Bernoulli(sigmoid(logits)))`; gradients flow into both.

    Args:
      logits: `[K]`.
      reference: `[K]` logits.

    Returns:
      `[]`, non-negative.
    """
    chex.assert_rank([logits, reference], [1, 1])
    chex.assert_equal_shape([logits, reference])
    terms = sum(
        jax.nn.sigmoid(s * reference)
        * (jax.nn.log_sigmoid(s * reference) - jax.nn.log_sigmoid(s * logits))
        for s in (1, -1)
    )
    return jnp.mean(terms)


def _log_rest(probability: Array) -> Array:
    """Return `log(1 - probability)` as the authors of MART guard it."""
    return jnp.log(_ABOVE_ONE - probability + _GUARD)


def _known_mean(terms: Array, labels: Array) -> Array:
    known = labels >= 0
    total = jnp.sum(jnp.where(known, terms, 0))
    return total / jnp.maximum(jnp.sum(known), 1).astype(terms.dtype)
