"""What an attack does step by step: divergences of its predictions, spread of its perturbations."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from advjax import boxes, losses, threat
from advjax.random import row_keys
from advjax.types import Array, Attack, Output, Target

Divergence = Callable[[Output, Output], Array]


class Trace(NamedTuple):
    """An attack, iterate by iterate; `[T + 1, B]`, the start first.

    Attributes:
      loss: the task loss.
      success: bool, by the criterion.
      from_last: divergence of the prediction from that of the iterate before; 0 at the start.
      from_clean: divergence of the prediction from that of the image.
      to_target: divergence of the prediction from the target: for one class the cross entropy,
        which is `KL(target || prediction)` of a one-hot target (the other direction is infinite);
        for boxes the loss of a detector.
      distance: in the norm of the ball.
      variance: of the perturbation over its pixels and channels.
    """

    loss: Array
    success: Array
    from_last: Array
    from_clean: Array
    to_target: Array
    distance: Array
    variance: Array


def softmax_kl(p: Array, q: Array) -> Array:
    """`KL(softmax(p) || softmax(q))` over the last axis of ONE example; mean over other axes."""
    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1))


def sigmoid_kl(p: Array, q: Array) -> Array:
    """Mean over findings `[K]` of `KL(sigmoid(p) || sigmoid(q))` of ONE example."""
    probability = jax.nn.sigmoid(p)
    on = jax.nn.log_sigmoid(p) - jax.nn.log_sigmoid(q)
    off = jax.nn.log_sigmoid(-p) - jax.nn.log_sigmoid(-q)
    return jnp.mean(probability * on + (1 - probability) * off)


def softmax_to(output: Array, label: Array) -> Array:
    """`KL(one-hot || softmax)` of ONE example: cross entropy, mean over pixels but those of 255."""
    log_p = jax.nn.log_softmax(output)
    hot = jnp.arange(output.shape[-1]) == jnp.asarray(label)[..., None]
    entropy = -jnp.sum(jnp.where(hot, log_p, 0), -1)
    counts = jnp.any(hot, -1)
    return jnp.sum(jnp.where(counts, entropy, 0)) / jnp.maximum(jnp.sum(counts), 1)


def sigmoid_to(output: Array, labels: Array) -> Array:
    """Mean over the known findings of `KL(label || sigmoid)` of ONE example: the cross entropy."""
    known = labels >= 0
    terms = jax.nn.softplus(jnp.where(labels > 0.5, -output, output))
    return jnp.sum(jnp.where(known, terms, 0)) / jnp.maximum(jnp.sum(known), 1)


def heatmap_kl(p: Output, q: Output) -> Array:
    """Sum over cells and classes of the KL of heatmaps of ONE example: most cells are empty."""
    heat = boxes.maps(p).heatmap
    return heat.size * sigmoid_kl(heat, boxes.maps(q).heatmap)


def trace(
    attack: Attack,
    key: Array,
    x: Array,
    target: Target,
    eps: Array | float,
    *,
    multi: bool | None = None,
) -> Trace:
    """Follow an attack (Qi et al. 2021: KL of the predictions, with and without stabilisation).

    Runs every step of every row; costs one forward pass an iterate more than the attack. Compare
    `attacks.smia(objective, ball)` with `attacks.smia(objective, ball, a2=0.0)`. Pure: `jit`
    it; the attack must be built inside of what is jitted.

    Args:
      attack: whose iterates are those of its state, as of every attack by steps.
      key: as for `attacks.run`, of which this is a run with `stop="budget"`.
      x: `[B, H, W, C]`.
      target: `[B]` classes, `[B, H, W]` masks, `[B, K]` findings, or `[B, M, 5]` boxes, where
        divergences are those of the heatmaps.
      eps: scalar or `[B]`.
      multi: whether outputs are findings (sigmoid); None: where the target is `[B, K]`.

    Returns:
      `Trace`.

    Raises:
      ValueError: the target is no array of labels.
    """
    if not hasattr(target, "ndim"):
        raise ValueError("target: expected one array of labels, findings or masks")
    multi = target.ndim == 2 if multi is None else multi
    between: Divergence = sigmoid_kl if multi else softmax_kl
    towards: Divergence = sigmoid_to if multi else softmax_to
    objective, rows = attack.spec.objective, threat.over_rows(attack.spec.ball)
    keys = row_keys(key, x.shape[0])
    eps = jnp.broadcast_to(jnp.asarray(eps, x.dtype), x.shape[:1])
    clean = objective.apply(x, keys)
    if boxes.is_maps(clean):
        between, towards = heatmap_kl, losses.centernet_loss

    def seen(now: Array, before: Output) -> tuple[Output, Trace]:
        output = objective.apply(now, keys)
        change = (now - x).reshape(x.shape[0], -1)
        return output, Trace(
            loss=jax.vmap(objective.loss)(output, target),
            success=jax.vmap(objective.criterion)(output, target),
            from_last=jax.vmap(between)(output, before),
            from_clean=jax.vmap(between)(output, clean),
            to_target=jax.vmap(towards)(output, target),
            distance=rows.distance(now, x),
            variance=jnp.var(change, axis=1),
        )

    def body(carry: tuple, _: None) -> tuple[tuple, Trace]:
        state, before = carry
        state = attack.step(state, x, target, eps)
        output, told = seen(state.x, before)
        return (state, output), told

    state = attack.init(keys, x, target, eps)
    output, _ = seen(state.x, clean)
    # the start has nothing before it
    output, first = seen(state.x, output)
    _, rest = jax.lax.scan(body, (state, output), None, length=attack.spec.num_steps)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


class Spread(NamedTuple):
    """Variance of perturbations; pixels in [0, 1].

    Attributes:
      within: `[N]`, over the pixels and channels of each.
      across: `[H, W, C]`, of each pixel over the images.
      mean_within: `[]`.
      mean_across: `[]`.
    """

    within: np.ndarray
    across: np.ndarray
    mean_within: float
    mean_across: float


def perturbation_variance(x: ArrayLike, x_adv: ArrayLike) -> Spread:
    """Return how perturbations vary, over pixels and over images.

    Qi et al. (2021) call those of SMIA small in variance, and give no formula: here are both
    readings.

    Args:
      x: `[N, H, W, C]`.
      x_adv: the same, attacked.

    Raises:
      ValueError: the shapes differ, or there is no image.
    """
    clean, attacked = np.asarray(x, np.float64), np.asarray(x_adv, np.float64)
    if clean.shape != attacked.shape or clean.ndim < 2 or not len(clean):
        raise ValueError(
            f"images: expected two sets [N, H, W, C], got {clean.shape} and {attacked.shape}"
        )
    change = attacked - clean
    within, across = change.reshape(len(change), -1).var(1), change.var(0)
    return Spread(within, across, float(within.mean()), float(across.mean()))
