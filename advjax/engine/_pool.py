"""The pool of slots: one tick differentiates once, then finished slots take their next work.

Everything here runs inside one compiled loop. What is batched is the model; the rest is selection
by slot, scattered into the tables by row number. A row number beyond the queue means an idle slot
and is dropped by every scatter.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import tree
from advjax.engine import _cycle, _plan
from advjax.engine._plan import Verdict
from advjax.engine._state import (
    Finished,
    Phase,
    Queue,
    Settings,
    Slots,
    State,
    pixels,
)
from advjax.random import example_keys
from advjax.status import Status
from advjax.types import Array, Attack, PyTree

# a batch below this gains less from being smaller than a second program costs to compile
SMALLEST = 8
# the axis of models that tick together
MODELS = "models"


class Work(NamedTuple):
    """What a call of the program is about.

    Attributes:
      attack: built from the traced parameters.
      settings: static.
      epsilons: `[E]`, in the precision of the images.
      key: one key.
      attack_id: static int, folded into the keys.
      num_steps: `[]` int32, moves of a full run.
      max_ticks: `[]` int32, the control returns to the host after so many.
    """

    attack: Attack
    settings: Settings
    epsilons: Array
    key: Array
    attack_id: int
    num_steps: Array
    max_ticks: Array

    @property
    def order(self) -> str:
        """How the next run of an example is chosen, see `_plan`."""
        exhaustive = self.settings.order == "exhaustive"
        nearest = self.attack.spec.minimal and not exhaustive
        return _plan.NEAREST if nearest else self.settings.order

    @property
    def estimates(self) -> bool:
        """Whether a gradient of the clean images says where a search starts."""
        spec = self.attack.spec
        return self.order in ("search", "ascending") and spec.cost.backwards > 0

    @property
    def freeze(self) -> bool:
        """Whether a run ends with its first success (of a random model, often a lucky draw)."""
        return self.order in ("search", "ascending") and not self.attack.spec.objective.randomised

    @property
    def parks(self) -> bool:
        """Whether an example waits for the judgement of a success before it is planned again.

        Rounding pixels takes many a success back. What an example would do meanwhile depends on
        when the next judgement comes, and with it the verdict on slots and on time.
        """
        return self.settings.quantise is not None and self.order in ("search", "ascending")

    @property
    def lockstep(self) -> bool:
        """Whether all runs take the same number of ticks.

        Then the last iterates are judged together, by a forward pass. Where runs end at different
        times, the last iterate is judged by the gradient of one more tick, which moves nothing.
        """
        return not self.freeze or self.attack.spec.num_steps == 1

    def most(self, value: Array) -> Array:
        """Return the largest value `[]` of all models that tick together.

        They must take the same branches: where a branch differed from model to model, `vmap`
        would compute both for all of them.
        """
        vmapped = self.settings.models > 1 and self.settings.stack == "vmap"
        return jax.lax.pmax(value, MODELS) if vmapped else value

    def anywhere(self, flag: Array) -> Array:
        """Whether a flag `[]` holds for any of the models that tick together."""
        return self.most(flag.astype(jnp.int32)) > 0


class Moved(NamedTuple):
    """What one tick did.

    Attributes:
      slots: the slots after it.
      done: `[S]` bool, the run in this slot is over.
      cycled: `[S]` bool, because its iterate repeated.
      rows: `[]` int32, slots that were differentiated.
      useful: `[]` int32, those that served a live example.
    """

    slots: Slots
    done: Array
    cycled: Array
    rows: Array
    useful: Array


def spin(work: Work, state: State) -> State:
    """Tick until the host wants control, the buffer fills up, or nothing is left."""

    def going(state: State) -> Array:
        full = state.finished.filled > work.settings.buffer - work.settings.slots
        queue = state.queue
        busy = jnp.any(_live(work, state.slots)) | (queue.head < queue.tail)
        late = work.most(state.counts.ticks) >= work.max_ticks
        if work.parks:
            # a slot is idle, and a judgement would give it work
            waits = jnp.any(state.finished.claimed & (places < state.finished.filled))
            idle = ~jnp.all(_live(work, state.slots)) & (queue.head >= queue.tail)
            late = late | work.anywhere(waits & idle)
        return work.anywhere(busy) & ~work.anywhere(full) & ~late

    places = jnp.arange(work.settings.buffer)

    return jax.lax.while_loop(going, lambda s: tick(work, s), state)


def tick(work: Work, state: State) -> State:
    """Advance every slot by one gradient, and hand the finished ones their next work.

    At the end of a queue slots fall idle. As soon as those that work fit into half of the
    slots they go on as a smaller batch, so that nothing is computed for the others.
    """
    live = _live(work, state.slots)
    queue = state.queue
    waiting = queue.head < queue.tail
    few = 0 if work.lockstep else live.shape[0] // 2
    kind = jnp.where(work.anywhere(jnp.any(live)), 1, 0)
    ways = [_rest, lambda slots: advance(work, slots)]
    if few >= SMALLEST:
        kind = jnp.where(work.anywhere(waiting | (jnp.sum(live) > few)), kind, 2 * kind)
        ways.append(lambda slots: _advance_few(work, slots, few))
    moved = jax.lax.switch(kind, ways, state.slots)
    counts = state.counts._replace(
        ticks=state.counts.ticks + (kind > 0),
        rows=state.counts.rows + moved.rows,
        useful=state.counts.useful + moved.useful,
    )
    state = state._replace(slots=moved.slots, counts=counts)
    return jax.lax.cond(
        work.anywhere(jnp.any(moved.done) | (waiting & ~jnp.all(live))),
        lambda s: _turnover(work, s, moved.done, moved.cycled),
        lambda s: s,
        state,
    )


def _live(work: Work, slots: Slots) -> Array:
    return slots.row < work.settings.capacity


def _rest(slots: Slots) -> Moved:
    nobody = jnp.zeros(slots.row.shape, jnp.bool_)
    return Moved(slots, nobody, nobody, jnp.int32(0), jnp.int32(0))


def _advance_few(work: Work, slots: Slots, few: int) -> Moved:
    """Advance the slots that work as a batch of `few`; they must fit."""
    front = jnp.argsort(~_live(work, slots), stable=True)[:few]
    moved = advance(work, jax.tree.map(lambda leaf: leaf[front], slots))
    back = jax.tree.map(lambda leaf, part: leaf.at[front].set(part), slots, moved.slots)
    nobody = jnp.zeros(slots.row.shape, jnp.bool_)
    return moved._replace(
        slots=back,
        done=nobody.at[front].set(moved.done),
        cycled=nobody.at[front].set(moved.cycled),
    )


def advance(work: Work, slots: Slots) -> Moved:
    """Differentiate once and move every slot that works."""
    live = _live(work, slots)
    wants = live & (slots.attack.step < work.num_steps) & ~(work.freeze & slots.attack.success)
    if work.lockstep:
        differentiates = work.anywhere(jnp.any(wants))
        slots = jax.lax.cond(
            differentiates,
            lambda s: _step(work, s, wants),
            lambda s: _judge_last(work, s, live),
            slots,
        )
    else:
        differentiates = jnp.bool_(True)
        slots = _step(work, slots, live)
    cycle, cycled = slots.cycle, jnp.zeros_like(live)
    if cycle:
        cycle, cycled = _cycle.follow(cycle, slots.attack.x, wants & ~slots.attack.success)
    over = slots.attack.step > work.num_steps
    if work.freeze:
        over = over | slots.attack.success
    return Moved(
        slots=slots._replace(cycle=cycle),
        done=live & (over | cycled),
        cycled=cycled,
        rows=differentiates * jnp.int32(live.shape[0]),
        useful=jnp.sum(wants, dtype=jnp.int32),
    )


def _about(work: Work, slots: Slots) -> tuple[PyTree, Array]:
    """Return targets and budgets of the runs in the slots."""
    return work.settings.target(slots.target, slots.restart), work.epsilons[slots.budget]


def _step(work: Work, slots: Slots, mask: Array) -> Slots:
    """Differentiate once and move the slots of `mask`."""
    new = work.attack.step(slots.attack, slots.x0, *_about(work, slots), work.freeze)
    return slots._replace(attack=tree.where(mask, new, slots.attack))


def _judge_last(work: Work, slots: Slots, mask: Array) -> Slots:
    """Evaluate the last iterates with one forward pass, and mark the runs of `mask` as over."""
    result = work.attack.finalize(slots.attack, slots.x0, *_about(work, slots), work.freeze)
    new = slots.attack._replace(
        best_x=result.x_adv,
        best_loss=result.loss,
        success=result.success,
        status=result.status,
        step=slots.attack.step + 1,
        num_queries=result.num_queries,
    )
    over = mask & (slots.attack.step >= work.num_steps)
    return slots._replace(attack=tree.where(over, new, slots.attack))


def _turnover(work: Work, state: State, done: Array, cycled: Array) -> State:
    """Write what the slots of `done` found, and start the next run of every slot that can."""
    queue, slots = state.queue, state.slots
    about = slots.budget
    if work.order == _plan.NEAREST:
        about = _solved_budget(work, queue, slots)
    finished = _collect(work, state.finished, slots, done, about)
    queue = _write(work, queue, slots, done, cycled, about)
    capacity = work.settings.capacity
    restart, budget = _next_runs(work, queue, slots.row)
    leaving = done & (budget < 0)
    if work.parks:
        leaving = leaving | (done & slots.attack.success)
    phase = queue.phase.at[jnp.where(leaving, slots.row, capacity)].set(
        jnp.int8(Phase.DONE), mode="drop"
    )
    free = leaving | (slots.row >= capacity)
    place = queue.head + jnp.cumsum(free) - 1
    enter = free & (place < queue.tail)
    taken = queue.order[jnp.where(enter, place, 0)]
    row = jnp.where(free, jnp.where(enter, taken, capacity), slots.row).astype(jnp.int32)
    phase = phase.at[jnp.where(enter, row, capacity)].set(jnp.int8(Phase.RUNNING), mode="drop")
    head = queue.head + jnp.sum(enter, dtype=jnp.int32)
    queue = queue._replace(phase=phase, head=head)
    entered = _next_runs(work, queue, row)
    restart = jnp.where(enter, entered[0], restart)
    budget = jnp.where(enter, entered[1], budget)
    begin = enter | (done & ~leaving)
    warm = done & ~leaving & (restart == slots.restart) & ~slots.attack.success
    slots = _admit(work, queue, slots, row, enter)
    slots = _begin(work, queue, slots, begin, restart, budget, warm)
    return state._replace(queue=queue, slots=slots, finished=finished)


def _next_runs(work: Work, queue: Queue, row: Array) -> tuple[Array, Array]:
    """Return restart and budget of the next run of each row; a budget of -1 where none is left."""

    def one(verdict: Array, best: Array, first: Array) -> tuple[Array, Array]:
        return _plan.next_run(work.order, verdict, best, first)

    at = jnp.minimum(row, work.settings.capacity - 1)
    return jax.vmap(one)(queue.verdict[at], queue.best[at], queue.first[at])


def _write(
    work: Work, queue: Queue, slots: Slots, done: Array, cycled: Array, budget: Array
) -> Queue:
    """Scatter what the finished runs found into the tables, each at its `budget` `[S]`."""
    run = slots.attack
    row = jnp.where(done, slots.row, work.settings.capacity)
    at = (row, slots.restart, budget)
    won = done & run.success
    verdict = jnp.where(run.success, Verdict.CLAIMED, Verdict.FAILED).astype(jnp.int8)
    spent = Status.OK if work.order == "exhaustive" else Status.EXHAUSTED
    lost = jnp.where(cycled, Status.CYCLED, spent).astype(jnp.int8)
    # a gradient that is no number says more than how the run ended
    lost = jnp.where(run.status == Status.NON_FINITE, run.status, jnp.maximum(run.status, lost))
    status = jnp.where(run.success, run.status, lost)
    steps, grads, queries = jnp.minimum(run.step, work.num_steps), run.num_grads, run.num_queries
    if not work.lockstep:
        # the one more tick that judges the last iterate is no move
        cost = work.attack.spec.cost
        grads = jnp.minimum(grads, work.num_steps * cost.backwards)
        queries = jnp.minimum(queries, work.num_steps * cost.forwards + 1)

    def put(column: Array, value: Array) -> Array:
        return column.at[at].set(value.astype(column.dtype), mode="drop")

    best = jnp.where(won, budget, work.epsilons.shape[0]).astype(jnp.int32)
    return queue._replace(
        verdict=put(queue.verdict, verdict),
        best=queue.best.at[row].min(best, mode="drop"),
        loss=put(queue.loss, run.best_loss),
        steps=put(queue.steps, steps),
        grads=put(queue.grads, grads),
        queries=put(queue.queries, queries),
        status=put(queue.status, status),
        zero=put(queue.zero, run.status == Status.ZERO_GRADIENT),
    )


def _solved_budget(work: Work, queue: Queue, slots: Slots) -> Array:
    """Return `[S]`, the budgets that runs for the minimal norm are about."""
    run, at = slots.attack, jnp.minimum(slots.row, work.settings.capacity - 1)
    distance = jax.vmap(work.attack.spec.ball.distance)(run.best_x, slots.x0)

    def one(verdicts: Array, budget: Array, distance: Array) -> Array:
        return _plan.claimed_index(verdicts, budget, distance, work.epsilons)

    claimed = jax.vmap(one)(queue.verdict[at, slots.restart], slots.budget, distance)
    return jnp.where(run.success, claimed, slots.budget)


def _collect(work: Work, finished: Finished, slots: Slots, done: Array, budget: Array) -> Finished:
    """Append the points that are to be judged again, each at its `budget` `[S]`."""
    run = slots.attack
    keep = done if work.settings.record else done & run.success
    place = finished.filled + jnp.cumsum(keep) - 1
    place = jnp.where(keep, place, work.settings.buffer)

    def put(column: Array, value: Array) -> Array:
        return column.at[place].set(value.astype(column.dtype), mode="drop")

    return finished._replace(
        filled=finished.filled + jnp.sum(keep, dtype=jnp.int32),
        row=put(finished.row, slots.row),
        restart=put(finished.restart, slots.restart),
        budget=put(finished.budget, budget),
        claimed=put(finished.claimed, run.success),
        x=put(finished.x, run.best_x),
    )


def _admit(work: Work, queue: Queue, slots: Slots, row: Array, enter: Array) -> Slots:
    """Copy the images and targets of the rows that enter into their slots."""
    at = jnp.minimum(row, work.settings.capacity - 1)
    image = pixels(queue.image[at])
    target = jax.tree.map(lambda leaf: leaf[at], queue.target)
    return slots._replace(
        row=row,
        x0=tree.where(enter, image, slots.x0),
        target=tree.where(enter, target, slots.target),
    )


def _begin(
    work: Work, queue: Queue, slots: Slots, begin: Array, restart: Array, budget: Array, warm: Array
) -> Slots:
    """Start a run in the slots of `begin`; those of `warm` may start where the last one failed."""
    failed = slots.attack.best_x - slots.x0
    before = jnp.maximum(work.epsilons[slots.budget], jnp.finfo(slots.x0.dtype).tiny)
    slots = slots._replace(
        restart=jnp.where(begin, restart, slots.restart),
        budget=jnp.where(begin, budget, slots.budget),
    )
    target, eps = _about(work, slots)
    at = jnp.minimum(slots.row, work.settings.capacity - 1)
    keys = example_keys(work.key, queue.id[at], slots.restart, work.attack_id)
    fresh = work.attack.init(keys, slots.x0, target, eps)
    if work.settings.warm_start:
        start = slots.x0 + failed * tree.expand(eps / before, failed)
        again = work.attack.init(keys, slots.x0, target, eps, start)
        fresh = tree.where(warm, again, fresh)
    cycle = slots.cycle
    if cycle:
        cycle = tree.where(begin, _cycle.start(fresh.x), cycle)
    return slots._replace(attack=tree.where(begin, fresh, slots.attack), cycle=cycle)
