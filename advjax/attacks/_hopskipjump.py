"""HopSkipJump (Chen et al. 2020): the nearest success of a model that only says its decision."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import tree
from advjax.attacks._kernel import Proposal, assemble, make_spec
from advjax.attacks._search import norm_name, passes, split_rows
from advjax.status import Status
from advjax.threat import over_rows
from advjax.types import Array, Attack, AttackState, Ball, Cost, Objective, Target

FEWEST_HALVINGS = 8  # of a bisection: examples of few pixels want a boundary too
LEAPS = 20  # tries of a step, each half as long as the one before

# (points [N, ...], target [N], keys [N]) -> [N] bool
DecideFn = Callable[[Array, Target, Array], Array]


class HopState(NamedTuple):
    """Memory of the rows.

    Attributes:
      turn: `[B]` int32, points of the boundary found; 0: no adversarial point is known yet.
      reach: `[B]`, distance of the adversarial point from which the last one was found.
    """

    turn: Array
    reach: Array


class Settings(NamedTuple):
    """The static part of the loops below.

    Attributes:
      rows: the ball, batched.
      decide: what the model says.
      num_samples, max_samples: points for the first direction, and for any.
      chunk: points of a row in one batch.
      gamma: precision of the boundary.
      start_tries: random images a step.
      halvings: of a bisection.
    """

    rows: Ball
    decide: DecideFn
    num_samples: int
    max_samples: int
    chunk: int
    gamma: float
    start_tries: int
    halvings: int


def hopskipjump(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 64,
    num_samples: int = 100,
    max_samples: int = 10_000,
    chunk: int = 50,
    gamma: float = 1.0,
    start_tries: int = 100,
) -> Attack:
    """HopSkipJump of Chen, Jordan and Wainwright (2020), l-infinity and Euclidean.

    It uses the criterion of the objective and nothing else: neither gradients nor losses. The
    first step looks for any adversarial image, and finds the boundary between it and the clean
    one by bisection. Every other step estimates the direction in which the decision changes from
    noise at the boundary, leaps along it by `distance / sqrt(turn)`, halved until the point is
    adversarial, and goes back to the boundary. `attacks.run` takes eps as the radius beyond which
    a result is no success (`jnp.inf`: none), and `distance` is inf where it failed.

    Random images are uniform noise, by turns in all of the bounds, as in the paper, and between
    two random grey levels of each channel. Where none of `start_tries` is adversarial the next
    step tries again. For a targeted attack none may be: give `attacks.run` an `x_start` of the
    wanted class (it is projected on the ball of radius eps first).

    A step costs what its row needs, all of which `num_queries` counts: 1, then at most
    `start_tries`; or `num_samples * sqrt(turn)`, rounded up to chunks, and up to 20 for the leap;
    and the bisection, `log2(D ** 1.5 / gamma)` for the Euclidean norm, `log2(D ** 2 / gamma)` for
    l-infinity, at least 8 and at most what the precision of the pixels has.

    Args:
      objective: from `attacks.from_logits`.
      ball: the threat model, `[B, H, W, C]` or any `[B, ...]`; its bounds must be finite.
      num_steps: points of the boundary, 64 in the published code.
      num_samples: points for the first direction; a later one takes `sqrt(turn)` times as many.
      max_samples: points for a direction at most.
      chunk: points of each image in one batch.
      gamma: larger: a less precise boundary, and wider noise.
      start_tries: random images a step, while no adversarial one is known.

    Raises:
      ValueError: a number is below 1, `gamma` is not positive, or the norm of the ball is another
        one.
    """
    norm = norm_name(ball, "hopskipjump")
    numbers = {"num_samples": num_samples, "max_samples": max_samples, "chunk": chunk,
               "start_tries": start_tries}  # fmt: skip
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    objective = objective._replace(approximate=False)
    rows = over_rows(ball)

    def decide(x: Array, target: Target, keys: Array) -> Array:
        return objective.judge(x, target, keys).success

    def init_memory(x0: Array) -> HopState:
        none = jnp.zeros(x0.shape[:1], jnp.int32)
        return HopState(none, none.astype(x0.dtype))

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        del eps
        settings = Settings(
            rows, decide, num_samples, max_samples, chunk, gamma, start_tries,
            _halvings(norm, x0, gamma),
        )  # fmt: skip
        asked, *others = split_rows(keys, 5)
        evaluation = objective.judge(state.x, target, asked)
        x, memory, queries = _turn(settings, state, x0, target, evaluation.success, others)
        status = jnp.where(jnp.isfinite(evaluation.loss), Status.OK, Status.NON_FINITE)
        return Proposal(
            x, evaluation, status.astype(jnp.int8), memory, state.objective_state,
            queries=(1 + queries) * passes(objective),
        )  # fmt: skip

    # a typical step; rows count what they spend
    cost = Cost(num_samples * passes(objective), 0)
    spec = make_spec(objective, ball, num_steps, "best", "hopskipjump", cost=cost, minimal=True)
    spec = spec._replace(deterministic=False)
    return assemble(propose, init_memory, spec, random_start=False)


def _turn(
    settings: Settings, state: AttackState, x0: Array, target: Target, success: Array,
    keys: list[Array],
) -> tuple[Array, HopState, Array]:  # fmt: skip
    """Return the next points of the boundary, the memory, and the queries `[B]` spent."""
    memory = state.direction_state
    found = memory.turn > 0
    # an image that is wrong when clean is its own nearest success
    at_home = success & (settings.rows.distance(state.x, x0) == 0)
    begun, started, spent_start = _start(settings, x0, target, ~found & ~success, keys[0])
    x = tree.where(~found & ~success, begun, state.x)
    moving = found & ~at_home
    direction, spent_samples = _direction(settings, x, x0, target, memory, moving, keys[1])
    x, spent_leaps = _leap(settings, x, x0, target, direction, memory.turn, moving, keys[2])
    known = (found | success | started) & ~at_home
    reach = settings.rows.distance(x, x0)
    x, spent_halvings = _bisect(settings, x, x0, target, reach, known, keys[3])
    memory = HopState(memory.turn + known, jnp.where(known, reach, memory.reach))
    return x, memory, spent_start + spent_samples + spent_leaps + spent_halvings


def _halvings(norm: str, x0: Array, gamma: float) -> int:
    """Return how often a bisection halves: down to gamma / D^1.5 or, l-infinity, gamma / D^2."""
    size = x0[0].size
    wanted = np.log2(size ** (1.5 if norm == "l2" else 2.0) / gamma)
    return int(np.clip(np.ceil(wanted), FEWEST_HALVINGS, jnp.finfo(x0.dtype).nmant - 1))


def _freely(ball: Ball, x: Array, x0: Array) -> Array:
    """Bring `x` into the bounds and the mask, at any distance."""
    far = jnp.finfo(x0.dtype).max ** 0.5
    return ball.project(x, x0, jnp.full(x0.shape[:1], far, x0.dtype))


def _numbered(keys: Array, numbers: Array) -> Array:
    """Return a key for each row and number `[B]`."""
    return jax.vmap(jax.random.fold_in)(keys, numbers)


def _start(
    settings: Settings, x0: Array, target: Target, wanted: Array, keys: Array
) -> tuple[Array, Array, Array]:
    """Look for adversarial noise; return the points, which are adversarial, and the queries."""
    low, high = (jnp.asarray(bound, x0.dtype) for bound in settings.rows.bounds)

    def draw(key: Array, x: Array, number: Array) -> Array:
        key_pixels, key_levels = jax.random.split(key)
        shape = (2, *(1,) * (x.ndim - 1), x.shape[-1]) if x.ndim > 1 else (2, 1)
        levels = jax.random.uniform(key_levels, shape, x.dtype)
        full = jnp.asarray([0, 1], x.dtype).reshape(2, *(1,) * x.ndim)
        levels = jnp.where(number % 2 == 0, full, levels)
        noise = levels[0] + (levels[1] - levels[0]) * jax.random.uniform(
            key_pixels, x.shape, x.dtype
        )
        return jnp.broadcast_to(low + (high - low) * noise, x.shape)

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, looking, spent = carry
        drawn, asked = split_rows(_numbered(keys, spent), 2)
        new = _freely(settings.rows, jax.vmap(draw)(drawn, x0, spent), x0)
        hit = looking & settings.decide(new, target, asked)
        return tree.where(hit, new, x), looking & ~hit, spent + looking

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        _, looking, spent = carry
        return jnp.any(looking & (spent < settings.start_tries))

    nothing = jnp.zeros(x0.shape[:1], jnp.int32)
    carry = tree.vary_like((x0, wanted, nothing), x0)
    x, looking, spent = jax.lax.while_loop(unfinished, body, carry)
    return x, wanted & ~looking, spent


def _bisect(
    settings: Settings, x: Array, x0: Array, target: Target, reach: Array, wanted: Array,
    keys: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Pull adversarial points `x`, `reach` away, towards `x0` for as long as they stay so."""

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        best, low, high, spent = carry
        middle = (low + high) / 2
        new = settings.rows.project(x, x0, middle * reach)
        hit = settings.decide(new, target, _numbered(keys, spent))
        low, high = jnp.where(hit, low, middle), jnp.where(hit, middle, high)
        return tree.where(hit & wanted, new, best), low, high, spent + wanted

    def unfinished(carry: tuple[Array, ...]) -> Array:
        return jnp.any(wanted & (carry[-1] < settings.halvings))

    nothing = jnp.zeros_like(reach)
    carry = tree.vary_like((x, nothing, nothing + 1, nothing.astype(jnp.int32)), x0)
    best, _, _, spent = jax.lax.while_loop(unfinished, body, carry)
    return best, spent


def _direction(
    settings: Settings, x: Array, x0: Array, target: Target, memory: HopState, wanted: Array,
    keys: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Estimate in which direction points of the boundary become adversarial.

    The estimator is the mean of noise times decision (+-1), less the mean decision times the mean
    noise.
    """
    chunk, size = settings.chunk, x0[0].size
    low, high = (jnp.asarray(bound, x0.dtype) for bound in settings.rows.bounds)
    width = _noise_width(memory, settings.gamma, size, jnp.max(high - low), x0.dtype)
    movable = settings.rows.steepest(jnp.ones_like(x0)) != 0
    turns = jnp.maximum(memory.turn, 1).astype(x0.dtype)
    samples = jnp.minimum(settings.num_samples * jnp.sqrt(turns), settings.max_samples)
    chunks = jnp.where(wanted, jnp.ceil(samples / chunk), 0).astype(jnp.int32)
    uniform = settings.rows.name.startswith("linf")

    def vector(key: Array, movable: Array) -> Array:
        draw = jax.random.normal(key, movable.shape, x0.dtype)
        if uniform:
            draw = jax.random.uniform(key, movable.shape, x0.dtype, -1, 1)
        draw = jnp.where(movable, draw, 0)
        length = jnp.sqrt(jnp.sum(draw**2))
        return draw / jnp.where(length > 0, length, 1)

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        sum_v, sum_sv, sum_s, done = carry
        drawn, asked = split_rows(_numbered(keys, done), 2)
        many = jax.vmap(lambda key: jax.random.split(key, chunk))
        v = jax.vmap(lambda keys, free: jax.vmap(lambda key: vector(key, free))(keys))(
            many(drawn), movable
        )
        wide = tree.expand(width, v)
        points = jnp.clip(x[:, None] + wide * v, low, high)
        v = (points - x[:, None]) / wide
        flat = points.reshape(-1, *x0.shape[1:])
        targets = jax.tree.map(lambda leaf: jnp.repeat(leaf, chunk, axis=0), target)
        says = settings.decide(flat, targets, many(asked).reshape(-1)).reshape(-1, chunk)
        sign = jnp.where(says, 1, -1).astype(x0.dtype)
        more = done < chunks
        signed = jax.vmap(lambda weights, v: jnp.tensordot(weights, v, 1))(sign, v)
        sums = (sum_v + jnp.sum(v, 1), sum_sv + signed, sum_s + jnp.sum(sign, 1))
        return *tree.where(more, sums, (sum_v, sum_sv, sum_s)), done + more

    def unfinished(carry: tuple[Array, ...]) -> Array:
        return jnp.any(carry[-1] < chunks)

    empty, none = jnp.zeros_like(x0), jnp.zeros(x0.shape[:1], x0.dtype)
    carry = tree.vary_like((empty, empty, none, jnp.zeros_like(chunks)), x0)
    sum_v, sum_sv, sum_s, _ = jax.lax.while_loop(unfinished, body, carry)
    number = chunks * chunk
    mean = sum_s / jnp.maximum(number, 1).astype(x0.dtype)
    # where all decisions agree, the baseline would leave nothing
    agree = jnp.abs(sum_s) == number
    g = tree.where(agree, sum_sv, sum_sv - tree.expand(mean, sum_v) * sum_v)
    return settings.rows.steepest(g), number


def _noise_width(memory: HopState, gamma: float, size: int, span: Array, dtype: jnp.dtype) -> Array:
    """Return `[B]`: the length of the noise, a tenth of the span at first, then gamma reach / D."""
    width = jnp.where(memory.turn <= 1, 0.1 * span, gamma * memory.reach / size)
    # noise below the rounding of a pixel would be no noise
    least = 16 * jnp.finfo(dtype).eps * np.sqrt(size) * span
    return jnp.maximum(width, least).astype(dtype)


def _leap(
    settings: Settings, x: Array, x0: Array, target: Target, direction: Array, turn: Array,
    wanted: Array, keys: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Leap by `distance / sqrt(turn)`, or half of that, ...; stay where nothing is adversarial."""
    turns = jnp.maximum(turn, 1).astype(x0.dtype)
    first = settings.rows.distance(x, x0) / jnp.sqrt(turns)

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        best, looking, spent = carry
        length = first * 0.5 ** spent.astype(x0.dtype)
        new = _freely(settings.rows, x + tree.expand(length, x) * direction, x0)
        hit = looking & settings.decide(new, target, _numbered(keys, spent))
        return tree.where(hit, new, best), looking & ~hit, spent + looking

    def unfinished(carry: tuple[Array, ...]) -> Array:
        _, looking, spent = carry
        return jnp.any(looking & (spent < LEAPS))

    carry = tree.vary_like((x, wanted, jnp.zeros_like(turn)), x0)
    best, _, spent = jax.lax.while_loop(unfinished, body, carry)
    return best, spent
