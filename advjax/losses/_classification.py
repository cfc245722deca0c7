"""Losses of single-label classification."""

import chex
import jax
import jax.numpy as jnp

from advjax.types import Array

_SHAPES = (
    "one example needs logits [C] and an integer label []: pass y as [B], not [B, 1] or one-hot, "
    "and let the model return [B, C]"
)


def check_label(logits: Array, label: Array) -> tuple[Array, Array]:
    """Return the mask of the label `[C]` and whether the label is a class at all."""
    chex.assert_rank([logits, label], [1, 0], custom_message=_SHAPES)
    chex.assert_type(label, int, custom_message=_SHAPES)
    num_classes = logits.shape[0]
    hot = jnp.arange(num_classes) == label
    return hot, (label >= 0) & (label < num_classes)


def cross_entropy(logits: Array, label: Array | tuple[Array, Array]) -> Array:
    """Softmax cross entropy.

    Args:
      logits: `[C]`.
      label: `[]` integer in [0, C). A label outside gives NaN, which attacks report as
        `Status.NON_FINITE` (inside a compiled program nothing can raise). Of a pair
        `(label, class)`, the target of FAB-T, the label counts.

    Returns:
      `[]`, non-negative.
    """
    if isinstance(label, tuple):
        label = label[0]
    hot, valid = check_label(logits, label)
    loss = jax.nn.logsumexp(logits) - jnp.sum(jnp.where(hot, logits, 0))
    return jnp.where(valid, loss, jnp.nan)


def cw_margin(logits: Array, label: Array, *, kappa: float = float("inf")) -> Array:
    """Margin loss of Carlini and Wagner (2017): the best other logit minus the true one.

    `-max(z_y - max_{j != y} z_j, -kappa)`: rising until the other class leads by `kappa`.

    Args:
      logits: `[C]`, C >= 2.
      label: `[]` integer in [0, C); NaN is returned for a label outside.
      kappa: confidence, in logits; infinite (the default) never saturates, hence never stops
        an attack by a zero gradient.

    Returns:
      `[]`; positive exactly where the example is misclassified.

    Raises:
      ValueError: there is only one class.
    """
    hot, valid = check_label(logits, label)
    if logits.shape[0] < 2:
        raise ValueError("cw_margin needs at least 2 classes; use binary_cross_entropy for 1 logit")
    true = jnp.sum(jnp.where(hot, logits, 0))
    other = jnp.max(jnp.where(hot, -jnp.inf, logits))
    margin = other - true
    if kappa != float("inf"):
        margin = jnp.minimum(margin, kappa)
    return jnp.where(valid, margin, jnp.nan)


def kl(logits: Array, reference: Array) -> Array:
    """Kullback-Leibler divergence of the prediction from a reference prediction.

    `KL(softmax(reference) || softmax(logits))`, the direction of TRADES (Zhang et al. 2019) with
    the clean logits as reference. Gradients flow into both.

    Args:
      logits: `[C]`.
      reference: `[C]` logits.

    Returns:
      `[]`, non-negative.
    """
    chex.assert_rank([logits, reference], [1, 1])
    chex.assert_equal_shape([logits, reference])
    log_p = jax.nn.log_softmax(reference)
    return jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(logits)))
