"""How far a prediction is from a reference prediction, by the kind of the task."""

import chex
import jax
import jax.numpy as jnp

from advjax import boxes
from advjax.losses._classification import cross_entropy, kl
from advjax.losses._detection import centernet_loss
from advjax.losses._multilabel import binary_cross_entropy
from advjax.losses._segmentation import mean_over_known, pixel_cross_entropy
from advjax.types import IGNORE, Array, Output, Target

_SCORE = 0.3  # from which on a peak of the reference is a box


def pixel_kl(logits: Array, reference: Array, mask: Array) -> Array:
    """Mean over the pixels of `KL(softmax(reference) || softmax(logits))`.

    Args:
      logits: `[H, W, K]`.
      reference: `[H, W, K]` logits.
      mask: `[H, W]`; pixels of 255 do not count.

    Returns:
      `[]`, non-negative; 0 where no pixel counts.
    """
    chex.assert_rank([logits, reference, mask], [3, 3, 2])
    chex.assert_equal_shape([logits, reference])
    log_p = jax.nn.log_softmax(reference)
    terms = jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(logits)), -1)
    return mean_over_known(terms, mask != IGNORE, jnp.asarray(True))


def divergence(output: Output, reference: Output, target: Target) -> Array:
    """Distance of a prediction from a reference prediction of the same kind, softly.

    KL for a single label; for several labels binary cross entropy to the probabilities of the
    reference; the mean KL of the pixels for masks; for a detector binary cross entropy of the
    heatmap to that of the reference, summed and divided by the number of true boxes as its loss is.

    Args:
      output: of one example.
      reference: of the same shapes.
      target: a label `[]`, labels `[K]`, a mask `[H, W]`, or boxes `[M, 5]`.

    Returns:
      `[]`, non-negative.
    """
    if boxes.is_maps(output):
        heat, wanted = boxes.maps(output).heatmap, boxes.maps(reference).heatmap
        terms = jax.nn.softplus(heat) - jax.nn.sigmoid(wanted) * heat
        number = jnp.maximum(jnp.sum(target[:, 0] >= 0), 1)
        return jnp.sum(terms) / number.astype(terms.dtype)
    if target.ndim == 2:
        return pixel_kl(output, reference, target)
    if target.ndim == 1:
        return binary_cross_entropy(output, jax.nn.sigmoid(reference))
    return kl(output, reference)


def decision_loss(output: Output, reference: Output, target: Target) -> tuple[Array, Array]:
    """Loss of a prediction at the decision that a reference prediction makes.

    Cross entropy at the class of the highest logit, binary cross entropy at the labels of positive
    logits, pixel cross entropy at the predicted mask, the loss of a detector at the boxes of a
    score of 0.3 and more.

    Args:
      output: of one example.
      reference: of the same shapes.
      target: as for `divergence`.

    Returns:
      The loss `[]`, and whether the decision is the target itself, `[]`.
    """
    if boxes.is_maps(output):
        decided = boxes.as_targets(boxes.decode(reference), score=_SCORE)
        return centernet_loss(output, decided), jnp.asarray(False)
    if target.ndim == 2:
        decided = jnp.argmax(reference, -1).astype(target.dtype)
        decided = jnp.where(target == IGNORE, target, decided)
        loss = pixel_cross_entropy(output, decided)
    elif target.ndim == 1:
        decided = (reference > 0).astype(jnp.int32)
        loss = binary_cross_entropy(output, decided)
    else:
        decided = jnp.argmax(reference, -1)
        loss = cross_entropy(output, decided)
    return loss, jnp.all(decided == target)
