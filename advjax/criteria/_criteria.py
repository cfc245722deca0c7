"""Success of single-label and multi-label classification."""

import chex
import jax.numpy as jnp

from advjax.types import Array

_SHAPES = (
    "one example needs logits [C] and an integer label []: pass y as [B], not [B, 1] or one-hot, "
    "and let the model return [B, C]"
)


def _split(logits: Array, label: Array) -> tuple[Array, Array, Array]:
    """Return the logit of the label, the best other logit, and whether all is well-defined."""
    chex.assert_rank([logits, label], [1, 0], custom_message=_SHAPES)
    hot = jnp.arange(logits.shape[0]) == label
    own = jnp.sum(jnp.where(hot, logits, 0))
    other = jnp.max(jnp.where(hot, -jnp.inf, logits))
    return own, other, jnp.all(jnp.isfinite(logits)) & jnp.any(hot)


def misclassified(logits: Array, label: Array) -> Array:
    """Some other logit is strictly above the true one (untargeted, single label).

    Args:
      logits: `[C]`.
      label: `[]` integer, the true class.
    """
    own, other, valid = _split(logits, label)
    return valid & (other > own)


def reached(logits: Array, label: Array) -> Array:
    """The logit of the wanted class is strictly above all others (targeted, single label).

    Args:
      logits: `[C]`.
      label: `[]` integer, the wanted class.
    """
    own, other, valid = _split(logits, label)
    return valid & (own > other)


def _disagree(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return per label: decided against it, decided for it, known; a logit of 0 is a tie."""
    chex.assert_rank([logits, labels], [1, 1])
    chex.assert_equal_shape([logits, labels])
    known = labels >= 0
    positive = labels > 0.5
    against = jnp.where(positive, logits < 0, logits > 0)
    agree = jnp.where(positive, logits > 0, logits < 0)
    return known & against, agree | ~known, known


def any_flipped(logits: Array, labels: Array) -> Array:
    """At least one known label is predicted wrongly (multi-label, untargeted).

    Args:
      logits: `[K]`; the threshold is probability 1/2, logit 0.
      labels: `[K]` in {0, 1}; negative: unknown.
    """
    against, _, _ = _disagree(logits, labels)
    return jnp.all(jnp.isfinite(logits)) & jnp.any(against)


def all_flipped(logits: Array, labels: Array) -> Array:
    """Every known label is predicted wrongly, and one at least is known.

    Args:
      logits: `[K]`; the threshold is probability 1/2, logit 0.
      labels: `[K]` in {0, 1}; negative: unknown.
    """
    against, _, known = _disagree(logits, labels)
    return jnp.all(jnp.isfinite(logits)) & jnp.any(known) & jnp.all(against | ~known)


def labels_reached(logits: Array, labels: Array) -> Array:
    """Every known label is predicted as wanted (multi-label, targeted).

    Args:
      logits: `[K]`; the threshold is probability 1/2, logit 0.
      labels: `[K]` wanted, in {0, 1}; negative: does not matter.
    """
    _, agree, known = _disagree(logits, labels)
    return jnp.all(jnp.isfinite(logits)) & jnp.any(known) & jnp.all(agree)


def default(output: Array, target: Array) -> Array:
    """Untargeted success by the rank of the target: `misclassified`, or `any_flipped`."""
    single = _rank(target) == 0
    return misclassified(output, target) if single else any_flipped(output, target)


def targeted_default(output: Array, target: Array) -> Array:
    """Targeted success by the rank of the target: `reached`, or `labels_reached`."""
    return reached(output, target) if _rank(target) == 0 else labels_reached(output, target)


def _rank(target: Array) -> int:
    if not hasattr(target, "ndim"):
        raise ValueError(
            "criterion: the default knows labels [B] and multi-hot labels [B, K] only; say what "
            "counts as success for other targets: from_logits(..., criterion=...)"
        )
    return target.ndim
