"""Losses of segmentation: logits `[H, W, K]` against a mask `[H, W]` of classes."""

import chex
import jax
import jax.numpy as jnp

from advjax.types import IGNORE, Array

SMOOTHING = 1e-6  # of the Dice loss: an empty class that is predicted empty has Dice 1

_SHAPES = (
    "one example needs logits [H, W, K] and an integer mask [H, W] of the same size: pass masks "
    "as [B, H, W], not one-hot, and let the model return [B, H, W, K]"
)


def check_mask(logits: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Return what a mask says of the pixels, whatever axes they have.

    Args:
      logits: `[..., K]`; a single label is an image of one pixel, `[K]`.
      mask: `[...]` integers.

    Returns:
      The one-hot classes `[..., K]`, the pixels that count `[...]`, and whether every one of them
      has a class in [0, K), `[]`.
    """
    chex.assert_rank(logits, mask.ndim + 1, custom_message=_SHAPES)
    chex.assert_equal_shape_prefix([logits, mask], mask.ndim, custom_message=_SHAPES)
    chex.assert_type(mask, int, custom_message=_SHAPES)
    # compared as int32: the mask may be uint8, where 255 + 1 does not exist
    mask = mask.astype(jnp.int32)
    num_classes = logits.shape[-1]
    hot = mask[..., None] == jnp.arange(num_classes)
    known = mask != IGNORE
    return hot & known[..., None], known, jnp.all(jnp.any(hot, -1) | ~known)


def pixel_terms(logits: Array, hot: Array) -> Array:
    """Return the softmax cross entropy of every pixel `[...]`, from one-hot classes `[..., K]`."""
    own = jnp.sum(jnp.where(hot, logits, 0), -1)
    return jax.nn.logsumexp(logits, axis=-1) - own


def mean_over_known(terms: Array, known: Array, valid: Array) -> Array:
    """Average over the pixels that count; 0 where none does, NaN where a class does not exist."""
    total = jnp.sum(jnp.where(known, terms, 0))
    mean = total / jnp.maximum(jnp.sum(known), 1).astype(terms.dtype)
    return jnp.where(valid, mean, jnp.nan)


def pixel_cross_entropy(logits: Array, mask: Array) -> Array:
    """Mean over the pixels of the softmax cross entropy.

    Args:
      logits: `[H, W, K]`.
      mask: `[H, W]` integers in [0, K), or `losses.IGNORE` (255) for a pixel that does not count.
        Another label gives NaN, which attacks report as `Status.NON_FINITE`.

    Returns:
      `[]`, non-negative; 0 where every pixel is ignored.
    """
    chex.assert_rank(mask, 2, custom_message=_SHAPES)
    hot, known, valid = check_mask(logits, mask)
    return mean_over_known(pixel_terms(logits, hot), known, valid)


def dice_loss(
    logits: Array, mask: Array, *, background: bool = True, pooled: bool = False
) -> Array:
    """One minus the soft Dice of the softmax probabilities (Milletari et al. 2016).

    `1 - (2 sum p t + s) / (sum p + sum t + s)` with s = 1e-6, per class and averaged. A class that
    is neither in the mask nor predicted has Dice 1; one that is not in the mask, but predicted,
    has almost none, and hardly a gradient. Attacks ascend it, training descends it.

    Args:
      logits: `[H, W, K]`.
      mask: `[H, W]` integers in [0, K), or `losses.IGNORE` (255) for a pixel that does not count.
        Another label gives NaN.
      background: class 0 counts. With a single class of interest it is what punishes false alarms
        in images that have none of it.
      pooled: one Dice over the pixels of all classes together, as Dong et al. (2024) compute it,
        in place of the mean over classes.

    Returns:
      `[]` in [0, 1]; 0 where every pixel is ignored.

    Raises:
      ValueError: only the background is left.
    """
    chex.assert_rank(mask, 2, custom_message=_SHAPES)
    hot, known, valid = check_mask(logits, mask)
    first = 0 if background else 1
    if logits.shape[-1] <= first:
        raise ValueError("dice_loss: there is no class besides the background; background=True")
    p = jnp.where(known[..., None], jax.nn.softmax(logits, axis=-1), 0)[..., first:]
    t = hot[..., first:].astype(p.dtype)
    axes = (0, 1, 2) if pooled else (0, 1)
    both, total = jnp.sum(p * t, axes), jnp.sum(p, axes) + jnp.sum(t, axes)
    dice = jnp.mean((2 * both + SMOOTHING) / (total + SMOOTHING))
    return jnp.where(valid, 1 - dice, jnp.nan)
