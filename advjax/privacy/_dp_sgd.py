"""The gradient of differentially private training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from advjax.random import typed
from advjax.types import Array, PyTree


def dp_gradient(
    loss: Callable[[PyTree, PyTree], Array],
    params: PyTree,
    batch: PyTree,
    key: Array,
    *,
    max_norm: float | Array,
    noise_multiplier: float | Array,
    microbatch: int | None = None,
) -> PyTree:
    """Return the noisy mean of clipped gradients of single examples (DP-SGD).

    Every example moves the sum by at most `max_norm` in Euclidean length over all parameters, and
    normal noise of `noise_multiplier * max_norm` hides which one did: Abadi et al. (2016),
    algorithm 1. Feed the result to any optimiser. The batch must be drawn at random, each example
    by itself (Poisson sampling), for an accountant's statement to hold, and `loss` must look at its
    one example only: batch statistics would carry one into the gradient of the others, so call a
    network of BatchNorm with `train=False`.

    Args:
      loss: `(params, example) -> []`, of one example without a leading axis.
      params: what is trained.
      batch: a tree of arrays with a leading `[B]`.
      key: one key; a fresh one for each step.
      max_norm: C, above 0.
      noise_multiplier: standard deviation of the noise over `max_norm`; 0: none.
      microbatch: as many gradients are held at a time, a divisor of B; None: all.

    Returns:
      A tree as `params`: the noisy sum over B.

    Raises:
      ValueError: `max_norm` is not positive, `noise_multiplier` negative, the batch has no common
        leading axis, or `microbatch` does not divide it.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(f"batch: needs one leading axis [B] of at least 1, got {sorted(sizes)}")
    (size,) = sizes.pop()
    if not isinstance(max_norm, jax.core.Tracer) and not max_norm > 0:
        raise ValueError(f"max_norm: must be above 0, got {max_norm}")
    if not isinstance(noise_multiplier, jax.core.Tracer) and not noise_multiplier >= 0:
        raise ValueError(f"noise_multiplier: must be at least 0, got {noise_multiplier}")
    held = size if microbatch is None else microbatch
    if held < 1 or size % held:
        raise ValueError(f"microbatch: must divide the batch of {size}, got {microbatch}")
    each = jax.vmap(jax.grad(loss), (None, 0))

    def add(total: list[Array], some: PyTree) -> tuple[list[Array], None]:
        gradients = jax.tree.leaves(each(params, some))
        clipped, _ = optax.per_example_global_norm_clip(gradients, max_norm)
        return [t + c for t, c in zip(total, clipped, strict=True)], None

    leaves, structure = jax.tree.flatten(params)
    parts = jax.tree.map(lambda v: jnp.reshape(v, (size // held, held, *v.shape[1:])), batch)
    total, _ = jax.lax.scan(add, [jnp.zeros_like(leaf) for leaf in leaves], parts)
    spread = noise_multiplier * max_norm
    keys = jax.random.split(typed(key), len(leaves))
    noisy = [
        ((t + spread * jax.random.normal(k, t.shape, t.dtype)) / size).astype(t.dtype)
        for t, k in zip(total, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)
