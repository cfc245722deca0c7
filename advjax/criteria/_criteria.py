"""Success of single-label and multi-label classification, and the default of every task."""

import dataclasses

import chex
import jax.numpy as jnp

from advjax import boxes
from advjax.criteria._detection import detections_missed
from advjax.criteria._segmentation import dice_below, mask_reached
from advjax.types import Array, CriterionFn, Output, Target

_SHAPES = (
    "one example needs logits [C] and an integer label []: pass y as [B], not [B, 1] or one-hot, "
    "and let the model return [B, C]"
)


def _split(logits: Array, label: Array) -> tuple[Array, Array, Array]:
    """Return the logit of the label, the best other logit, and whether all is well-defined."""
    chex.assert_rank([logits, label], [1, 0], custom_message=_SHAPES)
    if logits.shape[0] == 1:
        raise ValueError(
            "criterion: a model with one output has no other class to fall into; return [B, 2] "
            "(for a single logit z: [0, z]), or say what counts as success: "
            "from_logits(..., criterion=...)"
        )
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


@dataclasses.dataclass(frozen=True)
class _Flipped:
    at_least: int

    def __call__(self, logits: Array, labels: Array) -> Array:
        against, _, _ = _disagree(logits, labels)
        return jnp.all(jnp.isfinite(logits)) & (jnp.sum(against) >= self.at_least)


def flipped(at_least: int = 1) -> CriterionFn:
    """Success: so many known labels are predicted wrongly (multi-label, untargeted).

    With 1 it is `any_flipped`. An example with fewer known labels is never a success. Two criteria
    of one number are equal.

    Args:
      at_least: number of labels, 1 or more.

    Raises:
      ValueError: `at_least` is below 1.
    """
    if at_least < 1:
        raise ValueError(f"flipped: at_least must be 1 or more, got {at_least}")
    return _Flipped(int(at_least))


def default(output: Output, target: Target) -> Array:
    """Untargeted success by the kind of the task.

    `misclassified` for a label `[]`, `any_flipped` for labels `[K]`, `dice_below(0.5)` for a mask
    `[H, W]` and logits `[H, W, K]`, `detections_missed(0.5)` for the maps of a detector. Of a pair
    `(label [], class [])`, as targeted losses take it, the label counts: success is "not y".

    Raises:
      ValueError: the target is another one.
    """
    if boxes.is_maps(output):
        return detections_missed()(output, target)
    if isinstance(target, tuple) and [getattr(t, "ndim", -1) for t in target] == [0, 0]:
        target = target[0]
    return _by_rank(output, target, (misclassified, any_flipped, dice_below()))


def targeted_default(output: Output, target: Target) -> Array:
    """Targeted success by the rank of the target.

    `reached` for a label `[]`, `labels_reached` for labels `[K]`, `mask_reached(0.9)` for a mask
    `[H, W]` and logits `[H, W, K]`.

    Raises:
      ValueError: the target is another one.
    """
    return _by_rank(output, target, (reached, labels_reached, mask_reached()))


def _by_rank(output: Output, target: Target, known: tuple[CriterionFn, ...]) -> Array:
    rank = getattr(target, "ndim", -1)
    # boxes have the rank of a mask; their output is no array
    if rank not in (0, 1, 2) or not hasattr(output, "ndim"):
        raise ValueError(
            "criterion: the default knows labels [B], multi-hot labels [B, K], masks [B, H, W] and "
            "(untargeted) detectors only; say what counts as success for other targets: "
            "from_logits(..., criterion=...)"
        )
    return known[rank](output, target)
