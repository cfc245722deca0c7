"""Attacked versions of a batch, and the forward passes of training over versions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import attacks, losses
from advjax.tasks import Task
from advjax.training.methods._base import CLEAN, Aux, Inner, Method, compose
from advjax.training.methods._draws import batch_key, check_draws, draw, ranges, rows_of
from advjax.types import Array, Batch, LossFn, PyTree, Target

ATTACK_MODES = ("eval", "batch")
UPDATE_POLICIES = ("clean", "adversarial", "both")


class Version(NamedTuple):
    """One version of the images of a batch.

    Attributes:
      images: `[B, H, W, C]`.
      counts: whether the loss sees it; a version that it does not see has no backward pass.
      moves: whether it moves the running statistics of batch-norm.
    """

    images: Array
    counts: bool
    moves: bool


def perturb(
    inner: Inner,
    task: Task,
    apply: Callable[..., Any],
    variables: PyTree,
    batch: Batch,
    *,
    key: Array,
    eps: Array | float,
    num_steps: Array | None = None,
    divergence: LossFn | None = None,
) -> Array:
    """Attack a training batch with parameters that receive no gradient.

    Args:
      inner: the attack, its batch-norm mode and its start.
      task: its loss is what the attack ascends.
      apply: of the model.
      variables: of the model.
      batch: `[B, ...]`.
      key: one key (a row's own key is derived from its id) or `[B]` keys.
      eps: budget, a number or `[B]`, traced.
      num_steps: `[B]` steps of each row; None: all those of the attack.
      divergence: `(output, clean output) -> []` of one example, ascended instead of the loss of the
        task (TRADES); needs a start away from the image, where its gradient is zero.

    Returns:
      `[B, H, W, C]` images, the last iterate after every step (`stop="budget"`), as adversarial
      training has it since Madry et al. (2018).
    """
    frozen = jax.lax.stop_gradient(variables)

    def outputs(x: Array) -> Any:
        if inner.batch_norm == "eval":
            return apply(frozen, x)
        return apply(frozen, x, train=True)[0]

    if divergence is None:
        loss, target = task.loss, batch.target
    else:
        loss, target = divergence, outputs(batch.image)
    objective = attacks.from_logits(outputs, loss=loss, criterion=_never)
    keys = rows_of(key, batch, inner.name)
    start = None
    if inner.noise is not None:
        shape, dtype = batch.image.shape[1:], batch.image.dtype
        noise = jax.vmap(lambda k: jax.random.normal(k, shape, dtype))(keys)
        start = batch.image + inner.noise * noise
    result = attacks.run(
        inner.make(objective), keys, batch.image, target, eps,
        x_start=start, stop="budget", num_steps=num_steps,
    )  # fmt: skip
    return jax.lax.stop_gradient(result.x_adv)


def _never(output: Any, target: Any) -> Array:
    """Call nothing a success: in training every row spends its budget."""
    del output, target
    return jnp.zeros((), jnp.bool_)


def budget_state(inner: Inner) -> PyTree:
    """Return the budget of an attack as arrays, or the ranges that it draws from."""
    return jnp.asarray(inner.eps, jnp.float32) if inner.draws is None else ranges(inner.draws)


def budgets(inner: Inner, state: PyTree, key: Array, batch: Batch) -> dict[str, Any]:
    """Return the arguments `eps` and `num_steps` of `perturb`, drawn where the attack draws."""
    if inner.draws is None:
        return {"eps": state}
    eps, num_steps = draw(inner.draws, state, key, batch, inner.name)
    return {"eps": eps, "num_steps": num_steps}


def divergence(task: Task) -> LossFn:
    """Return how far a prediction is from a reference, `(output, reference) -> []`.

    Of several labels the mean over them, of an image of classes (segmentation) the mean over its
    pixels.
    """
    if task.name == "multi":
        return losses.binary_kl

    def over_pixels(output: Array, reference: Array) -> Array:
        classes = output.shape[-1]
        rows = jax.vmap(losses.kl)(output.reshape(-1, classes), reference.reshape(-1, classes))
        return jnp.mean(rows)

    return over_pixels


def predicted(task: Task, output: Array) -> Array:
    """Return what a batch of outputs `[B, ...]` predicts, in the form of a target."""
    if task.name == "multi":
        return (output > 0).astype(jnp.int32)
    return jnp.argmax(output, -1).astype(jnp.int32)


def forward(
    apply: Callable[..., Any],
    params: PyTree,
    model_state: PyTree,
    versions: Mapping[str, Version],
    key: Array,
) -> tuple[dict[str, Any], PyTree]:
    """Apply the model in training mode to every version that matters, in their order.

    Each version is normalised by its own batch statistics.

    Returns:
      The outputs by version, and the collections after them.
    """
    rngs = {"dropout": batch_key(key, "dropout")}
    state, outputs = dict(model_state), {}
    for name, version in versions.items():
        if version.counts or version.moves:
            used = params if version.counts else jax.lax.stop_gradient(params)
            variables = {"params": used, **state}
            outputs[name], new = apply(variables, version.images, train=True, rngs=rngs)
            state = state | new if version.moves else state
    return outputs, state


def weighted(
    name: str,
    task: Task,
    weights: Mapping[str, float],
    inners: Mapping[str, Inner],
    *,
    update: str = "adversarial",
) -> Method:
    """Make the method whose loss is a weighted mean over versions of each image.

    Versions are `"clean"` and one per inner attack. Each version is one forward pass in training
    mode, normalised by its own batch statistics; the versions that `update` names move the
    running statistics, in the order clean, attacks. A version that neither has a weight nor moves
    the statistics is not computed; one that only moves them costs no backward pass.

    Args:
      name: of the method.
      task: loss and accuracy of one example.
      weights: version -> share of the loss; they should sum to 1.
      inners: version -> attack; `method_state[version]` is its eps, or what it draws from.
      update: `"clean"`, `"adversarial"` or `"both"`; without an attack, clean images update.

    Raises:
      ValueError: an unknown policy, an impossible budget, or a weight for an unknown version.
    """
    _check_weights(weights, inners)
    check_policy(inners, update)

    def init(params: PyTree) -> PyTree:
        del params
        return {n: budget_state(inner) for n, inner in inners.items()}

    def prepare(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any
    ) -> Any:
        variables = {"params": params, **model_state}
        return {
            n: perturb(
                inner, task, apply, variables, batch, key=key,
                **budgets(inner, state[n], key, batch),
            )
            for n, inner in inners.items()
        }  # fmt: skip

    def objective(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any, views: Any
    ) -> tuple[Array, Aux]:
        moving = {CLEAN: update != "adversarial" or not inners}
        moving |= dict.fromkeys(inners, update != CLEAN)
        versions = {
            n: Version(images, bool(weights.get(n)), moving[n])
            for n, images in {CLEAN: batch.image, **views}.items()
        }
        outputs, new = forward(apply, params, model_state, versions, key)
        shares = {n: weights[n] for n in outputs if versions[n].counts}
        metrics = _measure(task, shares, outputs, batch.target)
        return masked_mean(metrics["loss"], batch.valid), Aux(new, state, metrics)

    return compose(name, init, prepare, objective)


def _check_weights(weights: Mapping[str, float], inners: Mapping[str, Inner]) -> None:
    unknown = sorted(set(weights) - {CLEAN, *inners})
    if unknown or not any(weights.values()):
        raise ValueError(
            f"weights: expected shares of {[CLEAN, *inners]}, got {dict(weights)}; "
            f"unknown: {unknown or 'none'}"
        )


def check_policy(inners: Mapping[str, Inner], update: str) -> None:
    """Check names and budgets.

    Raises:
      ValueError: an unknown policy of batch-norm or an impossible budget.
    """
    if update not in UPDATE_POLICIES:
        raise ValueError(
            f"batch_norm_update: unknown {update!r}; use one of {', '.join(UPDATE_POLICIES)}"
        )
    for inner in inners.values():
        if inner.batch_norm not in ATTACK_MODES:
            raise ValueError(
                f"batch_norm_attack: unknown {inner.batch_norm!r}; use one of "
                f"{', '.join(ATTACK_MODES)}"
            )
        if inner.draws is not None:
            check_draws(inner.draws)
        elif not inner.eps > 0:
            raise ValueError(
                f"eps: must be positive for adversarial training, got {inner.eps}; "
                'use method="standard" to train without an attack'
            )


def _measure(
    task: Task, shares: Mapping[str, float], outputs: Mapping[str, Array], target: Target
) -> dict[str, Array]:
    """Return loss and accuracy `[B]`, weighted over versions, and the accuracy of each of them."""
    found: dict[str, Array] = {}
    for version, share in shares.items():
        right = jax.vmap(task.accuracy)(outputs[version], target)
        parts = {"loss": jax.vmap(task.loss)(outputs[version], target), "accuracy": right}
        for name, value in parts.items():
            found[name] = found[name] + share * value if name in found else share * value
        if len(shares) > 1:
            found[f"accuracy_{version}"] = right
    return found


def masked_mean(values: Array, valid: Array) -> Array:
    """Mean of `[B]` values over the valid rows; the others contribute exactly zero, NaN or not."""
    total = jnp.sum(jnp.where(valid, values, 0))
    return total / jnp.maximum(jnp.sum(valid), 1).astype(total.dtype)
