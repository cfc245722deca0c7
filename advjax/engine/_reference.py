"""The brute-force evaluator: one budget after the other, every step of every row."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, threat
from advjax.engine._inputs import check_labels
from advjax.random import example_keys
from advjax.status import Status
from advjax.types import Array, Attack, Objective, PyTree

MakeAttack = Callable[[PyTree], Attack]


class ReferenceRows(NamedTuple):
    """What attacking N examples at one budget gave; NumPy, in the order of the examples.

    Attributes:
      x_adv: `[N, H, W, C]` float32.
      output: what the model returns for `x_adv`, computed outside of the attack program.
      success: `[N]` bool, claimed by the attack and confirmed by `output`.
      unconfirmed: `[N]` bool, claimed by the attack but not confirmed.
      loss: `[N]`, at `x_adv`.
      linf: `[N]`, largest change of a pixel.
      l2: `[N]`, Euclidean length of the perturbation.
      num_steps: `[N]`, moves made.
      num_grads: `[N]`, backward passes spent.
      status: `[N]` int8, `advjax.Status`.
      num_queries: `[N]`, forward passes spent.
    """

    x_adv: Any
    output: Any
    success: Any
    unconfirmed: Any
    loss: Any
    linf: Any
    l2: Any
    num_steps: Any
    num_grads: Any
    status: Any
    num_queries: Any


def outcome(
    objective: Objective, x: Array, target: PyTree, keys: Array
) -> tuple[PyTree, Array, Array]:
    """Return output, loss `[B]` and success `[B]` of points as they are.

    Where the objective is composite, the output is one draw, or the mean of the members.
    Accelerators round the factors of float32 products to 10 bits (GPUs) or 8 (TPUs) unless they are
    told not to; attacks may go by that, verdicts do not.
    """
    with jax.default_matmul_precision("highest"):
        output = objective.apply(x, keys)
        if objective.composite:
            judged = objective.judge(x, target, keys)
            return output, judged.loss, judged.success
    return (
        output,
        jax.vmap(objective.loss)(output, target),
        jax.vmap(objective.criterion)(output, target),
    )


def finite_outputs(output: PyTree) -> Array:
    """Return `[B]`: outputs without NaN and infinity, which nothing can be said about."""
    leaves = jax.tree.leaves(output)
    each = [jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(1) for leaf in leaves]
    return jnp.stack(each).all(0)


def nothing_to_reach(objective: Objective, output: PyTree, target: PyTree) -> Array:
    """Return `[B]`: targets whose loss no output changes, and of which no output is a success.

    Such as findings of which none is known. Tried with the opposite of an output, which is a
    success for every criterion that leads away, and with one drawn at random.

    Args:
      objective: with the loss and the criterion.
      output: of the model, leading `[B]`.
      target: leading `[B]`.
    """

    def drawn(leaf: Array) -> Array:
        # the same for every row, so that no batch matters
        noise = 10 * jax.random.normal(jax.random.key(0), leaf.shape[1:])
        noise = noise > 0 if leaf.dtype == bool else noise.astype(leaf.dtype)
        return jnp.broadcast_to(noise, leaf.shape)

    def opposite(leaf: Array) -> Array:
        return ~leaf if leaf.dtype == bool else jnp.negative(leaf)

    loss, reach = jax.vmap(objective.loss), jax.vmap(objective.criterion)
    before, idle = loss(output, target), ~reach(output, target)
    for change in (opposite, drawn):
        other = jax.tree.map(change, output)
        idle = idle & (loss(other, target) == before) & ~reach(other, target)
    return idle


@functools.lru_cache(maxsize=64)
def _programs(
    make_attack: MakeAttack,
) -> tuple[Callable[..., Any], Callable[..., Any], dict[tuple[int, ...], Any]]:
    """Compile once per attack and shape: params, data and budgets are arguments.

    The third entry is what is known of the model's outputs, by the shape of an image.
    """

    @jax.jit
    def attacked(params: PyTree, keys: Array, x: Array, y: PyTree, eps: Array) -> Any:
        return attacks.run(make_attack(params), keys, x, y, eps, stop="budget")

    @jax.jit
    def judged(params: PyTree, keys: Array, x: Array, x_adv: Array, y: PyTree) -> Any:
        objective = make_attack(params).spec.objective
        output, loss, success = outcome(objective, x_adv, y, keys)
        linf, l2 = (threat.over_rows(b).distance(x_adv, x) for b in (threat.linf(), threat.l2()))
        idle = nothing_to_reach(objective, output, y)
        return output, success, loss, linf, l2, idle

    return attacked, judged, {}


def reference(
    make_attack: MakeAttack,
    params: PyTree,
    x: np.ndarray,
    y: PyTree,
    eps: float,
    *,
    key: Array,
    ids: np.ndarray | None = None,
    restart: int = 0,
    batch_size: int = 128,
    progress: Callable[[int], None] | None = None,
) -> ReferenceRows:
    """Attack every example at one budget, spending every step.

    Args:
      make_attack: `params -> Attack`; compiled once per callable and batch shape.
      params: the argument of `make_attack`, typically the variables of a model.
      x: `[N, H, W, C]`, uint8, or floats within the bounds.
      y: `[N]` labels, or a pytree with leading `[N]`.
      eps: budget in pixel units.
      key: one key; a row's randomness depends on it, on the example's id, the restart and the
        attack's name only, so that the curves over budgets are paired.
      ids: `[N]` integers, identities of the examples; None: 0..N-1.
      restart: number of the restart.
      batch_size: rows of one program; the last batch is padded.
      progress: called with the number of rows done after every batch.

    Returns:
      `ReferenceRows`.

    Raises:
      ValueError: there is no example, the sizes do not fit, or a label is no class of the model.
    """
    ids = np.arange(len(x)) if ids is None else np.asarray(ids)
    _check_labels(make_attack, params, x, y)
    attacked, judged, _ = _programs(make_attack)
    name = make_attack(params).spec.name
    # parts is one tuple of arrays per batch, in the order of ReferenceRows
    parts = []
    for rows, image, target in batches(x, y, ids, batch_size):
        keys = example_keys(key, jnp.asarray(ids[rows]), restart, name)
        budget = jnp.full(len(rows), eps, image.dtype)
        result = attacked(params, keys, image, target, budget)
        output, confirmed, loss, linf, l2, idle = judged(params, keys, image, result.x_adv, target)
        success, unconfirmed = result.success & confirmed, result.success & ~confirmed
        status = jnp.where(idle, jnp.int8(Status.NOTHING_TO_REACH), result.status)
        parts.append((result.x_adv, output, success, unconfirmed, loss, linf, l2,
                      result.num_steps, result.num_grads, status,
                      result.num_queries))  # fmt: skip
        if progress is not None:
            jax.block_until_ready(parts[-1])
            progress(len(rows))
    return ReferenceRows(*join(parts, len(x)))


def evaluate_clean(
    make_attack: MakeAttack,
    params: PyTree,
    x: np.ndarray,
    y: PyTree,
    *,
    key: Array,
    ids: np.ndarray | None = None,
    batch_size: int = 128,
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Evaluate the unattacked examples under the loss and the criterion of an attack.

    Args: as `reference`.

    Returns:
      The outputs, `wrong_when_clean [N]` (the criterion holds already, or loss or output are not
      finite) and the loss `[N]`.

    Raises:
      ValueError: there is no example, the sizes do not fit, or a label is no class of the model.
    """
    ids = np.arange(len(x)) if ids is None else np.asarray(ids)
    _check_labels(make_attack, params, x, y)
    _, judged, _ = _programs(make_attack)
    parts = []
    for rows, image, target in batches(x, y, ids, batch_size):
        keys = example_keys(key, jnp.asarray(ids[rows]), 0, "clean")
        parts.append(judged(params, keys, image, image, target)[:3])
    output, wrong, loss = join(parts, len(x))
    finite = np.asarray(finite_outputs(jax.tree.map(jnp.asarray, output)))
    return output, wrong | ~(np.isfinite(loss) & finite), loss


def _check_labels(make_attack: MakeAttack, params: PyTree, x: np.ndarray, y: PyTree) -> None:
    """Refuse labels that are no class or no finding of the model, before any compute."""
    shape, known = np.shape(x)[1:], _programs(make_attack)[2]
    if len(x) == 0:
        return
    if shape not in known:
        objective = make_attack(params).spec.objective
        keys = jax.random.split(jax.random.key(0), 1)
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        rows = jax.eval_shape(objective.apply, image, keys)
        known[shape] = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), rows)
    check_labels(known[shape], jax.tree.map(np.asarray, y))


def batches(x: np.ndarray, y: PyTree, ids: np.ndarray, batch_size: int) -> Any:
    """Yield row numbers, images and targets; the last batch repeats the last row."""
    sizes = {len(leaf) for leaf in jax.tree.leaves((x, y, ids))}
    if len(sizes) != 1 or 0 in sizes or batch_size < 1:
        raise ValueError(
            "x, y and ids need the same non-zero number of examples and batch_size at least 1, "
            f"got {sorted(sizes)} and {batch_size}"
        )
    total = len(x)
    # equal batches: 130 rows in batches of at most 128 are 2 x 65, not 128 + 2 padded to 128
    size = -(-total // -(-total // batch_size))
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)
        image = np.asarray(x[rows])
        if image.dtype == np.uint8:
            image = image.astype(np.float32) / np.float32(255)
        yield rows, jnp.asarray(image), jax.tree.map(lambda leaf, r=rows: jnp.asarray(leaf[r]), y)


def join(parts: list[Any], total: int) -> Any:
    """Put the rows of all batches together, without the padding of the last one."""
    return jax.tree.map(
        lambda *leaves: np.concatenate([np.asarray(v) for v in leaves])[:total], *parts
    )
