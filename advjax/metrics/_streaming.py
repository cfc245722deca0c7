"""Sums that are updated batch by batch, inside `jit`, `scan` or across devices.

    meter = metrics.streaming_accuracy()
    sums = meter.init()
    for batch in batches:
        sums = update(sums, apply(variables, batch.image), batch.target, batch.valid)
    print(meter.compute(sums))

where `update = jax.jit(meter.update)`. Padding (`valid` False) contributes exactly zero, even
where the model's output for it is NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from advjax.types import Array, Output, Target


class Streaming(NamedTuple):
    """Three pure functions.

    Attributes:
      init: `() -> sums`, all zero.
      update: `(sums, output, target, valid) -> sums`; output and target have leading `[B]`,
        `valid` is `[B]` bool.
      compute: `(sums) -> result`; NaN before the first valid example (0/0).
    """

    init: Callable[[], Any]
    update: Callable[[Any, Output, Target, Array], Any]
    compute: Callable[[Any], Array]


class MeanSums(NamedTuple):
    """Sum, what rounding lost of it, and the number of examples."""

    total: Array
    lost: Array
    num: Array


class HitSums(NamedTuple):
    """Exact counts."""

    hits: Array
    num: Array


def streaming_mean(fn: Callable[[Output, Target], Array]) -> Streaming:
    """Mean of `fn(output, target) -> [B]` over all valid examples.

    The float32 sum is compensated (Kahan, 1965), so that millions of examples do not wear
    it out.
    """

    def init() -> MeanSums:
        return MeanSums(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))

    def update(sums: MeanSums, output: Output, target: Target, valid: Array) -> MeanSums:
        values = jnp.where(valid, fn(output, target), 0).astype(jnp.float32)
        part = values.sum() + sums.lost
        total = sums.total + part
        large = jnp.abs(sums.total) >= jnp.abs(part)
        lost = jnp.where(large, (sums.total - total) + part, (part - total) + sums.total)
        return MeanSums(total, lost, sums.num + valid.sum(dtype=jnp.int32))

    def compute(sums: MeanSums) -> Array:
        return (sums.total + sums.lost) / sums.num

    return Streaming(init, update, compute)


def streaming_accuracy() -> Streaming:
    """Share of examples predicted right, exact up to 2**31 examples.

    Single label, output `[B, C]` and target `[B]`: the true logit is strictly above all others.
    Multi-label, target `[B, K]`: every known label (not negative) lies on its side of logit 0.
    A tie or a non-finite output is not right.
    """

    def init() -> HitSums:
        return HitSums(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(sums: HitSums, output: Output, target: Target, valid: Array) -> HitSums:
        hits = jnp.sum(valid & correct(output, target), dtype=jnp.int32)
        return HitSums(sums.hits + hits, sums.num + valid.sum(dtype=jnp.int32))

    def compute(sums: HitSums) -> Array:
        return sums.hits / sums.num

    return Streaming(init, update, compute)


def streaming_confusion(num_classes: int) -> Streaming:
    """Confusion matrix `[C, C]` int32, row = true class; `compute` returns it as it is.

    Labels outside 0..C-1 are not counted, nor are non-finite outputs.
    """

    def init() -> Array:
        return jnp.zeros((num_classes, num_classes), jnp.int32)

    def update(sums: Array, output: Output, target: Target, valid: Array) -> Array:
        whole = jnp.all(jnp.isfinite(output), axis=-1)
        known = (target >= 0) & (target < num_classes)
        ones = (valid & whole & known).astype(jnp.int32)
        return sums.at[jnp.where(known, target, 0), jnp.argmax(output, axis=-1)].add(ones)

    def compute(sums: Array) -> Array:
        return sums

    return Streaming(init, update, compute)


def correct(logits: Array, target: Array) -> Array:
    """Whether each example is right without doubt, `[B]` bool.

    Args:
      logits: `[B, C]`, or `[B, K]` for multi-label.
      target: `[B]` integer classes, or `[B, K]` in {0, 1}, negative where unknown.

    Returns:
      Single label: the true logit is strictly above all others. Multi-label: every known label
      lies on its side of 0. False for a tie or a non-finite output.
    """
    whole = jnp.all(jnp.isfinite(logits), axis=-1)
    if target.ndim == 2:
        right = jnp.where(target > 0.5, logits > 0, logits < 0)
        return whole & jnp.all(right | (target < 0), axis=-1)
    own_class = jnp.arange(logits.shape[-1]) == target[:, None]
    own = jnp.sum(jnp.where(own_class, logits, 0), axis=-1)
    other = jnp.max(jnp.where(own_class, -jnp.inf, logits), axis=-1)
    return whole & jnp.any(own_class, axis=-1) & (own > other)
