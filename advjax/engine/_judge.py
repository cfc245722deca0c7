"""The second judgement of every claimed success, and the clean evaluation before any attack.

Both are computations of their own, not fused with the gradient: a success counts if the stored
image, projected, clipped and in full precision, still has it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax import attacks, losses, threat, tree
from advjax.engine import _plan
from advjax.engine._plan import Verdict
from advjax.engine._pool import Work
from advjax.engine._reference import finite_outputs, nothing_to_reach, outcome
from advjax.engine._state import Finished, Phase, Queue, State, pixels
from advjax.random import example_keys
from advjax.types import Array, Ball, PyTree

# rounding of a projection, relative to the largest pixel; nothing that counts leaves by more
TOLERANCE = 1e-6
# of a level of rounded pixels, for those that stand on one
SLACK = 1e-3


def prepare(work: Work, state: State) -> State:
    """Evaluate the FRESH examples as they are; order all that wait, the longest runs first."""
    todo = state.queue.phase == Phase.FRESH
    number = jnp.sum(todo, dtype=jnp.int32)
    rows = jnp.argsort(~todo, stable=True).astype(jnp.int32)
    slots = work.settings.slots

    def body(carry: tuple[Array, Queue]) -> tuple[Array, Queue]:
        start, queue = carry
        place = start + jnp.arange(slots)
        at = rows[jnp.minimum(place, work.settings.capacity - 1)]
        return start + slots, _evaluate_clean(work, queue, at, place < number)

    zero = jnp.int32(0)
    last = work.most(number)
    end, queue = jax.lax.while_loop(lambda carry: carry[0] < last, body, (zero, state.queue))
    counts = state.counts
    if work.estimates:
        # the estimate of the minimal budget is a gradient too
        counts = counts._replace(rows=counts.rows + end, useful=counts.useful + number)
    return state._replace(queue=line_up(work, queue), counts=counts)


def _evaluate_clean(work: Work, queue: Queue, at: Array, mine: Array) -> Queue:
    """Judge the clean images of rows `at` `[S]`, and estimate their minimal budgets."""
    objective = work.attack.spec.objective
    x0 = pixels(queue.image[at])
    target = jax.tree.map(lambda leaf: leaf[at], queue.target)
    target = work.settings.target(target, jnp.zeros_like(at))
    keys = example_keys(work.key, queue.id[at], 0, work.attack_id)
    if work.estimates:
        output, first = _first_order(work, x0, target, keys)
    else:
        # what needs no gradient gets none; it comes down from the largest budget
        output = objective.apply(x0, keys)
        first = jnp.full(at.shape, work.epsilons.shape[0] - 1, jnp.int32)
    first = jnp.where(queue.first[at] < 0, first, queue.first[at])
    if objective.composite:
        output, loss, success = outcome(objective, x0, target, keys)
    else:
        loss = jax.vmap(objective.loss)(output, target)
        success = jax.vmap(objective.criterion)(output, target)
    broken = ~(jnp.isfinite(loss) & finite_outputs(output))
    wrong = (success | broken) & (not work.settings.later)
    phase = jnp.where(wrong, Phase.DONE, Phase.QUEUED).astype(jnp.int8)
    # half of the images once more: in another order, in other company, with other random numbers
    strange = example_keys(work.key, queue.id[at], -1, work.attack_id)
    kept = jnp.arange(x0.shape[0]) % 2 == 0
    company = tree.where(kept, x0, x0[:1])[::-1]
    if objective.composite and not objective.deterministic:
        # single draws differ by design; what counts is whether their average decides
        other = tree.where(kept, target, jax.tree.map(lambda leaf: leaf[:1], target))
        other = jax.tree.map(lambda leaf: leaf[::-1], other)
        again = objective.judge(company, other, strange[::-1]).success[::-1]
        unsteady = kept & (again != success)
    else:
        again = objective.apply(company, strange[::-1])
        unsteady = kept & _differs(output, jax.tree.map(lambda leaf: leaf[::-1], again))
    to = jnp.where(mine, at, work.settings.capacity)

    def put(column: Array, value: Array) -> Array:
        return column.at[to].set(value.astype(column.dtype), mode="drop")

    return queue._replace(
        phase=put(queue.phase, phase),
        wrong=put(queue.wrong, wrong),
        broken=put(queue.broken, broken),
        unsteady=put(queue.unsteady, unsteady),
        bounded=put(queue.bounded, _probabilities(output)),
        idle=put(queue.idle, nothing_to_reach(objective, output, target)),
        first=put(queue.first, first),
        clean_loss=put(queue.clean_loss, loss),
    )


def _differs(output: PyTree, other: PyTree) -> Array:
    """Return `[B]`: outputs that differ by more than any rounding, bfloat16 included."""

    def one(a: PyTree, b: PyTree) -> Array:
        # decisions may be booleans, which have no difference
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        numbers = [(u * 1, v * 1) for u, v in pairs]
        gaps = [jnp.max(jnp.abs(u - v)) / (1 + jnp.max(jnp.abs(u))) for u, v in numbers]
        return jnp.max(jnp.stack(gaps)) > 0.02

    return jax.vmap(one)(output, other)


def _probabilities(output: PyTree) -> Array:
    """Return `[B]`: outputs in [0, 1], by a softmax or by a sigmoid of each."""

    def one(values: PyTree) -> Array:
        return jnp.all(jnp.stack([jnp.all((v >= 0) & (v <= 1)) for v in jax.tree.leaves(values)]))

    return jax.vmap(one)(output)


def _first_order(work: Work, x0: Array, target: PyTree, keys: Array) -> tuple[PyTree, Array]:
    """Return the outputs, and the budget that a first-order estimate says will succeed.

    The estimate is the margin over the dual norm of its gradient (exact for a linear model).
    """
    spec, epsilons = work.attack.spec, work.epsilons
    objective = spec.objective
    signed = objective.with_loss(margin).loss

    def total(x: Array) -> tuple[Array, Any]:
        output = objective.ascent_apply(x, keys)
        margins = jax.vmap(signed)(output, target)
        return jnp.sum(margins), (output, margins)

    gradient, (output, margins) = attacks.input_gradient(total)(x0)
    if objective.ascent_apply is not objective.apply:
        # a stand-in says where to search, never what is broken
        output = objective.apply(x0, keys)
    size = jax.vmap(spec.ball.dual_norm)(gradient)
    estimate = jnp.maximum(-margins, 0).astype(size.dtype) / jnp.where(size > 0, size, 1)
    estimate = jnp.where((size > 0) & jnp.isfinite(estimate), estimate, jnp.inf)
    return output, jax.vmap(lambda e: _plan.first_index(e, epsilons))(estimate)


def margin(output: PyTree, target: PyTree) -> Array:
    """Return how far one example is from being broken, negative while it is not.

    Single label: the best other logit minus the true one. Multi-label: the largest known logit
    that speaks against its label. Anything else: minus infinity, the search then starts at the
    largest budget. It only says where a search starts, never how it ends.
    """
    shapes = [leaf.shape for leaf in jax.tree.leaves((output, target))]
    if len(shapes) == 2 and shapes[1] == () and len(shapes[0]) == 1 and shapes[0][0] > 1:
        return losses.cw_margin(output, target)
    if len(shapes) == 2 and shapes[0] == shapes[1]:
        against = jnp.where(target > 0.5, -output, output)
        return jnp.max(jnp.where(target >= 0, against, -jnp.inf))
    return jnp.sum(jnp.stack([jnp.sum(0 * leaf) for leaf in jax.tree.leaves(output)])) - jnp.inf


def line_up(work: Work, queue: Queue) -> Queue:
    """Order the QUEUED rows for dealing; rows with nothing left to try are DONE."""
    order, num_budgets = work.order, work.epsilons.shape[0]

    def one(verdict: Array, best: Array, first: Array) -> tuple[Array, Array]:
        _, budget = _plan.next_run(order, verdict, best, first)
        return budget, _plan.length(order, jnp.minimum(first, best), num_budgets)

    budget, length = jax.vmap(one)(queue.verdict, queue.best, queue.first)
    waits = queue.phase == Phase.QUEUED
    phase = jnp.where(waits & (budget < 0), jnp.int8(Phase.DONE), queue.phase)
    waits = waits & (budget >= 0)
    rank = jnp.where(waits, jnp.maximum(length, 0), -1)
    return queue._replace(
        phase=phase,
        order=jnp.argsort(-rank, stable=True).astype(jnp.int32),
        head=jnp.int32(0),
        tail=jnp.sum(waits, dtype=jnp.int32),
    )


def judge(work: Work, state: State) -> State:
    """Judge every finished run that waits; what does not survive is planned again."""
    finished, slots = state.finished, work.settings.slots

    def body(carry: tuple[Array, Finished]) -> tuple[Array, Finished]:
        start, finished = carry
        return start + slots, _judge_some(work, state.queue, finished, start)

    last = work.most(finished.filled)
    _, finished = jax.lax.while_loop(lambda carry: carry[0] < last, body, (jnp.int32(0), finished))
    filled = jnp.arange(work.settings.buffer) < finished.filled
    claimed = filled & finished.claimed
    row = jnp.where(claimed, finished.row, work.settings.capacity)
    verdict = jnp.where(finished.verified, Verdict.VERIFIED, Verdict.REJECTED).astype(jnp.int8)
    queue = state.queue
    table = queue.verdict.at[row, finished.restart, finished.budget].set(verdict, mode="drop")
    queue = queue._replace(verdict=table)
    lost = claimed & ~finished.verified
    if work.order == _plan.NEAREST:
        # judged at all budgets: what a run could not claim at one it may have at a larger one
        moved = claimed & (finished.budget != state.finished.budget)
        first = jnp.where(moved, state.finished.budget, finished.budget)
        table = queue.verdict.at[row, finished.restart, first].set(
            jnp.where(moved, Verdict.REJECTED, verdict).astype(jnp.int8), mode="drop"
        )
        queue, lost = queue._replace(verdict=table), lost | moved
    # those that were parked go on, whatever became of their success
    again = claimed if work.parks else lost
    queue = jax.lax.cond(
        work.anywhere(jnp.any(again)),
        lambda q: _plan_again(work, q, finished, again),
        lambda q: q,
        queue,
    )
    return state._replace(queue=queue, finished=finished)


def _plan_again(work: Work, queue: Queue, finished: Finished, claims: Array) -> Queue:
    """Take the rejected successes back, of those of `claims` `[M]`, and line their examples up."""
    row = jnp.where(claims, finished.row, work.settings.capacity)
    index = jnp.arange(work.epsilons.shape[0], dtype=jnp.int32)
    solved = (queue.verdict == Verdict.CLAIMED) | (queue.verdict == Verdict.VERIFIED)
    best = jnp.min(jnp.where(solved, index, index.size), axis=(1, 2)).astype(jnp.int32)
    # an earlier attack of a cascade may have solved more than this table knows
    hit = jnp.zeros(queue.phase.shape, jnp.bool_).at[row].set(True, mode="drop")
    best = jnp.where(hit, jnp.minimum(best, queue.ceiling), queue.best)
    again = hit & (queue.phase == Phase.DONE)
    phase = jnp.where(again, jnp.int8(Phase.QUEUED), queue.phase)
    queue = queue._replace(best=best, phase=phase)
    if work.order == _plan.NEAREST:
        # the run would end as it did: the largest radius has failed too
        top = best[jnp.minimum(row, work.settings.capacity - 1)] - 1
        place = (finished.restart, jnp.maximum(top, 0))
        unknown = queue.verdict.at[row, *place].get(mode="clip") == Verdict.UNKNOWN
        mine = unknown & ~finished.verified & (top >= 0)
        table = queue.verdict.at[jnp.where(mine, row, work.settings.capacity), *place]
        queue = queue._replace(verdict=table.set(jnp.int8(Verdict.FAILED), mode="drop"))
    return line_up(work, queue)


def _judge_some(work: Work, queue: Queue, finished: Finished, start: Array) -> Finished:
    """Judge as many finished runs as there are slots, from `start` on."""
    slots, objective = work.settings.slots, work.attack.spec.objective

    def cut(column: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(column, start, slots)

    row = jnp.minimum(cut(finished.row), work.settings.capacity - 1)
    x0 = pixels(queue.image[row])
    target = jax.tree.map(lambda leaf: leaf[row], queue.target)
    target = work.settings.target(target, cut(finished.restart))
    budget, claimed = cut(finished.budget), cut(finished.claimed)
    ball, bits = work.attack.spec.ball, work.settings.quantise
    x, inside = deployed(ball, cut(finished.x), x0, work.epsilons[budget], bits)
    keys = example_keys(work.key, queue.id[row], cut(finished.restart), work.attack_id)
    output, loss, success = outcome(objective, x, target, keys)
    verified = success & inside & claimed
    if work.order == _plan.NEAREST:
        for other in beyond(ball, cut(finished.x), x0, bits):
            reach = _reach(work, other, x0)
            judged = outcome(objective, other, target, keys)
            better = claimed & ~verified & judged[2] & (reach < work.epsilons.shape[0])
            new, old = (other, *judged[:2], reach), (x, output, loss, budget)
            x, output, loss, budget = tree.where(better, new, old)
            verified = verified | better
    linf, l2 = (jax.vmap(ball.distance)(x, x0) for ball in (threat.linf(), threat.l2()))

    def paste(column: Array, value: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(column, value.astype(column.dtype), start, 0)

    return finished._replace(
        x=paste(finished.x, x),
        budget=paste(finished.budget, budget),
        verified=paste(finished.verified, verified),
        output=jax.tree.map(paste, finished.output, output),
        loss=paste(finished.loss, loss),
        linf=paste(finished.linf, linf),
        l2=paste(finished.l2, l2),
    )


def deployed(ball: Ball, x: Array, x0: Array, eps: Array, bits: int | None) -> tuple[Array, Array]:
    """Return the images that a success must survive as, and whether they are in the ball.

    Args:
      ball: the threat model.
      x: `[B, ...]` adversarial images.
      x0: `[B, ...]` clean images.
      eps: `[B]` budgets.
      bits: pixels are rounded to `2 ** bits - 1` steps, as a file stores them; where rounding to
        the nearest leaves the ball, towards the clean image. None: no rounding.
    """
    x = jax.vmap(ball.project)(x, x0, eps)
    room = _room(ball, x0, eps)
    distance: Callable[[Array], Array] = lambda z: jax.vmap(ball.distance)(z, x0)
    if bits is not None:
        levels = jnp.asarray(2**bits - 1, x.dtype)
        nearest = jnp.round(x * levels) / levels
        up, down = jnp.floor(x * levels + SLACK), jnp.ceil(x * levels - SLACK)
        inward = jnp.where(x > x0, up, down) / levels
        fits = distance(nearest) <= room
        x = jnp.where(fits.reshape(fits.shape + (1,) * (x.ndim - 1)), nearest, inward)
    return x, distance(x) <= room


def _room(ball: Ball, x0: Array, eps: Array) -> Array:
    """Return the distances `[B]` that count as within `eps` `[B]`, rounding allowed for."""
    # pixels of other scales than [0, 1] round more; in l2 the roundings of all pixels add up
    largest = jnp.maximum(1, jnp.max(jnp.abs(x0), tuple(range(1, x0.ndim))))
    size = math.prod(x0.shape[1:])
    terms = 1 if ball.name.startswith("linf") else math.sqrt(size)
    room = eps * (1 + TOLERANCE) + TOLERANCE * largest * jnp.where(largest > 1, terms, 1)
    if ball.name.startswith("l1"):
        # the roundings of all pixels add up
        room = room + largest * size * jnp.finfo(x0.dtype).eps / 4
    return room


def beyond(ball: Ball, x: Array, x0: Array, bits: int | None) -> list[Array]:
    """Return what a point may be deployed as where larger balls are allowed too.

    A point of minimal norm stands right behind the boundary: rounding it towards the clean image
    loses it, rounding it outwards costs a little distance.

    Args:
      ball: the threat model.
      x: `[B, ...]` adversarial images.
      x0: `[B, ...]` clean images.
      bits: as `deployed`.
    """
    low, high = (jnp.asarray(bound, x.dtype) for bound in ball.bounds)
    x = jnp.clip(x, low, high)
    if bits is None:
        return [x]
    levels = jnp.asarray(2**bits - 1, x.dtype)
    outward = jnp.where(x > x0, jnp.ceil(x * levels - SLACK), jnp.floor(x * levels + SLACK))
    nearest = jnp.round(x * levels)
    return [nearest / levels, jnp.where(x == x0, nearest, outward) / levels]


def _reach(work: Work, x: Array, x0: Array) -> Array:
    """Return `[B]` int32, the smallest budget whose ball holds each point; E: none does."""
    ball = work.attack.spec.ball
    distance = jax.vmap(ball.distance)(x, x0)

    def holds(eps: Array) -> Array:
        return distance <= _room(ball, x0, jnp.full_like(distance, eps))

    held = jax.vmap(holds, out_axes=1)(work.epsilons)
    return jnp.where(held.any(1), held.argmax(1), held.shape[1]).astype(jnp.int32)
