"""One update of the parameters as one pure function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax.models import Model
from advjax.training._state import TrainState, step_key, update_ema
from advjax.training.methods import Aux, Method
from advjax.types import Array, Batch, PyTree

Metrics = dict[str, Array]
Augment = Callable[[Array, Array], Array]
AugmentPair = Callable[[Array, Array, Any], tuple[Array, Any]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class _Parts(NamedTuple):
    """What is static about a step."""

    model: Model
    method: Method
    optimizer: optax.GradientTransformation
    axis_name: str | None
    augment: AugmentPair | None
    ema: float | None


def make_train_step(
    model: Model,
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
    augment: Augment | None = None,
    augment_pair: AugmentPair | None = None,
    ema: float | None = None,
) -> Step:
    """Make the training step. Pure; it does not jit itself.

        step = jax.jit(make_train_step(model, method, optimizer), donate_argnums=0)

    `vmap` it over states with a leading axis of runs (seeds, `set_learning_rate`), `pmap` it with
    `axis_name`, or jit it with `NamedSharding`, under which batch-norm is global by itself.

    Padding rows (`batch.valid` False) contribute exactly zero to loss, gradient and metrics,
    whatever they hold. They do take part in the statistics of batch-norm (as images of zeros):
    train on full batches where the model has batch-norm.

    Random numbers of a row (augmentation, start of the attack) come from seed, step and the id
    of its example, so that they do not depend on the layout of devices. Where an id appears
    twice in a batch, its second copy gets numbers of its own.

    A method with `replays` (free) updates so often with each batch; metrics are then sums over the
    replays too.

    Args:
      model: what is trained. For `pmap`, build it with the same `axis_name`.
      method: its loss.
      optimizer: from `build_optimizer`, or any optax transformation.
      axis_name: of the enclosing `pmap`; gradients and metrics are summed over it.
      augment: `(keys [B], images [B, H, W, C]) -> images`; or
      augment_pair: `(keys, images, target) -> (images, target)`, where targets move with their
        images, as masks do.
      ema: decay of the moving average; the state needs `ema=True`.

    Returns:
      `(state, batch) -> (state, metrics)`. Metrics are sums over the valid rows (`"loss"`,
      `"accuracy"`, ...), their number `"count"`, and `"grad_norm"` of this step.

    Raises:
      ValueError: `ema` is not in (0, 1), or there are two augmentations.
    """
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"ema: must be in (0, 1), got {ema}; None switches it off")
    if augment is not None and augment_pair is not None:
        raise ValueError("augment and augment_pair: give one of them")
    pair = augment_pair
    if augment is not None:
        pair = lambda keys, images, target: (augment(keys, images), target)

    parts = _Parts(model, method, optimizer, axis_name, pair, ema)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return _step(parts, state, batch)

    return step


def _step(parts: _Parts, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    batch = blank_padding(batch)
    keys = unique_keys(step_key(state), batch.id, parts.axis_name)
    if parts.augment is not None:
        image, target = parts.augment(_fold_each(keys, 1), batch.image, batch.target)
        batch = batch._replace(image=image, target=target)
    replays = parts.method.replays
    if replays == 1:
        new, metrics = _update(parts, state, batch, keys)
    else:

        def again(state: TrainState, number: Array) -> tuple[TrainState, Metrics]:
            return _update(parts, state, batch, _fold_each(keys, number + 2))

        new, each = jax.lax.scan(again, state, jnp.arange(replays))
        metrics = {name: jnp.sum(values) for name, values in each.items()}
        metrics["grad_norm"] = metrics["grad_norm"] / replays
    return new._replace(step=state.step + 1), metrics


def _update(
    parts: _Parts, state: TrainState, batch: Batch, keys: Array
) -> tuple[TrainState, Metrics]:
    model, method, optimizer, axis_name, _, decay = parts
    share = _share(batch.valid, axis_name)

    def objective(params: PyTree, method_state: PyTree) -> tuple[Array, Aux]:
        loss, aux = method.loss(model.apply, params, state.model_state, batch, keys, method_state)
        return loss * share, aux

    if method.learn is None:
        gradient, aux = jax.grad(objective, has_aux=True)(state.params, state.method_state)
    else:
        both = jax.grad(objective, argnums=(0, 1), has_aux=True)
        (gradient, slope), aux = both(state.params, state.method_state)
        aux = aux._replace(method_state=method.learn(aux.method_state, slope, batch))
    gradient = _total(gradient, axis_name)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.ema
    if decay is not None:
        average = update_ema(average, params, aux.model_state, state.step, decay)
    metrics = _total(_sums(aux.metrics, batch.valid), axis_name)
    metrics["grad_norm"] = optax.tree.norm(gradient)
    new = TrainState(
        params=params,
        model_state=aux.model_state,
        opt_state=opt_state,
        ema=average,
        method_state=aux.method_state,
        step=state.step,
        seed=state.seed,
    )
    return new, metrics


def _total(tree: PyTree, axis_name: str | None) -> PyTree:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _share(valid: Array, axis_name: str | None) -> Array:
    """Return this device's part of the valid rows; it turns its mean into its part of the mean.

    The loss is scaled before it is differentiated, not the gradient afterwards: synchronised
    batch-norm carries gradients of other devices' losses, which have other shares.
    """
    count = jnp.sum(valid).astype(jnp.float32)
    return count / jnp.maximum(_total(count, axis_name), 1)


def _sums(metrics: Metrics, valid: Array) -> Metrics:
    """Sum over the valid rows; the others contribute exactly zero."""
    sums = {name: jnp.sum(jnp.where(valid, v, 0)) for name, v in metrics.items()}
    return {**sums, "count": jnp.sum(valid).astype(jnp.float32)}


def _fold_each(keys: Array, number: Array | int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def blank_padding(batch: Batch) -> Batch:
    """Replace what padding rows hold by zeros, so that not even a NaN in them can spread."""
    valid = jnp.asarray(batch.valid)

    def blank(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        mask = valid.reshape(valid.shape + (1,) * (leaf.ndim - 1))
        return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))

    return Batch(
        image=blank(batch.image),
        target=jax.tree.map(blank, batch.target),
        id=jnp.asarray(batch.id),
        valid=valid,
    )


def unique_keys(key: Array, ids: Array, axis_name: str | None = None) -> Array:
    """Return `[B]` keys from ids; the n-th copy of an id in the (global) batch gets its own.

    Copies appear in class-balanced batches, where small classes are drawn with replacement.
    """
    position = jnp.arange(ids.shape[0])
    everyone = ids
    if axis_name is not None:
        everyone = jax.lax.all_gather(ids, axis_name, tiled=True)
        position = position + jax.lax.axis_index(axis_name) * ids.shape[0]
    earlier = jnp.arange(everyone.shape[0])[None, :] < position[:, None]
    copies = jnp.sum((ids[:, None] == everyone[None, :]) & earlier, axis=1)
    return jax.vmap(lambda i, n: jax.random.fold_in(jax.random.fold_in(key, i), n))(ids, copies)
