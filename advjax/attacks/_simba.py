"""SimBA (Guo et al. 2019): try a direction of an orthonormal basis forwards and backwards."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import tree
from advjax.attacks._kernel import broadcast_rows
from advjax.attacks._search import image_shape, random_search, support
from advjax.attacks._smia import step_transform
from advjax.threat import over_rows
from advjax.types import Array, Attack, AttackState, Ball, Objective, PyTree

BASES = ("pixel", "dct")


class SimbaState(NamedTuple):
    """Memory of one row.

    Attributes:
      order: `[N]` int32, the directions as they are tried, those that move nothing last.
      useful: `[]` int32, how many can move something.
      place: `[]` int32, directions left behind.
      back: `[]` bool, whether the last candidate went against its direction.
    """

    order: Array
    useful: Array
    place: Array
    back: Array


def simba(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 5000,
    step_size: float | None = None,
    step_size_abs: Array | float | None = None,
    basis: str = "pixel",
    num_frequencies: int | None = None,
) -> Attack:
    """SimBA of Guo et al. (2019), with single pixels or cosine waves as directions.

    Directions come in random order, each once before any comes again. A step asks the model for
    one point: a move along the direction, then one against it where the first did not help. A
    point is kept when it raises the loss or is the first success. With `losses.cross_entropy` that
    is the rule of the paper, whose probability falls as the cross entropy rises.

    The paper bounds nothing but the number of moves; here every point is projected on the ball.

    Args:
      objective: from `attacks.from_logits`; its forward pass is all that is used.
      ball: the threat model, for images `[B, H, W, C]` or vectors `[B, D]`.
      num_steps: the budget of queries, but for the one of the start: a run without success costs
        `num_steps + 1` forward passes.
      step_size: length of a move relative to eps; None: 0.2 in pixel units, as published.
      step_size_abs: in pixel units, scalar or `[B]`, instead of `step_size`.
      basis: `"pixel"`, single pixels of single channels, or `"dct"`, two-dimensional cosine waves
        of single channels.
      num_frequencies: of cosine waves, the lowest per axis; None: an eighth of each axis, as in
        the paper (28 of 224), but at least 4.

    Raises:
      ValueError: `num_steps` is below 1, both step sizes are given, `basis` is unknown,
        `num_frequencies` is below 1 or given without waves, or (when the attack is traced) the
        examples are neither images nor vectors.
    """
    _check_basis(basis, num_frequencies)
    if step_size is None and step_size_abs is None:
        step_size_abs = 0.2
    scale, row_args = step_transform(step_size, step_size_abs, 1.0)
    rows = over_rows(ball)
    shuffle_row = functools.partial(_shuffled, basis)

    def init_memory(x0: Array) -> tuple[SimbaState, dict[str, Array]]:
        num, (down, across, channels) = x0.shape[0], _grid(x0[0], basis, num_frequencies)
        nothing = jnp.zeros(num, jnp.int32)
        order = jnp.zeros((num, down * across * channels), jnp.int32)
        memory = SimbaState(order, nothing, nothing, jnp.zeros(num, jnp.bool_))
        return memory, broadcast_rows(row_args, x0)

    def prepare(state: AttackState, x0: Array, keys: Array) -> PyTree:
        memory, row = state.direction_state
        first = state.step == 0
        movable = rows.steepest(jnp.ones_like(x0)) != 0

        def shuffle(memory: SimbaState) -> SimbaState:
            return tree.where(first, jax.vmap(shuffle_row)(keys, movable, memory), memory)

        # the sort is worth skipping where no row begins
        return jax.lax.cond(jnp.any(first), shuffle, lambda memory: memory, memory), row

    def candidate(
        ball_: Ball, key: Array, best: Array, x0: Array, eps: Array, step: Array,
        accepted: Array, memory: PyTree,
    ) -> tuple[Array, PyTree]:  # fmt: skip
        del key
        state, row = memory
        turn = ~accepted & ~state.back & (step > 0)
        left = jnp.where(step == 0, 0, state.place + ~turn)
        which = state.order[left % state.useful]
        wave = _direction(
            which, _grid(x0, basis, num_frequencies), image_shape(x0, "simba"), basis, x0.dtype
        )
        unit = jnp.where(turn, -wave, wave).reshape(x0.shape)
        unit = jnp.where(support(ball_, x0), unit, 0)
        away, _ = scale.update(unit, scale.init(unit), x0, eps=eps, ball=ball_, **row)
        x = ball_.project(best + away.astype(best.dtype), x0, eps)
        return x, (state._replace(place=left, back=turn), row)

    return random_search(
        objective, ball, candidate, init_memory, num_steps=num_steps, name="simba", prepare=prepare
    )


def _check_basis(basis: str, num_frequencies: int | None) -> None:
    if basis not in BASES:
        raise ValueError(f'basis must be "pixel" or "dct", got {basis!r}')
    if num_frequencies is not None and (basis == "pixel" or num_frequencies < 1):
        raise ValueError(
            f'num_frequencies: expected 1 or more, with basis="dct"; got {num_frequencies} with '
            f"{basis!r}"
        )


def _grid(x0: Array, basis: str, num_frequencies: int | None) -> tuple[int, int, int]:
    """Return how many directions there are: rows or frequencies, columns or frequencies, channels.

    Raises:
      ValueError: the example is neither an image nor a vector.
    """
    shape = image_shape(x0, "simba")
    if basis == "pixel":
        return shape
    lowest = [max(n // 8, 4) if num_frequencies is None else num_frequencies for n in shape[:2]]
    return min(shape[0], lowest[0]), min(shape[1], lowest[1]), shape[2]


def _direction(
    which: Array, grid: tuple[int, int, int], shape: tuple[int, int, int], basis: str,
    dtype: jnp.dtype,
) -> Array:  # fmt: skip
    """Return one direction of length 1, `[H, W, C]`."""
    places = jnp.unravel_index(which, grid)
    axes = []
    for axis, (place, size) in enumerate(zip(places, shape, strict=True)):
        at = jnp.arange(size)
        if basis == "pixel" or axis == 2:
            axes.append((at == place).astype(dtype))
        else:
            wave = jnp.cos(jnp.pi / size * (at + 0.5) * place).astype(dtype)
            axes.append(wave * jnp.sqrt(jnp.where(place == 0, 1, 2) / size).astype(dtype))
    return axes[0][:, None, None] * axes[1][None, :, None] * axes[2]


def _shuffled(basis: str, key: Array, movable: Array, memory: SimbaState) -> SimbaState:
    """Draw the order of the directions of one example; pixels outside of a mask come last."""
    useful = movable.reshape(-1) if basis == "pixel" else jnp.ones(memory.order.shape, bool)
    # ties of 23 random bits go by position
    chance = jnp.where(useful, jax.random.uniform(key, useful.shape), 2)
    number = jnp.maximum(jnp.sum(useful), 1).astype(jnp.int32)
    return memory._replace(order=jnp.argsort(chance).astype(jnp.int32), useful=number)
