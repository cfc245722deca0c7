"""Models whose behaviour is known by hand."""

import jax
import jax.numpy as jnp

from advjax import attacks, criteria, losses

KEY = jax.random.key(7)


def scalar_problem(fn):
    """A 1-pixel image whose `loss` is `fn(x)` and whose success is `fn(x) > 0`."""
    return attacks.from_logits(
        lambda x: jnp.concatenate([-fn(x), fn(x)], -1),
        loss=losses.cw_margin,
        criterion=criteria.misclassified,
    )
