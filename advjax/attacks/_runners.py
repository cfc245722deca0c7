"""Run an attack on one batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import tree
from advjax.random import row_keys
from advjax.types import Array, Attack, AttackResult, AttackState, Target


def run(
    attack: Attack,
    key: Array,
    x: Array,
    target: Target,
    eps: Array | float,
    *,
    x_start: Array | None = None,
    stop: str = "success",
    num_steps: Array | None = None,
) -> AttackResult:
    """Attack one batch. Pure: `jit`, `vmap`, `pmap` and `shard_map` it as you like.

    Args:
      attack: from `attacks.pgd(...)` and its like.
      key: one key (row i uses `fold_in(key, i)`) or `[B]` keys, one per row; with `[B]` keys
        (`advjax.random.example_keys`) a row's result does not depend on batch, order or device.
        The key is consumed.
      x: `[B, H, W, C]` images (any `[B, ...]`), within the bounds of the ball.
      target: `[B]` labels, or any pytree with leading `[B]`.
      eps: budget in pixel units, a scalar or `[B]`, traced: one compile serves all budgets.
        0 returns exactly `x`. For an attack for the minimal norm: a radius beyond which a result
        is no success; `jnp.inf`: none.
      x_start: `[B, ...]` points to start from, projected on the ball first; None: the attack's
        own start.
      stop: `"success"` freezes a row at its first success and ends when all rows are done;
        `"budget"` spends every step on every row, as attacks for the minimal norm always do.
      num_steps: `[B]` integers, traced: moves of each row, at most those of the attack. A row that
        has made them stays where it is, and the run ends with the last one. None: all moves.

    Returns:
      `AttackResult`; `success`, `loss` and `distance` describe the returned `x_adv`.

    Raises:
      ValueError: shapes do not match, pixels are no floats, `stop` is unknown; and, where the
        values are known (outside `jit`), NaN or out-of-bounds pixels or a negative eps.
    """
    if stop not in ("success", "budget"):
        raise ValueError(f'stop must be "success" or "budget", got {stop!r}')
    x = jnp.asarray(x)
    target = jax.tree.map(jnp.asarray, target)
    _check_shapes(x, target, x_start)
    eps = jnp.asarray(eps, x.dtype)
    if eps.shape not in ((), x.shape[:1]):
        raise ValueError(f"eps: expected a scalar or [{x.shape[0]}], got shape {eps.shape}")
    _check_values(x, eps, attack.spec.ball.bounds)
    eps = jnp.broadcast_to(eps, x.shape[:1])
    if x_start is not None:
        x_start = jnp.asarray(x_start, x.dtype)
    freeze = stop == "success" and not attack.spec.minimal
    limit = _limit(num_steps, attack.spec.num_steps, x.shape[0])

    def advance(state: AttackState) -> AttackState:
        new = attack.step(state, x, target, eps, freeze)
        return new if num_steps is None else tree.where(state.step < limit, new, state)

    def unfinished(state: AttackState) -> Array:
        going = state.step < limit
        return jnp.any(going & ~state.success if freeze else going)

    state = attack.init(row_keys(key, x.shape[0]), x, target, eps, x_start)
    if freeze or num_steps is not None:
        state = jax.lax.while_loop(unfinished, advance, state)
    else:
        state = jax.lax.fori_loop(0, attack.spec.num_steps, lambda _, s: advance(s), state)
    return attack.finalize(state, x, target, eps, freeze)


def _limit(num_steps: Array | None, most: int, rows: int) -> Array | int:
    """Return how many moves each row makes."""
    if num_steps is None:
        return most
    num_steps = jnp.asarray(num_steps)
    if num_steps.shape not in ((), (rows,)) or not jnp.issubdtype(num_steps.dtype, jnp.integer):
        raise ValueError(
            f"num_steps: expected integers [{rows}], got {num_steps.dtype}{list(num_steps.shape)}"
        )
    return jnp.minimum(num_steps, most)


def _check_shapes(x: Array, target: Target, x_start: Array | None) -> None:
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x: expected floating images [B, ...], got {x.dtype}{list(x.shape)}; "
            "uint8 images are divided by 255 first"
        )
    for leaf in jax.tree.leaves(target):
        if leaf.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"target: every leaf needs the leading axis of x, [{x.shape[0]}], got shape "
                f"{leaf.shape}; x is a batch [B, H, W, C], one image is x[None]"
            )
    if x_start is not None and x_start.shape != x.shape:
        raise ValueError(f"x_start: expected the shape of x {x.shape}, got {x_start.shape}")


def _check_values(x: Array, eps: Array, bounds: tuple[Any, Any]) -> None:
    """Check what is known before tracing; a compiled caller checks its data once, at load."""
    known = [v for v in (x, eps, *bounds) if not isinstance(v, jax.core.Tracer)]
    if len(known) < 4:
        return
    check_pixels(np.asarray(x), bounds)
    if not (np.asarray(eps) >= 0).all():
        raise ValueError(f"eps: must be zero or positive, got {np.asarray(eps).min()}")


def check_pixels(pixels: np.ndarray, bounds: tuple[Any, Any]) -> None:
    """Check images `[N, ...]` of floats.

    Raises:
      ValueError: pixels are NaN, or outside of the bounds of a ball.
    """
    if not np.isfinite(pixels).all():
        row = int(np.argwhere(~np.isfinite(pixels))[0][0])
        raise ValueError(f"x: image {row} has NaN or infinite pixels; clean the data first")
    low, high = (np.asarray(b) for b in bounds)
    if (pixels < low - 1e-6).any() or (pixels > high + 1e-6).any():
        raise ValueError(
            f"x: pixels span [{pixels.min():.6g}, {pixels.max():.6g}], outside of the bounds "
            "of the ball; rescale the images or give the ball its bounds=(low, high)"
        )
