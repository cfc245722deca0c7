"""Targets of attacks on multi-label models: what a finding is to become.

They go with `from_logits(..., loss=losses.binary_cross_entropy, targeted=True)` and with the
criterion `labels_reached`, the default there.
"""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array


def hide_finding(labels: Array, index: int | Array, *, keep_others: bool = False) -> Array:
    """Return targets that ask for the absence of one finding.

    Args:
      labels: `[..., K]`, known labels in {0, 1}, negative: unknown.
      index: the finding, in [0, K); one for all examples, or `[...]`, one for each.
      keep_others: the other labels are to stay as `labels` says (pass the predictions of the
        model to keep those); otherwise they are -1 and do not matter.

    Returns:
      `[..., K]` of the type of `labels`. Where the finding is predicted absent already, an attack
      has nothing to do.

    Raises:
      ValueError: there is no such label (where `index` is known, outside `jit`).
    """
    return _ask(labels, index, 0, keep_others)


def fabricate_finding(labels: Array, index: int | Array, *, keep_others: bool = False) -> Array:
    """Return targets that ask for the presence of one finding; see `hide_finding`."""
    return _ask(labels, index, 1, keep_others)


def _ask(labels: Array, index: int | Array, wanted: int, keep_others: bool) -> Array:
    labels = jnp.asarray(labels)
    if labels.ndim < 1 or jnp.issubdtype(labels.dtype, jnp.unsignedinteger):
        raise ValueError(
            f"labels: expected signed [..., K], got {labels.dtype}{list(labels.shape)}; "
            "-1 marks what does not matter"
        )
    count = labels.shape[-1]
    if not isinstance(index, jax.core.Tracer):
        places = np.asarray(index)
        if places.min() < 0 or places.max() >= count:
            raise ValueError(f"index: there are findings 0..{count - 1}, got {index}")
    chosen = jnp.arange(count) == jnp.asarray(index)[..., None]
    others = labels if keep_others else jnp.full_like(labels, -1)
    return jnp.where(chosen, jnp.asarray(wanted, labels.dtype), others)
