"""The difference-of-logits ratio of Croce and Hein (2020), with fallbacks for few classes."""

import chex
import jax
import jax.numpy as jnp

from advjax.losses._classification import check_label, cw_margin
from advjax.types import Array

_TINY = 1e-12


def dlr(logits: Array, label: Array) -> Array:
    """Difference of logits ratio (Croce and Hein 2020, section 4): a margin without a scale.

    `-(z_y - max_{j != y} z_j) / (z_1st - z_3rd + 1e-12)`, with the logits sorted downwards:
    neither a shift nor a positive factor of the logits changes it. Two classes have no third
    logit: there it is the plain margin, `losses.cw_margin`.

    Args:
      logits: `[C]`, C >= 2.
      label: `[]` integer in [0, C); NaN is returned for a label outside.

    Returns:
      `[]`; positive exactly where the example is misclassified.

    Raises:
      ValueError: there is only one class.
    """
    margin = cw_margin(logits, label)
    if logits.shape[0] < 3:
        return margin
    ranked = jax.lax.top_k(logits, 3)[0]
    return margin / (ranked[0] - ranked[2] + _TINY)


def dlr_targeted(logits: Array, target: tuple[Array, Array]) -> Array:
    """Targeted difference of logits ratio (Croce and Hein 2020, section 4).

    `-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2 + 1e-12)`. It leads towards class t, but what
    counts as success is leaving y. With two or three classes it is `z_t - z_y`.

    Args:
      logits: `[C]`, C >= 2.
      target: `(y, t)`, two integers `[]` in [0, C); NaN is returned for one outside.

    Returns:
      `[]`; positive where t leads y.

    Raises:
      ValueError: there is only one class.
    """
    label, wanted = target
    chex.assert_equal_shape([label, wanted])
    hot, valid = check_label(logits, label)
    aim, possible = check_label(logits, wanted)
    if logits.shape[0] < 2:
        raise ValueError("dlr_targeted needs at least 2 classes")
    margin = jnp.sum(jnp.where(aim, logits, 0)) - jnp.sum(jnp.where(hot, logits, 0))
    if logits.shape[0] > 3:
        ranked = jax.lax.top_k(logits, 4)[0]
        margin = margin / (ranked[0] - (ranked[2] + ranked[3]) / 2 + _TINY)
    return jnp.where(valid & possible, margin, jnp.nan)
