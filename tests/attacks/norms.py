"""The l1 and the l0 ball, written for their tests only: exact, by bisection and by sorting."""

import jax
import jax.numpy as jnp

from advjax.types import Ball


def l1():
    def project(x, x0, eps):
        def shrunk(by):
            away = jnp.sign(x - x0) * jnp.maximum(jnp.abs(x - x0) - by, 0)
            return jnp.clip(x0 + away, 0, 1)

        def halve(_, ends):
            middle = (ends[0] + ends[1]) / 2
            over = jnp.sum(jnp.abs(shrunk(middle) - x0)) > eps
            return jnp.where(over, middle, ends[0]), jnp.where(over, ends[1], middle)

        largest = jnp.max(jnp.abs(x - x0))
        inside = jnp.sum(jnp.abs(shrunk(0) - x0)) <= eps
        by = jax.lax.fori_loop(0, 50, halve, (0 * largest, largest))[1]
        return shrunk(jnp.where(inside, 0, by))

    def steepest(g):
        largest = jnp.arange(g.size).reshape(g.shape) == jnp.argmax(jnp.abs(g))
        return jnp.sign(g) * largest

    return Ball(
        "l1", project, lambda key, x0, eps: x0, steepest,
        lambda x, x0: jnp.sum(jnp.abs(x - x0)), lambda g: jnp.max(jnp.abs(g)),
    )  # fmt: skip


def l0():
    def project(x, x0, eps):
        x = jnp.clip(x, 0, 1)
        order = jnp.argsort(-jnp.abs(x - x0).reshape(-1))
        kept = jnp.argsort(order).reshape(x.shape) < eps
        return jnp.where(kept, x, x0)

    return Ball(
        "l0", project, lambda key, x0, eps: x0, jnp.sign,
        lambda x, x0: jnp.sum(x != x0).astype(x.dtype), lambda g: jnp.sum(jnp.abs(g)),
    )  # fmt: skip
