"""Success of segmentation: how far the predicted mask is from the true one, or from a wanted one.

Dice and IoU of an image are means over the foreground classes 1..K-1 that are in the mask or in the
prediction; a class in neither is left out, and where all are, the value is 1. Pixels of the class
255 (`losses.IGNORE`) do not count.
"""

import dataclasses

import chex
import jax.numpy as jnp

from advjax.types import IGNORE, Array, CriterionFn

_SHAPES = (
    "one example needs logits [H, W, K] and an integer mask [H, W] of the same size: pass masks "
    "as [B, H, W], not one-hot, and let the model return [B, H, W, K]"
)


def dice(logits: Array, mask: Array) -> Array:
    """Dice of the predicted mask, `[]` in [0, 1].

    Args:
      logits: `[H, W, K]`, K >= 2; a pixel at which the true class is not beaten counts as right.
      mask: `[H, W]` integers in [0, K), or 255: ignored.

    Raises:
      ValueError: there is only one class.
    """
    hit, found, wanted = _counts(logits, mask, strict=False)
    return _mean(2 * hit, found + wanted)


def iou(logits: Array, mask: Array) -> Array:
    """Intersection over union of the predicted mask, `[]` in [0, 1]; the arguments of `dice`."""
    hit, found, wanted = _counts(logits, mask, strict=False)
    return _mean(hit, found + wanted - hit)


def pixel_accuracy(logits: Array, mask: Array) -> Array:
    """Share of the pixels that count predicted right, `[]`; 1 where none counts.

    The arguments are those of `dice`.
    """
    hot, known = _classes(logits, mask)
    right = known & ~_beaten(logits, hot)
    total = jnp.sum(known)
    return jnp.where(total > 0, jnp.sum(right) / jnp.maximum(total, 1), 1.0)


@dataclasses.dataclass(frozen=True)
class _DiceBelow:
    threshold: float

    def __call__(self, logits: Array, mask: Array) -> Array:
        return _sound(logits, mask) & (dice(logits, mask) < self.threshold)


@dataclasses.dataclass(frozen=True)
class _PixelAccuracyBelow:
    threshold: float

    def __call__(self, logits: Array, mask: Array) -> Array:
        return _sound(logits, mask) & (pixel_accuracy(logits, mask) < self.threshold)


@dataclasses.dataclass(frozen=True)
class _MaskReached:
    iou: float

    def __call__(self, logits: Array, mask: Array) -> Array:
        hit, found, wanted = _counts(logits, mask, strict=True)
        return _sound(logits, mask) & (_mean(hit, found + wanted - hit) >= self.iou)


@dataclasses.dataclass(frozen=True)
class _PixelsReached:
    share: float

    def __call__(self, logits: Array, mask: Array) -> Array:
        hot, known = _classes(logits, mask)
        share = jnp.sum(known & _leads(logits, hot)) / jnp.maximum(jnp.sum(known), 1)
        return _sound(logits, mask) & (share >= self.share)


def dice_below(threshold: float = 0.5) -> CriterionFn:
    """Success: the Dice of the predicted mask is below a threshold (untargeted).

    A tie of logits is counted for the model. Two criteria of one threshold are equal.

    Args:
      threshold: in (0, 1].

    Raises:
      ValueError: the threshold is out of range.
    """
    return _DiceBelow(_share("dice_below: threshold", threshold))


def pixel_accuracy_below(threshold: float = 0.5) -> CriterionFn:
    """Success: the share of pixels predicted right is below a threshold (untargeted).

    Background counts as any class. A tie of logits is counted for the model.

    Args:
      threshold: in (0, 1].

    Raises:
      ValueError: the threshold is out of range.
    """
    return _PixelAccuracyBelow(_share("pixel_accuracy_below: threshold", threshold))


def mask_reached(iou: float = 0.9) -> CriterionFn:
    """Success: the predicted mask overlaps the wanted one by that IoU at least (targeted).

    A wanted mask of background only is reached where nothing but background is predicted. A tie of
    logits is counted against the attack.

    Args:
      iou: in (0, 1].

    Raises:
      ValueError: `iou` is out of range.
    """
    return _MaskReached(_share("mask_reached: iou", iou))


def pixels_reached(share: float = 0.99) -> CriterionFn:
    """Success: that share of the pixels has the wanted class (targeted).

    With 0.99 it is where DAG stops. A tie of logits is counted against the attack.

    Args:
      share: in (0, 1].

    Raises:
      ValueError: `share` is out of range.
    """
    return _PixelsReached(_share("pixels_reached: share", share))


def _share(name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value}")
    return float(value)


def _classes(logits: Array, mask: Array) -> tuple[Array, Array]:
    """Return the one-hot classes `[H, W, K]` and the pixels that count `[H, W]`."""
    chex.assert_rank([logits, mask], [3, 2], custom_message=_SHAPES)
    chex.assert_equal_shape_prefix([logits, mask], 2, custom_message=_SHAPES)
    chex.assert_type(mask, int, custom_message=_SHAPES)
    if logits.shape[-1] < 2:
        raise ValueError("segmentation needs logits of at least 2 classes, background included")
    mask = mask.astype(jnp.int32)
    return mask[..., None] == jnp.arange(logits.shape[-1]), mask != IGNORE


def _sound(logits: Array, mask: Array) -> Array:
    """Whether the output is finite, some pixel counts, and all that count have a class."""
    hot, known = _classes(logits, mask)
    exists = jnp.all(jnp.any(hot, -1) | ~known)
    return jnp.all(jnp.isfinite(logits)) & exists & jnp.any(known)


def _own_and_other(logits: Array, hot: Array) -> tuple[Array, Array]:
    own = jnp.sum(jnp.where(hot, logits, 0), -1)
    return own, jnp.max(jnp.where(hot, -jnp.inf, logits), -1)


def _beaten(logits: Array, hot: Array) -> Array:
    own, other = _own_and_other(logits, hot)
    return other > own


def _leads(logits: Array, hot: Array) -> Array:
    own, other = _own_and_other(logits, hot)
    return own > other


def _counts(logits: Array, mask: Array, *, strict: bool) -> tuple[Array, Array, Array]:
    """Return per foreground class `[K - 1]` the pixels that are right, predicted, and true.

    With `strict` a pixel at which the class of the mask is not above all others is another's.
    """
    hot, known = _classes(logits, mask)
    own = _leads(logits, hot) if strict else ~_beaten(logits, hot)
    others = jnp.argmax(jnp.where(hot, -jnp.inf, logits), -1)
    other = others[..., None] == jnp.arange(logits.shape[-1])
    found = jnp.where(own[..., None], hot, other) & known[..., None]
    hot = hot & known[..., None]
    hit, found, wanted = (jnp.sum(pixels, (0, 1))[1:] for pixels in (hot & found, found, hot))
    return hit, found, wanted


def _mean(top: Array, bottom: Array) -> Array:
    """Average the ratios over the classes that are there; 1 where none is."""
    there = bottom > 0
    ratios = jnp.where(there, top / jnp.maximum(bottom, 1), 0)
    number = jnp.sum(there)
    return jnp.where(number > 0, jnp.sum(ratios) / jnp.maximum(number, 1), 1.0)
