"""One attack of a sweep: the host's side of the pool.

The host loads examples into the queues of the devices, calls the compiled program until nothing
is left, and takes the results of examples that are done. A set larger than the queues is streamed
through them while the pool keeps running.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from advjax import mesh as meshes
from advjax.engine import _state
from advjax.engine._inputs import Examples, check_fit, check_labels
from advjax.engine._plan import Verdict
from advjax.engine._program import compiled
from advjax.engine._reference import MakeAttack
from advjax.engine._state import Finished, Phase, Settings, State
from advjax.random import stable_id
from advjax.status import Status
from advjax.types import Attack, PyTree

# a call of the program should take about so long: rare enough to cost nothing, often enough to see
SECONDS = 1.0
# results are handed out about so often, so that a killed program loses no more
HARVEST = 5.0


class Progress(NamedTuple):
    """What the host knows between two calls of the program."""

    done: int  # examples decided
    total: int
    rows_computed: int
    rows_useful: int


class Tables(NamedTuple):
    """What one attack found, NumPy, in the order of the examples; `[N, R, E]` by run.

    Attributes:
      wrong: `[N]` bool, wrong before any attack; `broken`: because its loss is not finite.
      unsteady: `[N]` bool, the output changes with random numbers or the place in the batch.
      bounded: `[N]` bool, the output looks like probabilities.
      idle: `[N]` bool, nothing that the model could answer would be a success.
      best: `[N]` int32, index of the smallest budget solved by this attack or an earlier one.
      clean_loss: `[N]`.
      verdict: `[N, R, E]` int8, `Verdict`.
      loss: `[N, R, E]`; `steps`, `grads`, `queries`, `status`, `zero`: see `_state.Queue`.
    """

    wrong: np.ndarray
    broken: np.ndarray
    unsteady: np.ndarray
    bounded: np.ndarray
    idle: np.ndarray
    best: np.ndarray
    clean_loss: np.ndarray
    verdict: np.ndarray
    loss: np.ndarray
    steps: np.ndarray
    grads: np.ndarray
    queries: np.ndarray
    status: np.ndarray
    zero: np.ndarray

    def split(self, parts: int) -> list["Tables"]:
        """Return tables of so many equal parts of the examples."""
        columns = [np.split(column, parts) for column in self]
        return [Tables(*some) for some in zip(*columns, strict=True)]


class Stage:
    """One attack on one set of examples."""

    def __init__(
        self,
        make_attack: MakeAttack,
        attack: Attack,
        params: PyTree,
        examples: Examples,
        epsilons: np.ndarray,
        settings: Settings,
        mesh: Mesh | None,
    ) -> None:
        """Make an empty pool for every model on every device; `settings.capacity` is one queue's.

        With several models every leaf of `params` is `[models, ...]`, and there are
        `models * N` examples: number `m * N + i` is image i under model m.
        """
        self.settings, self.examples, self.attack = settings, examples, attack
        self.images = len(examples.images)
        self.total = settings.models * self.images
        self.num_devices = 1 if mesh is None else mesh.size
        # those of a device are neighbours
        self.num_lanes = self.num_devices * settings.models
        attack_id = stable_id(attack.spec.name)
        self.program = compiled(make_attack, settings, attack_id, mesh)
        self.dtype = _state.float_of(examples.images.dtype)
        self.params, self.epsilons, self.mesh = params, epsilons, mesh
        # backward passes by model
        self.computed, self.useful = np.zeros((2, settings.models), np.int64)
        self.ticks_per_call = 8
        # row of a queue -> number of the example, -1: none
        self.holds = np.full((self.num_lanes, settings.capacity), -1)
        # rows whose results were taken and that hold nothing new yet
        self.stale = np.zeros(self.holds.shape, bool)
        if mesh is not None:
            self.params = jax.device_put(params, meshes.replicated(mesh))
        self.state = self._empty()

    def run(
        self,
        todo: np.ndarray,
        key: jax.Array,
        *,
        ceiling: np.ndarray,
        first: np.ndarray,
        num_steps: int | None = None,
        verdict: np.ndarray | None = None,
        take: Callable[[Finished, np.ndarray], None] | None = None,
        done: Callable[[np.ndarray, Tables], None] | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Tables:
        """Decide the examples of `todo`.

        Args:
          todo: `[n]` numbers of examples.
          key: one key.
          ceiling: `[N]` int32, smallest budget that is known to be solved; E: none.
          first: `[N]` int32, where a search starts; negative: estimate it.
          num_steps: moves of a full run; None: those of the attack.
          verdict: `[N, R, E]` what is known already; None: nothing.
          take: called with finished runs of one lane (after their judgement, `[m, ...]`) and
            their examples `[m]`, all of one model, before they are forgotten.
          done: called every few seconds with the examples `[m]` that were decided since, and
            their tables, `[m, ...]`.
          progress: called after every call of the program.

        Returns:
          The tables of all N examples; rows outside of `todo` are empty.
        """
        tables = self._no_results(ceiling)
        if not len(todo):
            return tables
        by_model = [todo[todo // self.images == m] for m in range(self.settings.models)]
        waiting = [
            list(mine[device :: self.num_devices])
            for device in range(self.num_devices)
            for mine in by_model
        ]
        known = tables.verdict.copy() if verdict is None else verdict
        steps = self.attack.spec.num_steps if num_steps is None else num_steps
        harvested, last_harvest = 0, time.monotonic()
        self._load(waiting, ceiling, first, known)
        while True:
            started = time.monotonic()
            self.state = self.program.call(*self.arguments(key, steps))
            counts = jax.tree.map(np.asarray, self.state.counts)
            self._account(counts, time.monotonic() - started)
            if take is not None:
                self._hand_out(take)
            if progress is not None:
                decided = harvested + int(counts.done.sum()) - int(self.stale.sum())
                work = int(self.computed.sum()), int(self.useful.sum())
                progress(Progress(decided, len(todo), *work))
            left = int(counts.left.sum())
            more = any(waiting)
            due = done is not None and time.monotonic() - last_harvest > HARVEST
            if left == 0 or due or (more and self._worth_refilling(counts)):
                examples = self._harvest(tables)
                harvested, last_harvest = harvested + len(examples), time.monotonic()
                if done is not None and len(examples):
                    done(examples, Tables(*(column[examples] for column in tables)))
                if left == 0 and not more:
                    return tables
                self._load(waiting, ceiling, first, known)

    def arguments(self, key: jax.Array, num_steps: int) -> tuple[Any, ...]:
        """Return what `program` is called with next; the last one, the state, is donated."""
        epsilons = jnp.asarray(self.epsilons, self.dtype)
        ticks = jnp.int32(self.ticks_per_call)
        return self.params, key, epsilons, jnp.int32(num_steps), ticks, self.state

    def _empty(self) -> State:
        images, targets = self.examples.images, self.examples.targets
        one = np.asarray(images[0])
        target = jax.tree.map(lambda leaf: np.asarray(leaf[0]), targets)
        output = self._output(one)
        check_labels(output, targets)
        if not self.settings.per_restart:
            check_fit(self.attack.spec.objective, output, targets)
        state = _state.empty(self.settings, self.attack, output, one, target, len(self.epsilons))
        state = _state.per_lane(state, lambda leaf: leaf[None])
        stacked = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * self.num_lanes), state)
        if self.mesh is not None:
            return jax.device_put(stacked, meshes.sharded(self.mesh))
        return jax.device_put(stacked)

    def _output(self, image: np.ndarray) -> PyTree:
        """Return shapes and dtypes of what the model returns for one image."""
        known, leaves = self.program.outputs, jax.tree.leaves((self.params, image))
        shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", None)) for leaf in leaves)
        key = (jax.tree.structure(self.params), shapes)
        if key not in known:
            apply, keys = self.attack.spec.objective.apply, jax.random.split(jax.random.key(0), 1)
            try:
                batch = jax.eval_shape(apply, np.zeros((1, *image.shape), self.dtype), keys)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"x: the model takes no image of shape {list(image.shape)} "
                    f"({' '.join(str(error).split()):.200}); images are [N, H, W, C]"
                ) from error
            known[key] = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), batch)
        return known[key]

    def _no_results(self, ceiling: np.ndarray) -> Tables:
        queue = self.state.queue
        shape = (self.total, *queue.verdict.shape[1:])
        loss = np.dtype(queue.loss.dtype)
        return Tables(
            wrong=np.zeros(self.total, bool), broken=np.zeros(self.total, bool),
            unsteady=np.zeros(self.total, bool), bounded=np.zeros(self.total, bool),
            idle=np.zeros(self.total, bool),
            best=ceiling.astype(np.int32).copy(),
            clean_loss=np.zeros(self.total, loss), verdict=np.zeros(shape, np.int8),
            loss=np.zeros(shape, loss), steps=np.zeros(shape, np.int32),
            grads=np.zeros(shape, np.int32), queries=np.zeros(shape, np.int32),
            status=np.zeros(shape, np.int8),
            zero=np.zeros(shape, bool),
        )  # fmt: skip

    def _account(self, counts: _state.Counts, seconds: float) -> None:
        backwards = self.attack.spec.cost.backwards
        by_model = (self.num_devices, self.settings.models)
        self.computed += counts.rows.reshape(by_model).sum(0) * backwards
        self.useful += counts.useful.reshape(by_model).sum(0) * backwards
        # the first call compiles, which says nothing of the speed
        ratio = SECONDS / max(seconds, 1e-3)
        self.ticks_per_call = int(np.clip(self.ticks_per_call * np.clip(ratio, 0.5, 4), 8, 8192))

    def _worth_refilling(self, counts: _state.Counts) -> bool:
        """Whether a lane has a quarter of its queue free, or soon no work."""
        capacity, slots = self.settings.capacity, self.settings.slots
        return bool((counts.done >= capacity // 4).any() or (counts.left <= 2 * slots).any())

    def _hand_out(self, take: Callable[[Finished, np.ndarray], None]) -> None:
        filled = np.asarray(self.state.finished.filled)
        if not filled.any():
            return
        finished = jax.tree.map(np.asarray, self.state.finished)
        buffer = self.settings.buffer
        for lane, count in enumerate(filled):
            if count:
                mine = slice(lane * buffer, lane * buffer + count)
                rows = finished._replace(filled=finished.row)
                some = jax.tree.map(lambda leaf, m=mine: leaf[m], rows)
                take(some, self.holds[lane][some.row])

    def _harvest(self, tables: Tables) -> np.ndarray:
        """Copy the results of examples that are done, and return which these are."""
        queue = self.state.queue
        phase = np.asarray(queue.phase).reshape(self.holds.shape)
        ready = (phase == Phase.DONE) & (self.holds >= 0)
        examples = self.holds[ready]
        for name in Tables._fields:
            getattr(tables, name)[examples] = np.asarray(getattr(queue, name))[ready.ravel()]
        failed = (tables.verdict[examples] == Verdict.FAILED) & tables.idle[examples, None, None]
        tables.status[examples] = np.where(
            failed, np.int8(Status.NOTHING_TO_REACH), tables.status[examples]
        )
        self.holds[ready] = -1
        self.stale[ready] = True
        return examples

    def _load(
        self, waiting: list[list[int]], ceiling: np.ndarray, first: np.ndarray, known: np.ndarray
    ) -> None:
        """Fill free rows of the queues with waiting examples."""
        batch = [
            np.array(queue[: int((self.holds[lane] < 0).sum())], int)
            for lane, queue in enumerate(waiting)
        ]
        if not any(len(b) for b in batch):
            return
        capacity = self.settings.capacity
        at = np.full((self.num_lanes, capacity), capacity, np.int32)
        which = np.zeros((self.num_lanes, capacity), int)
        for lane, examples in enumerate(batch):
            free = np.flatnonzero(self.holds[lane] < 0)[: len(examples)]
            at[lane, : len(free)], which[lane, : len(free)] = free, examples
            self.holds[lane, free] = examples
            self.stale[lane, free] = False
            del waiting[lane][: len(examples)]
        image = which % self.images
        rows = (
            at, *jax.tree.map(lambda leaf: leaf[image], tuple(self.examples)),
            first[which].astype(np.int32), ceiling[which].astype(np.int32), known[which],
        )  # fmt: skip
        if self.mesh is not None:
            rows = jax.device_put(rows, meshes.sharded(self.mesh))
        self.state = _write_rows(self.state, *rows)


@functools.partial(jax.jit, donate_argnums=0)
def _write_rows(
    state: State, at: Any, image: Any, target: PyTree, ids: Any, first: Any, ceiling: Any,
    verdict: Any,
) -> State:  # fmt: skip
    """Put examples into the rows `at` `[L, K]` of the queues; a row beyond the queue is dropped."""

    def put(column: Any, value: Any) -> Any:
        one = lambda c, i, v: c.at[i].set(v.astype(c.dtype), mode="drop")
        queues = column.reshape(len(at), -1, *column.shape[1:])
        return jax.vmap(one)(queues, at, value).reshape(column.shape)

    queue = state.queue
    fresh = jnp.full(at.shape, jnp.int8(Phase.FRESH))
    nothing = jnp.zeros(verdict.shape, jnp.int8)
    return state._replace(
        queue=queue._replace(
            image=put(queue.image, image), target=jax.tree.map(put, queue.target, target),
            id=put(queue.id, ids), phase=put(queue.phase, fresh), first=put(queue.first, first),
            best=put(queue.best, ceiling), ceiling=put(queue.ceiling, ceiling),
            verdict=put(queue.verdict, verdict), loss=put(queue.loss, nothing),
            steps=put(queue.steps, nothing), grads=put(queue.grads, nothing),
            queries=put(queue.queries, nothing),
            status=put(queue.status, nothing), zero=put(queue.zero, nothing),
        )
    )  # fmt: skip
