"""What the pool carries from tick to tick: the queue, the slots, the finished runs, the counts."""

import enum
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.engine import _cycle
from advjax.engine._plan import Verdict
from advjax.types import Array, Attack, PyTree

Column = Any  # a jax array; NumPy on its way to and from the device


class Phase(enum.IntEnum):
    """Where an example of the queue stands."""

    EMPTY = 0
    FRESH = 1  # loaded, its clean evaluation is to come
    QUEUED = 2
    RUNNING = 3
    DONE = 4


class Settings(NamedTuple):
    """What is static about a pool; together with `make_attack` and the shapes, its program.

    Attributes:
      order: see `_plan.ORDERS`.
      slots: examples attacked at once on a device.
      capacity: examples that the queue of a device holds.
      restarts: runs from different starts.
      warm_start: start from the best failed perturbation at the budget before.
      quantise: bits per pixel of the second judgement; None: float32.
      record: judge and hand out every finished run, not successes only.
      models: models that are swept at once; each has queues of its own.
      stack: `"vmap"`: they tick together, as one batch of networks; `"map"`: one after the other.
      later: an earlier attack of a cascade has said which examples are wrong when clean.
      per_restart: targets are `(target, choices)`; a restart is about its own choice.
    """

    order: str
    slots: int
    capacity: int
    restarts: int
    warm_start: bool = False
    quantise: int | None = None
    record: bool = False
    models: int = 1
    stack: str = "map"
    per_restart: bool = False
    later: bool = False

    def target(self, target: PyTree, restart: Array) -> PyTree:
        """Return what runs of `restart` `[S]` are about, of targets `[S, ...]`."""
        if not self.per_restart:
            return target

        def choice(row: Array, restart: Array) -> Array:
            return row[jnp.minimum(restart, row.shape[0] - 1)]

        label, choices = target
        return label, jax.tree.map(lambda leaf: jax.vmap(choice)(leaf, restart), choices)

    @property
    def buffer(self) -> int:
        """Finished runs that wait for their judgement."""
        return 4 * self.slots


class Queue(NamedTuple):
    """The examples, `[C, ...]`, and all that is known of them; `[C, R, E]` by restart and budget.

    Attributes:
      image: `[C, H, W, Ch]`, uint8 or float.
      target: pytree with leading `[C]`.
      id: `[C]` int32, identities of the examples.
      phase: `[C]` int8, `Phase`.
      wrong: `[C]` bool, wrong before any attack.
      broken: `[C]` bool, because its loss is not finite.
      unsteady: `[C]` bool, the output changes with random numbers or the place in the batch.
      bounded: `[C]` bool, the output looks like probabilities.
      idle: `[C]` bool, nothing that the model could answer would be a success.
      first: `[C]` int32, where a search starts; negative before the clean evaluation, which
        then estimates it.
      best: `[C]` int32, the smallest budget solved; E: none.
      ceiling: `[C]` int32, the smallest budget that earlier attacks solved; E: none.
      clean_loss: `[C]`, before any attack.
      verdict: `[C, R, E]` int8, `Verdict`.
      loss: `[C, R, E]`, of the point that a run ended with.
      steps: `[C, R, E]` int32, moves.
      grads: `[C, R, E]` int32, backward passes; `queries`: forward passes.
      status: `[C, R, E]` int8, `advjax.Status`.
      zero: `[C, R, E]` bool, some gradient of the run was exactly zero.
      order: `[C]` int32, rows in the order in which they are dealt.
      head: `[]` int32, how many of `order` were dealt.
      tail: `[]` int32, how many of `order` are to be dealt in all.
    """

    image: Column
    target: Column
    id: Column
    phase: Column
    wrong: Column
    broken: Column
    unsteady: Column
    bounded: Column
    idle: Column
    first: Column
    best: Column
    ceiling: Column
    clean_loss: Column
    verdict: Column
    loss: Column
    steps: Column
    grads: Column
    queries: Column
    status: Column
    zero: Column
    order: Column
    head: Column
    tail: Column


class Slots(NamedTuple):
    """What is being attacked, `[S, ...]`.

    Attributes:
      row: `[S]` int32, row of the queue; the capacity of the queue where a slot is idle.
      restart: `[S]` int32.
      budget: `[S]` int32, index of the budget.
      x0: `[S, H, W, Ch]` float, the clean images.
      target: pytree with leading `[S]`.
      attack: state of the attack.
      cycle: memory of the cycle detection, or `()`.
    """

    row: Column
    restart: Column
    budget: Column
    x0: Column
    target: Column
    attack: Column
    cycle: Any


class Finished(NamedTuple):
    """Runs that ended, `[M, ...]`, of which the first `filled` count.

    Attributes:
      filled: `[]` int32.
      row: `[M]` int32; `restart`, `budget`: of the run.
      claimed: `[M]` bool, a success by the word of the attack.
      x: `[M, H, W, Ch]` the points; after the judgement the points that were judged.
      verified: `[M]` bool.
      output: what the model returns for `x`.
      loss: `[M]`; `linf`, `l2`: largest change of a pixel, Euclidean length.
    """

    filled: Column
    row: Column
    restart: Column
    budget: Column
    claimed: Column
    x: Column
    verified: Column
    output: Column
    loss: Column
    linf: Column
    l2: Column


class Counts(NamedTuple):
    """Work of one call of the program; the host adds calls up in unbounded integers."""

    ticks: Column  # [] int32, ticks that differentiated
    rows: Column  # [] int32, slots of those ticks and clean gradients
    useful: Column  # [] int32, those of `rows` that served a live example
    done: Column  # [] int32, examples in phase DONE
    left: Column  # [] int32, examples that are fresh, queued or running


class State(NamedTuple):
    """All of it. Everything lives on the device."""

    queue: Queue
    slots: Slots
    finished: Finished
    counts: Counts


def empty(
    settings: Settings, attack: Attack, output: PyTree, image: Any, target: PyTree, num_budgets: int
) -> State:
    """Return an empty pool of NumPy zeros and of device keys.

    Args:
      settings: sizes.
      attack: the attack, whose `init` tells the structure of its state.
      output: one example's output, as `jax.ShapeDtypeStruct`s without the leading axis.
      image: one example's image, as it is stored (uint8 or float).
      target: one example's target.
      num_budgets: E.
    """
    capacity, slots, buffer = settings.capacity, settings.slots, settings.buffer
    dtype = float_of(image.dtype)
    one = np.zeros(image.shape, dtype)

    def rows(n: int, like: PyTree) -> PyTree:
        return jax.tree.map(lambda a: np.zeros((n, *a.shape), a.dtype), like)

    def table(dtype: Any, fill: int = 0) -> np.ndarray:
        return np.full((capacity, settings.restarts, num_budgets), fill, dtype)

    number = jax.ShapeDtypeStruct((), np.int32)
    loss_dtype = np.promote_types(dtype, np.float32)
    nowhere = jnp.zeros(slots, jnp.int32)
    state = jax.eval_shape(
        attack.init,
        jax.random.split(jax.random.key(0), slots), rows(slots, one),
        settings.target(jax.tree.map(jnp.asarray, rows(slots, target)), nowhere),
        np.zeros(slots, dtype),
    )  # fmt: skip
    attack_state = jax.tree.map(_zeros, state)
    queue = Queue(
        image=rows(capacity, image), target=rows(capacity, target), id=rows(capacity, number),
        phase=np.full(capacity, Phase.EMPTY, np.int8), wrong=np.zeros(capacity, bool),
        broken=np.zeros(capacity, bool), unsteady=np.zeros(capacity, bool),
        bounded=np.zeros(capacity, bool), idle=np.zeros(capacity, bool),
        first=rows(capacity, number), best=np.full(capacity, num_budgets, np.int32),
        ceiling=np.full(capacity, num_budgets, np.int32),
        clean_loss=np.zeros(capacity, loss_dtype), verdict=table(np.int8, Verdict.UNKNOWN),
        loss=table(loss_dtype), steps=table(np.int32), grads=table(np.int32),
        queries=table(np.int32), status=table(np.int8), zero=table(bool),
        order=np.arange(capacity, dtype=np.int32), head=np.zeros((), np.int32),
        tail=np.zeros((), np.int32),
    )  # fmt: skip
    pool = Slots(
        row=np.full(slots, capacity, np.int32), restart=rows(slots, number),
        budget=rows(slots, number), x0=rows(slots, one), target=rows(slots, target),
        attack=attack_state,
        cycle=_cycle.start(rows(slots, one)) if detects_cycles(attack, settings.order) else (),
    )  # fmt: skip
    finished = Finished(
        filled=np.zeros((), np.int32), row=rows(buffer, number), restart=rows(buffer, number),
        budget=rows(buffer, number), claimed=np.zeros(buffer, bool), x=rows(buffer, one),
        verified=np.zeros(buffer, bool), output=rows(buffer, output),
        loss=np.zeros(buffer, loss_dtype), linf=np.zeros(buffer, dtype), l2=np.zeros(buffer, dtype),
    )  # fmt: skip
    zero = np.zeros((), np.int32)
    return State(queue, pool, finished, Counts(zero, zero, zero, zero, zero))


def per_lane(state: State, change: Callable[[Any], Any]) -> State:
    """Apply `change` to what a lane holds one of: to give it the axis of lanes, or take it.

    A lane is one model on one device. Everything else is `[C, ...]`, `[S, ...]` or `[M, ...]` in
    a lane and has its rows one lane after the other: with an axis of its own for devices, XLA
    would copy all tables in every call.
    """
    return state._replace(
        queue=state.queue._replace(head=change(state.queue.head), tail=change(state.queue.tail)),
        finished=state.finished._replace(filled=change(state.finished.filled)),
        counts=Counts(*map(change, state.counts)),
    )


def detects_cycles(attack: Attack, order: str) -> bool:
    """Whether an iterate that repeats ends a run, since it proves that it will never succeed.

    An exhaustive run spends every step: it is the oracle of this shortcut too.
    """
    return order != "exhaustive" and attack.spec.stationary and attack.spec.num_steps > 1


def float_of(dtype: Any) -> Any:
    """Return the precision in which images of a dtype are attacked."""
    return np.float32 if dtype == np.uint8 else dtype


def bytes_per_row(image: Any, restarts: int, num_budgets: int) -> int:
    """Return what one example of the queue takes on the device, beside its target."""
    tables = 1 + 4 + 4 + 4 + 4 + 1 + 1
    return math.prod(image.shape) * image.dtype.itemsize + restarts * num_budgets * tables + 40


def pixels(image: Array) -> Array:
    """Return stored images as floats: uint8 through a table, the same bits on every device."""
    if image.dtype != jnp.uint8:
        return image
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    return jnp.asarray(levels)[image.astype(jnp.int32)]


def _zeros(like: jax.ShapeDtypeStruct) -> Any:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), like.shape)
    return np.zeros(like.shape, like.dtype)
