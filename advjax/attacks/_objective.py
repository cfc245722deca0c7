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

ApplyFn = Callable[[Array, Array], Output]


def from_logits(
    fn: Callable[..., Output],
    *,
    loss: LossFn,
    criterion: CriterionFn | None = None,
    targeted: bool = False,
    randomised: bool = False,
    gradient_fn: Callable[..., Output] | None = None,
) -> Objective:
    """Make the objective of an attack from a function that computes logits.

    With `gradient_fn` the steps see that function only: its gradient and its loss. No success
    rests on it: a point that it calls broken counts when `fn` says so too, and the loss of every
    result is that of `fn`. What `fn` alone would have called broken on the way may be missed.

    Args:
      fn: `fn(x [B, ...]) -> [B, C]`, or any pytree with leading `[B]`; pixels in, logits out,
        normalisation inside.
      loss: loss of one example, `(output, target) -> []`, which the attack ascends.
      criterion: success of one example, `(output, target) -> [] bool`. None: by the rank of the
        target, see `criteria.default`; targeted `criteria.targeted_default`.
      targeted: the target is the wanted one; the loss is negated, success is reaching it.
      randomised: `fn(x, keys [B])` draws random numbers; wrap the objective in `with_eot`.
      gradient_fn: what is differentiated instead of `fn`, with its arguments and its outputs: the
        same model in lower precision (`models.in_precision`), or a differentiable stand-in for a
        model that has no useful gradient (BPDA, Athalye et al. 2018). `fn` is then called with
        smaller batches too, to confirm successes, and never differentiated. None: `fn`.

    Returns:
      An `Objective` that costs one forward and one backward pass; with `gradient_fn`, one forward
      pass of `fn` more for each claimed success.

    Raises:
      ValueError: `fn`, `loss`, `criterion` or `gradient_fn` is no function.
    """
    given = {"fn": fn, "loss": loss, "criterion": criterion, "gradient_fn": gradient_fn}
    for name, value in given.items():
        optional = name in ("criterion", "gradient_fn")
        if not callable(value) and not (optional and value is None):
            raise ValueError(
                f"{name}: expected a function such as losses.cross_entropy, got {value!r}"
            )
    if criterion is None:
        criterion = criteria.targeted_default if targeted else criteria.default

    def signed(output: Output, target: Target) -> Array:
        return -loss(output, target) if targeted else loss(output, target)

    def keyed(fn: Callable[..., Output]) -> ApplyFn:
        return fn if randomised else lambda x, keys: fn(x)

    apply = keyed(fn)
    ascent_apply = apply if gradient_fn is None else keyed(gradient_fn)
    return _plain(
        apply, ascent_apply, signed, criterion, deterministic=not randomised, targeted=targeted
    )


def _plain(
    apply: ApplyFn,
    ascent_apply: ApplyFn,
    loss: LossFn,
    criterion: CriterionFn,
    *,
    deterministic: bool,
    targeted: bool,
) -> Objective:
    def judge(x: Array, target: Target, keys: Array) -> Eval:
        return grade(apply(x, keys), target, loss, criterion)

    def evaluate(x: Array, target: Target, state: PyTree, keys: Array) -> tuple[Eval, PyTree]:
        return grade(ascent_apply(x, keys), target, loss, criterion), state

    def with_loss(new: LossFn) -> Objective:
        def signed(output: Output, target: Target) -> Array:
            return -new(output, target) if targeted else new(output, target)

        return _plain(
            apply, ascent_apply, signed, criterion, deterministic=deterministic, targeted=targeted
        )

    return Objective(
        init=no_state,
        evaluate=evaluate,
        judge=judge,
        cost=Cost(forwards=1, backwards=1),
        apply=apply,
        ascent_apply=ascent_apply,
        loss=loss,
        criterion=criterion,
        deterministic=deterministic,
        stationary=deterministic,
        with_loss=with_loss,
        plain=True,
        approximate=ascent_apply is not apply,
        targeted=targeted,
        randomised=not deterministic,
    )


def check_plain(name: str, objective: Objective) -> None:
    """Refuse an objective that is wrapped already.

    Raises:
      ValueError: it is.
    """
    if not objective.plain:
        raise ValueError(
            f"{name}: the objective is wrapped already; this first, then wrap: "
            "with_eot(with_stabilisation(from_logits(...)), n)"
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
