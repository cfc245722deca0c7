"""The plain objective: a model, a loss and a criterion."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax import criteria
from advjax.types import (
    Array,
    Cost,
    CriterionFn,
    Eval,
    LossFn,
    Objective,
    Output,
    PyTree,
    Target,
)


def from_logits(
    fn: Callable[..., Output],
    *,
    loss: LossFn,
    criterion: CriterionFn | None = None,
    targeted: bool = False,
    randomised: bool = False,
) -> Objective:
    """Make the objective of an attack from a function that computes logits.

    Args:
      fn: `fn(x [B, ...]) -> [B, C]`, or any pytree with leading `[B]`; pixels in, logits out,
        normalisation inside.
      loss: loss of one example, `(output, target) -> []`, which the attack ascends.
      criterion: success of one example, `(output, target) -> [] bool`. None: by the rank of the
        target, `misclassified` or `any_flipped`; targeted `reached` or `labels_reached`.
      targeted: the target is the wanted one; the loss is negated, success is reaching it.
      randomised: `fn(x, keys [B])` draws random numbers; wrap the objective in `with_eot`.

    Returns:
      An `Objective` that costs one forward and one backward pass.

    Raises:
      ValueError: `fn`, `loss` or `criterion` is no function.
    """
    for name, value in (("fn", fn), ("loss", loss), ("criterion", criterion)):
        if not callable(value) and not (name == "criterion" and value is None):
            raise ValueError(
                f"{name}: expected a function such as losses.cross_entropy, got {value!r}"
            )
    if criterion is None:
        criterion = criteria.targeted_default if targeted else criteria.default

    def signed(output: Output, target: Target) -> Array:
        return -loss(output, target) if targeted else loss(output, target)

    def apply(x: Array, keys: Array) -> Output:
        return fn(x, keys) if randomised else fn(x)

    return _plain(apply, signed, criterion, deterministic=not randomised, targeted=targeted)


def _plain(
    apply: Callable[[Array, Array], Output],
    loss: LossFn,
    criterion: CriterionFn,
    *,
    deterministic: bool,
    targeted: bool,
) -> Objective:
    def judge(x: Array, target: Target, keys: Array) -> Eval:
        return grade(apply(x, keys), target, loss, criterion)

    def evaluate(x: Array, target: Target, state: PyTree, keys: Array) -> tuple[Eval, PyTree]:
        return judge(x, target, keys), state

    def with_loss(new: LossFn) -> Objective:
        def signed(output: Output, target: Target) -> Array:
            return -new(output, target) if targeted else new(output, target)

        return _plain(apply, signed, criterion, deterministic=deterministic, targeted=targeted)

    return Objective(
        init=no_state,
        evaluate=evaluate,
        judge=judge,
        cost=Cost(forwards=1, backwards=1),
        apply=apply,
        loss=loss,
        criterion=criterion,
        deterministic=deterministic,
        stationary=deterministic,
        with_loss=with_loss,
        plain=True,
    )


def no_state(x0: Array, target: Target, eps: Array) -> tuple[()]:
    """Return the state of an objective that has none."""
    del x0, target, eps
    return ()


def grade(output: Output, target: Target, loss: LossFn, criterion: CriterionFn) -> Eval:
    """Apply the loss and the criterion of one example to a batch.

    Raises:
      ValueError: the output has no leading axis, or another one than the target.
    """
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves((output, target))}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"output and target need the same leading axis [B], got {sizes}; "
            "fn must map [B, ...] to [B, C], and target must be [B] or [B, ...]"
        )
    values = jax.vmap(loss)(output, target)
    success = jax.vmap(criterion)(output, target)
    return Eval(loss=values, success=success.astype(jnp.bool_), ascent=values)
