"""Wrappers that change what is attacked: averaged, transformed, stabilised, ensembled objectives.

A wrapper changes `Eval.ascent` (what is differentiated); `loss` and `success` keep describing the
points as they are, so that results stay comparable and no success is claimed for another image.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from advjax import tree
from advjax.attacks._objective import ApplyFn, check_plain, grade
from advjax.types import Array, Cost, Eval, LossFn, Objective, Output, PyTree, Target


def with_eot(objective: Objective, num_samples: int) -> Objective:
    """Expectation over transformation (Athalye et al. 2018): average over random draws.

    The ascended value and the loss are means over `num_samples` draws; a point is a success when
    more than half of the draws succeed, so that one lucky draw does not count.

    Args:
      objective: a randomised objective (`from_logits(..., randomised=True)`, input diversity).
      num_samples: draws per gradient; each costs what the objective costs.

    Raises:
      ValueError: `num_samples` is below 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")

    def draws(keys: Array) -> Array:
        split = jax.vmap(lambda k: jax.random.split(k, num_samples), out_axes=1)
        return split(keys)  # [num_samples, B]

    def average(
        one: Callable[[Array], tuple[Eval, PyTree]], x: Array, state: PyTree, keys: Array
    ) -> tuple[Eval, PyTree]:
        def body(carry: tuple[Eval, PyTree], keys: Array) -> tuple[tuple[Eval, PyTree], None]:
            new, new_state = one(keys)
            total = jax.tree.map(lambda t, n: t + n.astype(t.dtype), carry[0], new)
            return (total, new_state), None

        dtype = jnp.promote_types(x.dtype, jnp.float32)
        zero = tree.vary_like(Eval(*(jnp.zeros(x.shape[:1], dtype) for _ in range(3))), x)
        (total, new_state), _ = jax.lax.scan(body, (zero, state), draws(keys))
        mean = Eval(
            loss=total.loss / num_samples,
            success=total.success * 2 > num_samples,
            ascent=total.ascent / num_samples,
        )
        return mean, new_state

    def judge(x: Array, target: Target, keys: Array) -> Eval:
        return average(lambda k: (objective.judge(x, target, k), ()), x, (), keys)[0]

    def evaluate(x: Array, target: Target, state: PyTree, keys: Array) -> tuple[Eval, PyTree]:
        return average(lambda k: objective.evaluate(x, target, state, k), x, state, keys)

    cost = Cost(objective.cost.forwards * num_samples, objective.cost.backwards * num_samples)
    return objective._replace(
        evaluate=evaluate,
        judge=judge,
        cost=cost,
        with_loss=lambda loss: with_eot(objective.with_loss(loss), num_samples),
        plain=False,
        composite=True,
    )


def with_input_diversity(
    objective: Objective, *, resize_rate: float = 1.1, probability: float = 0.5
) -> Objective:
    """Input diversity (Xie et al. 2019, DI-FGSM): differentiate at a randomly shrunk image.

    With `probability`, each row is shrunk by a factor uniform in [1 / resize_rate, 1], placed at a
    random position on black, bilinearly; drawn per row and step from the row's own key. The
    original enlarges, pads and resizes back: the same image, resampled once instead of twice.

    Args:
      objective: any objective of images `[B, H, W, C]`.
      resize_rate: at least 1; 1.1 in the paper's setting.
      probability: of transforming a row at a step.

    Raises:
      ValueError: an argument is out of range.
    """
    if resize_rate < 1 or not 0 <= probability <= 1:
        raise ValueError(
            "resize_rate must be at least 1 and probability within [0, 1], "
            f"got {resize_rate} and {probability}"
        )

    def transform(key: Array, image: Array) -> Array:
        key_use, key_scale, key_place = jax.random.split(key, 3)
        size = jnp.asarray(image.shape[:2], image.dtype)
        scale = jax.random.uniform(key_scale, (), image.dtype, 1.0 / resize_rate, 1.0)
        shift = jax.random.uniform(key_place, (2,), image.dtype) * (size * (1 - scale))
        scales = jnp.broadcast_to(scale, (2,))
        moved = jax.image.scale_and_translate(
            image, image.shape, (0, 1), scales, shift, method="linear", antialias=False
        )
        return jnp.where(jax.random.bernoulli(key_use, probability), moved, image)

    def evaluate(x: Array, target: Target, state: PyTree, keys: Array) -> tuple[Eval, PyTree]:
        pairs = jax.vmap(jax.random.split)(keys)
        moved = jax.vmap(transform)(pairs[:, 0], x)
        changed, state = objective.evaluate(moved, target, state, pairs[:, 1])
        plain = objective.judge(jax.lax.stop_gradient(x), target, pairs[:, 1])
        return plain._replace(ascent=changed.ascent), state

    return objective._replace(
        evaluate=evaluate,
        cost=Cost(objective.cost.forwards + 1, objective.cost.backwards),
        deterministic=False,
        stationary=False,
        # loss and success come from `judge` already
        approximate=False,
        with_loss=lambda loss: with_input_diversity(
            objective.with_loss(loss), resize_rate=resize_rate, probability=probability
        ),
        plain=False,
    )


def with_ascent(objective: Objective, loss: LossFn, *, num_steps: int | None = None) -> Objective:
    """Ascend one loss, and report and rank by that of the objective.

    Args:
      objective: from `attacks.from_logits`; other wrappers go around the result. Where it is
        targeted, `loss` is negated like any other.
      loss: what is ascended, `(output, target) -> []`.
      num_steps: with it, `loss` changes in the course of an attack of so many steps: it is called
        with `(target, share)`, the share of the steps that are over, in [0, 1).

    Raises:
      ValueError: the objective is wrapped already.
    """
    check_plain("with_ascent", objective)
    signed = objective.with_loss(loss).loss
    staged = num_steps is not None

    def init(x0: Array, target: Target, eps: Array) -> PyTree:
        return tree.vary_like(jnp.zeros(x0.shape[:1], jnp.int32), x0) if staged else ()

    def evaluate(x: Array, target: Target, state: PyTree, keys: Array) -> tuple[Eval, PyTree]:
        output = objective.ascent_apply(x, keys)
        plain = grade(output, target, objective.loss, objective.criterion)
        aim = target
        if num_steps is not None:
            aim = (target, state.astype(plain.loss.dtype) / num_steps)
            state = state + 1
        return plain._replace(ascent=jax.vmap(signed)(output, aim)), state

    return objective._replace(
        init=init,
        evaluate=evaluate,
        stationary=objective.stationary and not staged,
        plain=False,
        with_loss=lambda new: with_ascent(objective.with_loss(new), loss, num_steps=num_steps),
    )


def ensemble(objectives: Sequence[Objective], weights: Sequence[float] | None = None) -> Objective:
    """Attack several models at once: the mean of their losses is ascended.

    A point is a success when every member says so. The members are called one after the other,
    which on CPU is faster than a `vmap` over parameters.

    Args:
      objectives: at least one; all for the same targets.
      weights: one per member; None: equal. Normalised to sum to 1.

    Raises:
      ValueError: there is no member, or the weights do not fit.
    """
    members = list(objectives)
    if not members:
        raise ValueError("ensemble: at least one objective is needed")
    raw = [1.0] * len(members) if weights is None else [float(w) for w in weights]
    if len(raw) != len(members) or min(raw) < 0 or sum(raw) <= 0:
        raise ValueError(f"weights: expected {len(members)} non-negative numbers, got {weights}")
    shares = [w / sum(raw) for w in raw]

    def weigh(values: Sequence[Array]) -> Array:
        return functools.reduce(jnp.add, (w * v for w, v in zip(shares, values, strict=True)))

    def combine(evals: Sequence[Eval]) -> Eval:
        return Eval(
            loss=weigh([e.loss for e in evals]),
            success=jnp.all(jnp.stack([e.success for e in evals]), axis=0),
            ascent=weigh([e.ascent for e in evals]),
        )

    def init(x0: Array, target: Target, eps: Array) -> PyTree:
        return tuple(m.init(x0, target, eps) for m in members)

    def judge(x: Array, target: Target, keys: Array) -> Eval:
        return combine([m.judge(x, target, keys) for m in members])

    def evaluate(x: Array, target: Target, state: PyTree, keys: Array) -> tuple[Eval, PyTree]:
        pairs = [m.evaluate(x, target, s, keys) for m, s in zip(members, state, strict=True)]
        return combine([e for e, _ in pairs]), tuple(s for _, s in pairs)

    def mean_of(applies: Sequence[ApplyFn]) -> ApplyFn:
        def apply(x: Array, keys: Array) -> Output:
            outputs = [fn(x, keys) for fn in applies]
            return jax.tree.map(lambda *values: weigh(values), *outputs)

        return apply

    apply = mean_of([m.apply for m in members])
    same = all(m.ascent_apply is m.apply for m in members)
    return Objective(
        init=init,
        evaluate=evaluate,
        judge=judge,
        cost=Cost(sum(m.cost.forwards for m in members), sum(m.cost.backwards for m in members)),
        apply=apply,
        ascent_apply=apply if same else mean_of([m.ascent_apply for m in members]),
        loss=members[0].loss,
        criterion=members[0].criterion,
        deterministic=all(m.deterministic for m in members),
        stationary=all(m.stationary for m in members),
        with_loss=lambda loss: ensemble([m.with_loss(loss) for m in members], shares),
        approximate=any(m.approximate for m in members),
        composite=True,
        targeted=members[0].targeted,
        randomised=any(m.randomised for m in members),
    )
