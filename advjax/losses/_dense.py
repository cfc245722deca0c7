"""What attacks on dense predictions ascend: losses of logits `[..., K]` and classes `[...]`.

An image with a mask has pixels `[H, W]`, a detector has cells, a single label is one pixel: see
`as_pixels`. `targeted` says that the classes are the wanted ones. Like every loss these are negated
then by `from_logits(..., targeted=True)`.
"""

import jax
import jax.numpy as jnp

from advjax import boxes
from advjax.losses._detection import detection_pixels
from advjax.losses._segmentation import check_mask, mean_over_known, pixel_terms
from advjax.types import Array, Output, Target

_ACTIVE = ("correct", "not_reached")
_AGAINST = ("label", "prediction")
_SQUASH = ("sigmoid", "softmax")


def as_pixels(output: Output, target: Target) -> tuple[Array, Array]:
    """Return the logits `[..., K]` and the classes `[...]` of a dense prediction.

    Masks and single labels are what they are; the cells of a detector are the proposals of
    `detection_pixels`.
    """
    return detection_pixels(output, target) if boxes.is_maps(output) else (output, target)


def staged_cross_entropy(
    output: Output, target: tuple[Target, Array], *, targeted: bool = False
) -> Array:
    """Cross entropy that moves its weight from the pixels to break to the broken ones (SegPGD).

    Gu et al. (2022): pixels still right weigh 1 - s/2 and wrong ones s/2, at the share s of the
    attack that is over; targeted, pixels that are not there yet weigh 1 - s/2.

    Args:
      output: logits `[..., K]`, or maps of a detector.
      target: the classes `[...]` (255: ignored), or boxes; and the share s in [0, 1], `[]`.
      targeted: the classes are the wanted ones.

    Returns:
      `[]`, the mean over the pixels that count.
    """
    classes, share = target
    logits, labels = as_pixels(output, classes)
    hot, known, valid = check_mask(logits, labels)
    own = jnp.sum(jnp.where(hot, logits, 0), -1)
    right = own >= jnp.max(jnp.where(hot, -jnp.inf, logits), -1)
    late = (share / 2).astype(logits.dtype)
    weight = jnp.where(right != targeted, 1 - late, late)
    return mean_over_known(weight * pixel_terms(logits, hot), known, valid)


def cosine_cross_entropy(
    output: Output, target: Target, *, targeted: bool = False, squash: str = "softmax"
) -> Array:
    """Cross entropy weighted by how much a pixel's prediction points to its class (CosPGD).

    Agnihotri et al. (2023): the weight is the cosine of the probabilities with the one-hot class,
    without a gradient; targeted, one minus that.

    Args:
      output: logits `[..., K]`, or maps of a detector.
      target: the classes `[...]` (255: ignored), or boxes.
      targeted: the classes are the wanted ones.
      squash: `"softmax"`, as in the official code, or `"sigmoid"`.

    Returns:
      `[]`, the mean over the pixels that count.

    Raises:
      ValueError: `squash` is unknown.
    """
    _check("squash", squash, _SQUASH)
    logits, labels = as_pixels(output, target)
    hot, known, valid = check_mask(logits, labels)
    p = jax.nn.softmax(logits, -1) if squash == "softmax" else jax.nn.sigmoid(logits)
    length = jnp.sqrt(jnp.sum(jnp.square(p), -1))
    cosine = jnp.sum(jnp.where(hot, p, 0), -1) / jnp.where(length > 0, length, 1)
    weight = jax.lax.stop_gradient(1 - cosine if targeted else cosine)
    return mean_over_known(weight * pixel_terms(logits, hot), known, valid)


def class_pull(
    output: Output,
    target: Target,
    *,
    targeted: bool = False,
    shift: int = 1,
    active: str = "not_reached",
    against: str = "prediction",
) -> Array:
    """Sum over active pixels of the logit of an adversarial class minus another one (DAG).

    Xie et al. (2017). The adversarial class is the wanted one, or, untargeted, the class `shift`
    places after the true one, cyclically.

    Args:
      output: logits `[..., K]`, or maps of a detector.
      target: the classes `[...]` (255: ignored), or boxes.
      targeted: the classes are the wanted ones.
      shift: to the adversarial class.
      active: pixels `"not_reached"`, not yet at the adversarial class (the official code), or
        still `"correct"` (the paper; untargeted only).
      against: subtract the logit of the `"prediction"` (the official code for segmentation) or
        of the `"label"` (the paper, and the official code for detection; untargeted only).

    Returns:
      `[]`, what an untargeted attack ascends; its negative where `targeted`.

    Raises:
      ValueError: a word is unknown, needs the true classes, or `shift` is a multiple of K.
    """
    check_pull(active, against, targeted=targeted)
    logits, labels = as_pixels(output, target)
    hot, known, valid = check_mask(logits, labels)
    classes = jnp.arange(logits.shape[-1])
    if not targeted and shift % len(classes) == 0:
        raise ValueError(f"dag: shift {shift} leads from each of the {len(classes)} classes to it")
    wanted = hot if targeted else jnp.roll(hot, shift, -1)
    found = jnp.argmax(logits, -1)[..., None] == classes
    left = found if against == "prediction" else hot
    here = jnp.any(found & hot, -1) if active == "correct" else ~jnp.any(found & wanted, -1)
    terms = jnp.sum(jnp.where(wanted, logits, 0) - jnp.where(left, logits, 0), -1)
    total = jnp.where(valid, jnp.sum(jnp.where(here & known, terms, 0)), jnp.nan)
    return -total if targeted else total


def check_pull(active: str, against: str, *, targeted: bool) -> None:
    """Check the words of `class_pull`.

    Raises:
      ValueError: a word is unknown, or needs the true classes.
    """
    _check("active", active, _ACTIVE)
    _check("against", against, _AGAINST)
    if targeted and (active, against) != ("not_reached", "prediction"):
        raise ValueError(
            'dag: a targeted attack does not know the true classes; use active="not_reached" and '
            'against="prediction"'
        )


def mask_pull(output: Output, target: Target, *, targeted: bool = True) -> Array:
    """Minus the sum of the scores of the given classes where there is something left to do (ASMA).

    Ozbulak et al. (2019): the wanted class at the pixels that do not have it yet. Untargeted (not
    in the paper), the true class at the pixels that still have it.

    Args:
      output: logits `[..., K]`, or maps of a detector.
      target: the classes `[...]` (255: ignored), or boxes.
      targeted: the classes are the wanted ones.

    Returns:
      `[]`.
    """
    logits, labels = as_pixels(output, target)
    hot, known, valid = check_mask(logits, labels)
    found = jnp.argmax(logits, -1)[..., None] == jnp.arange(logits.shape[-1])
    at = jnp.any(found & hot, -1)
    own = jnp.sum(jnp.where(hot, logits, 0), -1)
    total = jnp.sum(jnp.where((at != targeted) & known, own, 0))
    return jnp.where(valid, -total, jnp.nan)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
