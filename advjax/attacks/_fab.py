"""FAB and FAB-T (Croce and Hein 2020): the nearest success, by steps to linearised boundaries."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax import criteria, tree
from advjax.attacks._gradient import in_fast_layout
from advjax.attacks._hyperplane import NORMS, step_to_hyperplane
from advjax.attacks._kernel import Proposal, assemble, make_spec, with_row_ball
from advjax.attacks._looks import way_to_boundary
from advjax.attacks._minimal import check_norm
from advjax.status import Status
from advjax.threat import over_rows
from advjax.types import (
    Array,
    Attack,
    AttackResult,
    AttackState,
    Ball,
    Cost,
    Objective,
    PyTree,
    Target,
)

SHORTEST = 1e-8  # no step counts as shorter where two are weighed


def fab(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int = 100,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    random_start: bool = False,
    final_search: int = 0,
) -> Attack:
    """FAB of Croce and Hein (2020): the nearest misclassified point in the norm of the ball.

    A step linearises the boundary of the nearest other class, goes from the iterate and from the
    image to the hyperplane by the shortest ways within the bounds, `eta` times as far, and mixes
    the two ends with a weight of at most `alpha_max` for that of the image. An iterate that is
    a success is noted and drawn back to the image, to `beta` of its distance, before the step.
    Which boundary is nearest counts the bounds, too; the published rule does not.

    The kind of the target decides: labels `[B]` give FAB, in which a step costs a backward pass
    for each other class. The pair `(labels [B], classes [B])` gives FAB-T: the boundary of that
    one class, one backward pass a step; a success is still any point that the criterion calls one,
    by default any other class than the label:

        objective = attacks.from_logits(fn, loss=losses.cross_entropy)
        result = attacks.run(attacks.fab(objective, ball), key, x, (y, classes), jnp.inf)

    Either way a step costs two forward passes: the iterate is judged, then linearised.

    For restarts, run it again with `random_start=True`, other keys, and as eps the distance that
    was found so far (or the budget, where nothing was).

    Args:
      objective: from `attacks.from_logits`, untargeted, of one label; its loss is reported and
        plays no other part.
      ball: l-infinity, Euclidean or l1, masked or not. eps is a radius beyond which nothing
        counts, in pixel units; `jnp.inf`: none.
      num_steps: moves; the published setting is 100.
      alpha_max: the largest weight of the image.
      eta: how far beyond the hyperplanes to go.
      beta: the share of its distance that a success keeps.
      random_start: start at a random point at half of eps from the image, where eps is finite;
        else at the image.
      final_search: halvings of the way from the image to the result, at its end; each costs a
        forward pass. 0: none, as in AutoAttack.

    Returns:
      An `Attack`; `distance` is 0 for an image that is wrong already and inf where it failed.

    Raises:
      ValueError: the norm of the ball is another one, the objective is wrapped or targeted, a
        number is out of range; and, when traced, target or output are of another kind.
    """
    norm = check_norm("fab", ball, NORMS, finite=False)
    _check(objective, alpha_max, eta, beta, final_search)
    ball = _with_start(ball, norm)
    steps = with_row_ball(ball, _mover(norm, alpha_max, eta))

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        labels, wanted = _kind(target)
        evaluation = objective.judge(state.x, target, keys)
        x = tree.where(evaluation.success, x0 + beta * (state.x - x0), state.x)
        output, gaps, w = _boundaries(objective, x, labels, wanted, keys)
        gap, w, status = _nearest(ball, norm, output, x, gaps, w, state.direction_state)
        # what the judge calls no success lies before the boundary, whatever a tie of logits, a
        # stand-in or a criterion with a margin makes of it: the way on is not to be zero
        tie = _resolution(output, x, w)
        gap = jnp.where(evaluation.success, gap, -jnp.maximum(jnp.abs(gap), tie))
        new = steps(x, x0, gap, w, state.direction_state)
        grads = jnp.full_like(state.num_grads, gaps.shape[0])
        return Proposal(
            new, evaluation, status, state.direction_state, state.objective_state, grads
        )

    def init_direction(x0: Array) -> Array:
        return with_row_ball(ball, _free)(x0)

    # every iterate is judged by the model; there are no claims to confirm
    judged = objective._replace(approximate=False)
    cost = Cost(2 * objective.cost.forwards, objective.cost.backwards)
    spec = make_spec(judged, ball, num_steps, "best", "fab", cost=cost, minimal=True)
    attack = assemble(propose, init_direction, spec, random_start=random_start)
    return _with_search(attack, final_search) if final_search else attack


def _check(
    objective: Objective, alpha_max: float, eta: float, beta: float, final_search: int
) -> None:
    if not objective.plain:
        raise ValueError(
            "fab: needs the logits themselves: an objective from attacks.from_logits, not wrapped"
        )
    if objective.criterion in (criteria.targeted_default, criteria.reached):
        raise ValueError(
            "fab: only leaves a class; to move towards one, let the target be the pair (labels, "
            "classes), and the criterion misclassified(output, target[0])"
        )
    if not (0 <= alpha_max <= 1 and eta >= 1 and 0 < beta < 1 and final_search >= 0):
        raise ValueError(
            "fab: alpha_max must be within [0, 1], eta at least 1, beta within (0, 1) and "
            f"final_search at least 0, got {alpha_max}, {eta}, {beta} and {final_search}"
        )


def _kind(target: Target) -> tuple[Array, Array | None]:
    """Return the labels, and of a pair the classes to move towards."""
    pair = target if isinstance(target, tuple | list) else (target,)
    fits = len(pair) in (1, 2) and all(
        hasattr(part, "ndim") and part.ndim == 1 and jnp.issubdtype(part.dtype, jnp.integer)
        for part in pair
    )
    if not fits:
        raise ValueError(
            "fab: the target must be labels [B], or the pair (labels [B], classes [B]) to move "
            f"towards one class each, all integers; got {jax.tree.map(jnp.shape, target)}"
        )
    return pair[0], pair[1] if len(pair) == 2 else None


def _boundaries(
    objective: Objective, x: Array, labels: Array, wanted: Array | None, keys: Array
) -> tuple[Array, Array, Array]:
    """Linearise the boundaries at `x` `[B, ...]`.

    Returns:
      The logits, the logits of K other classes less that of the label `[K, B]`, and the gradients
      of these `[K, B, ...]`; K is 1 for wanted classes, else all but one.
    """

    def linearise(x: Array) -> tuple[Array, Array, Array]:
        output, pull = jax.vjp(lambda x: objective.ascent_apply(x, keys), x)
        if getattr(output, "ndim", 0) != 2 or output.shape[1] < 2:
            raise ValueError(
                "fab: the model must return logits [B, classes] of two classes at least, got "
                f"{jax.tree.map(jnp.shape, output)}"
            )
        classes = output.shape[1]
        if wanted is None:
            others = (labels + jnp.arange(1, classes, dtype=labels.dtype)[:, None]) % classes
        else:
            others = wanted[None]
        hot = jax.nn.one_hot(others, classes, dtype=output.dtype)
        signs = hot - jax.nn.one_hot(labels, classes, dtype=output.dtype)
        gaps = jnp.sum(jnp.where(signs == 0, 0, signs * output), -1)
        return output, gaps, jax.vmap(lambda sign: pull(sign)[0])(signs)

    return in_fast_layout(linearise)(x)


def _nearest(
    ball: Ball, norm: str, output: Array, x: Array, gaps: Array, w: Array, free: Array
) -> tuple[Array, Array, Array]:
    """Return gap `[B]` and gradient `[B, ...]` of the nearest boundary, and the status."""
    dtype = jnp.promote_types(w.dtype, jnp.float32)
    w, gaps = w.astype(dtype), gaps.astype(dtype)
    finite = jnp.isfinite(w)
    usable = jnp.all(finite, tuple(range(2, w.ndim))) & jnp.isfinite(gaps)
    w, gaps = jnp.where(finite, w, 0), jnp.where(usable, gaps, 0)
    usable = usable & (jax.vmap(over_rows(ball).dual_norm)(w) > 0)
    away = jnp.where(usable, _lengths(ball, norm, x, gaps, w, free), jnp.inf)
    which = jnp.argmin(away, axis=0)
    gap = jnp.take_along_axis(gaps, which[None], 0)[0]
    w = jax.vmap(lambda rows, i: rows[i], (1, 0))(w, which)
    stuck = ~jnp.any(usable, axis=0)
    w = jnp.where(tree.expand(stuck, w), 0, w)
    status = jnp.where(stuck, Status.ZERO_GRADIENT, Status.OK)
    healthy = jnp.all(jnp.isfinite(output), -1) & jnp.all(finite, (0, *range(2, finite.ndim)))
    return gap, w, jnp.where(healthy, status, Status.NON_FINITE).astype(jnp.int8)


def _lengths(ball: Ball, norm: str, x: Array, gaps: Array, w: Array, free: Array) -> Array:
    """Return how far boundaries `[K, B]` are, within the bounds.

    Published is the distance without bounds, which calls boundaries near that are not where
    pixels cannot move (in l1, where one pixel is never enough, on ordinary images).
    """
    if len(gaps) == 1:
        return jnp.zeros_like(gaps)

    def one(ball: Ball, x: Array, free: Array, gaps: Array, w: Array) -> Array:
        return jax.vmap(
            lambda gap, w: way_to_boundary(norm, ball, x, jnp.where(free, w, 0), gap)[1]
        )(gaps, w)

    return with_row_ball(ball, one)(x, free, gaps.T, jnp.moveaxis(w, 0, 1)).T


def _resolution(output: Array, x: Array, w: Array) -> Array:
    """Return `[B]`: what the rounding of logits and pixels can change a difference of logits by."""
    logits = jnp.max(jnp.where(jnp.isfinite(output), jnp.abs(output), 0), -1)
    pixels = jnp.sum(jnp.abs(w * x), tuple(range(1, x.ndim)))
    rounded = logits * jnp.finfo(output.dtype).eps + 2 * pixels * jnp.finfo(x.dtype).eps
    return rounded.astype(w.dtype)


def _mover(norm: str, alpha_max: float, eta: float) -> Callable[..., Array]:
    """Return the step of one example."""

    def move(ball: Ball, x: Array, x0: Array, gap: Array, w: Array, free: Array) -> Array:
        low, high = (jnp.asarray(b, x.dtype) for b in ball.bounds)
        w = jnp.where(free, w, 0)
        # the image sees the same hyperplane, gap + <w, . - x> = 0
        ends = jnp.stack([x, x0]).astype(w.dtype)
        gaps = jnp.stack([gap, gap + jnp.sum(w * (ends[1] - ends[0]))])
        to_go = jax.vmap(lambda end, gap: step_to_hyperplane(norm, end, w, gap, low, high))
        ways = to_go(ends, gaps)
        lengths = jax.vmap(lambda way: ball.distance(way, jnp.zeros_like(way)))(ways)
        near, far = jnp.maximum(lengths, SHORTEST)
        share = jnp.minimum(near / (near + far), alpha_max)
        there, back = ends + eta * ways
        new = (there * (1 - share) + back * share).astype(x.dtype)
        new = jnp.where(free, jnp.clip(new, low, high), x0)
        return jnp.where(jnp.any(w != 0), new, x)

    return move


def _free(ball: Ball, x0: Array) -> Array:
    """Return where the ball lets one image move at all: inside of its mask."""
    low, high = (jnp.asarray(b, x0.dtype) for b in ball.bounds)
    # a place within the bounds, other than x0
    other = jnp.clip(jnp.where(x0 - low < high - x0, x0 + 1, x0 - 1), low, high)
    return ball.project(other, x0, jnp.asarray(jnp.inf, x0.dtype)) != x0


def _with_start(ball: Ball, norm: str) -> Ball:
    """Return the ball with the start of FAB: half of eps away, for as far as the bounds allow."""

    def with_start(inner: Ball) -> Ball:
        def sample(key: Array, x0: Array, eps: Array) -> Array:
            if norm == "linf":
                noise = jax.random.uniform(key, x0.shape, x0.dtype, -1, 1)
            else:
                noise = jax.random.normal(key, x0.shape, x0.dtype)
            noise = jnp.where(_free(inner, x0), noise, 0)
            length = inner.distance(noise, jnp.zeros_like(noise))
            half = jnp.where(jnp.isfinite(eps), eps, 0) / 2
            return inner.project(x0 + half * noise / jnp.where(length > 0, length, 1), x0, eps)

        return inner._replace(sample=sample)

    if ball.rows is None:
        return with_start(ball)
    bind, context = ball.rows
    return ball._replace(rows=(lambda row: with_start(bind(row)), context))


def _with_search(attack: Attack, halvings: int) -> Attack:
    """Return the attack whose result is drawn to the image until the boundary is between."""
    spec = attack.spec
    rows = over_rows(spec.ball)

    def finalize(
        state: AttackState, x0: Array, target: Target, eps: Array, freeze: bool = False
    ) -> AttackResult:
        result = attack.finalize(state, x0, target, eps, freeze)

        def halve(i: Array, carry: PyTree) -> PyTree:
            low, x, loss = carry
            middle = (low + x) / 2
            keys = jax.vmap(lambda k: jax.random.fold_in(k, spec.num_steps + 1 + i))(state.key)
            found = spec.objective.judge(middle, target, keys)
            better = found.success & result.success
            loss = jnp.where(better, found.loss.astype(loss.dtype), loss)
            return tree.where(better, low, middle), tree.where(better, middle, x), loss

        _, x, loss = jax.lax.fori_loop(0, halvings, halve, (x0, result.x_adv, result.loss))
        distance = jnp.where(result.success, rows.distance(x, x0), result.distance)
        queries = result.num_queries + halvings * result.success
        return result._replace(x_adv=x, loss=loss, distance=distance, num_queries=queries)

    return attack._replace(finalize=finalize)
