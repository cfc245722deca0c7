"""What a training method is, and the one loss that the classification methods share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import attacks, criteria, losses
from advjax.random import example_keys, stable_id, typed
from advjax.types import Array, Attack, Batch, LossFn, Objective, PyTree, Target

CLEAN = "clean"
ATTACK_MODES = ("eval", "batch")
UPDATE_POLICIES = ("clean", "adversarial", "both")


class Aux(NamedTuple):
    """What a loss returns besides its value.

    Attributes:
      model_state: the collections after this step (running statistics).
      method_state: the method's state after this step.
      metrics: name -> `[B]`, one value per example (padding rows included; the step masks them).
    """

    model_state: PyTree
    method_state: PyTree
    metrics: dict[str, Array]


class Method(NamedTuple):
    """A training method: which loss the parameters descend.

    Attributes:
      name: for reports.
      init: `(params) -> method_state`, a pytree of arrays (may be empty).
      loss: `(apply, params, model_state, batch, key, method_state) -> (loss [], Aux)`; pure,
        differentiable in `params`. The loss is the mean over the valid rows of the batch.
        `key` is one key, or `[B]` keys, one per example.
    """

    name: str
    init: Callable[[PyTree], PyTree]
    loss: Callable[..., tuple[Array, Aux]]


class Task(NamedTuple):
    """What an output means.

    Attributes:
      name: `"single"` or `"multi"`.
      loss: of ONE example.
      accuracy: `(output, target) -> []` of ONE example: 1 or 0; multi-label: share of the known
        labels that are right.
    """

    name: str
    loss: LossFn
    accuracy: Callable[[Array, Array], Array]


class Inner(NamedTuple):
    """The attack inside a training method.

    Attributes:
      name: folded into the keys, so that two attacks do not share their starts.
      make: `(objective) -> Attack`; called inside the traced step.
      eps: budget in [0, 1] pixel units. It lives in the method's state under the name of the
        version, as an array, so that `vmap` over budgets needs no new trace.
      batch_norm: `"eval"`: attack the network as it is deployed (running statistics);
        `"batch"`: as it trains (statistics of the attacked batch).
    """

    name: str
    make: Callable[[Objective], Attack]
    eps: float
    batch_norm: str = "eval"


def _single_accuracy(logits: Array, label: Array) -> Array:
    return 1.0 - criteria.misclassified(logits, label).astype(jnp.float32)


def _multi_accuracy(logits: Array, labels: Array) -> Array:
    known = labels >= 0
    right = (logits > 0) == (labels > 0.5)
    return jnp.sum(right & known) / jnp.maximum(jnp.sum(known), 1).astype(jnp.float32)


_TASKS = {
    "single": Task("single", losses.cross_entropy, _single_accuracy),
    "multi": Task("multi", losses.binary_cross_entropy, _multi_accuracy),
}


def get_task(name: str) -> Task:
    """Return the task of a data set: `"single"` (one label) or `"multi"` (several findings).

    Raises:
      ValueError: another name.
    """
    if name not in _TASKS:
        raise ValueError(f"task: unknown {name!r}; training knows {', '.join(_TASKS)}")
    return _TASKS[name]


def perturb(
    inner: Inner,
    task: Task,
    apply: Callable[..., Any],
    variables: PyTree,
    batch: Batch,
    *,
    key: Array,
    eps: Array | float,
) -> Array:
    """Attack a training batch with parameters that receive no gradient.

    Args:
      inner: the attack and its batch-norm mode.
      task: its loss is what the attack ascends.
      apply: of the model.
      variables: of the model.
      batch: `[B, ...]`.
      key: one key (a row's own key is derived from its id) or `[B]` keys.
      eps: budget, traced.

    Returns:
      `[B, H, W, C]` images, the last iterate after every step (`stop="budget"`), as adversarial
      training has it since Madry et al. (2018).
    """
    frozen = jax.lax.stop_gradient(variables)

    def logits(x: Array) -> Array:
        if inner.batch_norm == "eval":
            return apply(frozen, x)
        return apply(frozen, x, train=True)[0]

    attack = inner.make(attacks.from_logits(logits, loss=task.loss))
    keys = rows_of(key, batch, inner.name)
    result = attacks.run(attack, keys, batch.image, batch.target, eps, stop="budget")
    return jax.lax.stop_gradient(result.x_adv)


def rows_of(key: Array, batch: Batch, name: str) -> Array:
    """Return `[B]` keys of an attack: from the ids of the examples, or folded from `[B]` keys."""
    key = typed(key)
    if key.ndim == 0:
        return example_keys(key, batch.id, attack_id=name)
    return jax.vmap(lambda k: jax.random.fold_in(k, stable_id(name)))(key)


def _dropout_key(key: Array) -> Array:
    """Return one key for the masks of the whole batch."""
    key = typed(key)
    return jax.random.fold_in(key if key.ndim == 0 else key[0], stable_id("dropout"))


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
      inners: version -> attack; `method_state[version]` is its eps.
      update: `"clean"`, `"adversarial"` or `"both"`; without an attack, clean images update.

    Raises:
      ValueError: an unknown policy, an impossible budget, or a weight for an unknown version.
    """
    _check(weights, inners, update)

    def init(params: PyTree) -> PyTree:
        del params
        return {n: jnp.asarray(inner.eps, jnp.float32) for n, inner in inners.items()}

    def loss(
        apply: Callable[..., Any],
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: Array,
        method_state: PyTree,
    ) -> tuple[Array, Aux]:
        variables = {"params": params, **model_state}
        versions = {CLEAN: batch.image}
        for n, inner in inners.items():
            eps = method_state[n]
            versions[n] = perturb(inner, task, apply, variables, batch, key=key, eps=eps)
        moving = {CLEAN: update != "adversarial" or not inners}
        moving |= dict.fromkeys(inners, update != CLEAN)
        rngs = {"dropout": _dropout_key(key)}
        state, outputs = dict(model_state), {}
        for version, images in versions.items():
            share = weights.get(version, 0.0)
            if share or moving[version]:
                used = params if share else jax.lax.stop_gradient(params)
                logits, new = apply({"params": used, **state}, images, train=True, rngs=rngs)
                state = state | new if moving[version] else state
                outputs[version] = share, logits
        metrics = _measure(task, outputs, batch.target)
        return masked_mean(metrics["loss"], batch.valid), Aux(state, method_state, metrics)

    return Method(name, init, loss)


def _check(weights: Mapping[str, float], inners: Mapping[str, Inner], update: str) -> None:
    """Check names and budgets."""
    unknown = sorted(set(weights) - {CLEAN, *inners})
    if unknown or not any(weights.values()):
        raise ValueError(
            f"weights: expected shares of {[CLEAN, *inners]}, got {dict(weights)}; "
            f"unknown: {unknown or 'none'}"
        )
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
        if not inner.eps > 0:
            raise ValueError(
                f"eps: must be positive for adversarial training, got {inner.eps}; "
                'use method="standard" to train without an attack'
            )


def _measure(
    task: Task, outputs: Mapping[str, tuple[float, Array]], target: Target
) -> dict[str, Array]:
    """Return loss and accuracy `[B]`, weighted over versions, and the accuracy of each of them."""
    found: dict[str, Array] = {}
    outputs = {version: pair for version, pair in outputs.items() if pair[0]}
    for version, (share, logits) in outputs.items():
        right = jax.vmap(task.accuracy)(logits, target)
        parts = {"loss": jax.vmap(task.loss)(logits, target), "accuracy": right}
        for name, value in parts.items():
            found[name] = found[name] + share * value if name in found else share * value
        if len(outputs) > 1:
            found[f"accuracy_{version}"] = right
    return found


def masked_mean(values: Array, valid: Array) -> Array:
    """Mean of `[B]` values over the valid rows; the others contribute exactly zero, NaN or not."""
    total = jnp.sum(jnp.where(valid, values, 0))
    return total / jnp.maximum(jnp.sum(valid), 1).astype(total.dtype)
