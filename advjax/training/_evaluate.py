"""Outputs of a model over a split, clean and attacked, and the scores that selection uses."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, data, threat
from advjax.config import AttackConfig
from advjax.data import Split
from advjax.models import Model
from advjax.random import example_keys
from advjax.tasks import get_task
from advjax.types import Array, Batch

Place = Callable[[Batch], Batch]
Tick = Callable[[], None]


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _no_tick() -> None:
    pass


@functools.lru_cache(maxsize=16)
def _forward(apply: Callable[..., Array]) -> Callable[..., Array]:
    """Jit the evaluation mode of a model once, however often it is asked for."""
    return jax.jit(lambda variables, images: apply(variables, images))


@functools.lru_cache(maxsize=16)
def _attack(
    apply: Callable[..., Array], config: AttackConfig, norm: str, task: str
) -> Callable[..., Array]:
    """Jit `(variables, batch, key, eps) -> x_adv [B, H, W, C]`; eps is traced."""
    ball, about = threat.by_name(norm), get_task(task)
    # scores of findings and masks fall on after the first decision is broken
    stop = "success" if task == "single" else "budget"

    def attacked(variables: Any, batch: Batch, key: Array, eps: Array) -> Array:
        objective = attacks.from_logits(
            lambda x: apply(variables, x), loss=about.loss, criterion=about.criterion
        )
        attack = attacks.by_name(
            config.name, objective, ball, num_steps=config.num_steps, step_size=config.step_size
        )
        keys = example_keys(key, batch.id, attack_id=config.name)
        return attacks.run(attack, keys, batch.image, batch.target, eps, stop=stop).x_adv

    return jax.jit(attacked)


def predict(
    model: Model,
    variables: Any,
    split: Split,
    batch_size: int = 128,
    *,
    place: Place = _as_it_is,
    tick: Tick = _no_tick,
) -> np.ndarray:
    """Return the logits of every example of a split, in its order.

    Args:
      model: in evaluation mode; jitted once per model and shape.
      variables: of the model.
      split: of a `data.Dataset`.
      batch_size: rows per call; the last batch is padded.
      place: puts a batch on its devices.
      tick: called after each batch, for a progress bar.

    Returns:
      `[N, C]` float32 logits (softmax or sigmoid makes them probabilities).

    Raises:
      ValueError: the split is empty.
    """
    apply = _forward(model.apply)
    return _over(lambda b: apply(variables, b.image), split, batch_size, place, tick)


def predict_attacked(
    model: Model,
    variables: Any,
    split: Split,
    attack: AttackConfig,
    eps: float,
    *,
    task: str,
    norm: str = "linf",
    batch_size: int = 128,
    seed: int = 0,
    place: Place = _as_it_is,
    tick: Tick = _no_tick,
) -> np.ndarray:
    """Attack every example of a split and return the logits of the attacked images.

    Args:
      model: in evaluation mode.
      variables: of the model.
      split: of a `data.Dataset`.
      attack: its name and numbers; of single labels it stops a row at its first success.
      eps: budget in [0, 1] pixel units; traced.
      task: name of the task.
      norm: `"linf"` or `"l2"`.
      batch_size: rows attacked at once.
      seed: of the random starts, which also depend on the ids of the examples.
      place: puts a batch on its devices.
      tick: called after each batch.

    Returns:
      `[N, C]` float32 logits.

    Raises:
      ValueError: the split is empty, the attack or one of its options is unknown.
    """
    apply, attacked = _forward(model.apply), _attack(model.apply, attack, norm, task)
    key, budget = jax.random.key(seed), jnp.float32(eps)

    def outputs(batch: Batch) -> Array:
        return apply(variables, attacked(variables, batch, key, budget))

    return _over(outputs, split, batch_size, place, tick)


def _over(
    function: Callable[[Batch], Array], split: Split, batch_size: int, place: Place, tick: Tick
) -> np.ndarray:
    rows = []
    for batch in data.batches(split, batch_size, seed=0, epoch=0, shuffle=False):
        out = np.asarray(function(place(batch)), np.float32)
        rows.append(out[np.asarray(batch.valid)])
        tick()
    if not rows:
        raise ValueError("the split is empty: there is nothing to predict")
    return np.concatenate(rows)


def readouts(
    model: Model,
    variables: Any,
    split: Split,
    task: str,
    batch_size: int = 128,
    *,
    place: Place = _as_it_is,
    tick: Tick = _no_tick,
) -> np.ndarray:
    """Return what `scores` needs of the outputs of every example of a split, `[N, ...]`.

    Args: as `predict`; `task` is the name of the task.
    """
    apply, read = _forward(model.apply), _read(task)
    return _over(
        lambda b: read(apply(variables, b.image), b.target), split, batch_size, place, tick
    )


def attacked_readouts(
    model: Model,
    variables: Any,
    split: Split,
    attack: AttackConfig,
    eps: float,
    *,
    task: str,
    batch_size: int = 128,
    seed: int = 0,
    place: Place = _as_it_is,
    tick: Tick = _no_tick,
) -> np.ndarray:
    """Return what `scores` needs of the outputs of attacked images, `[N, ...]`.

    Args: as `predict_attacked`; the norm is that of `attack`.
    """
    apply, attacked = _forward(model.apply), _attack(model.apply, attack, attack.norm, task)
    read, key, budget = _read(task), jax.random.key(seed), jnp.float32(eps)

    def outputs(batch: Batch) -> Array:
        return read(apply(variables, attacked(variables, batch, key, budget)), batch.target)

    return _over(outputs, split, batch_size, place, tick)


@functools.lru_cache(maxsize=8)
def _read(task: str) -> Callable[[Array, Array], Array]:
    return jax.jit(jax.vmap(get_task(task).readout))


def scores(outputs: np.ndarray, targets: np.ndarray, task: str) -> dict[str, float]:
    """Score outputs.

    Args:
      outputs: `[N, C]` logits, or for segmentation and detection what `readouts` gives.
      targets: `[N]` labels, `[N, K]` multi-hot, `[N, H, W]` masks or `[N, M, 5]` boxes.
      task: `"single"`: accuracy and balanced accuracy; `"multi"`: mean AUROC (labels without a
        positive or a negative are left out of the mean) and accuracy over labels;
        `"segmentation"`: Dice and IoU, means over images of the mean over classes, and accuracy
        over pixels; `"detection"`: mean average precision over classes and recall over images.
    """
    return get_task(task).scores(outputs, targets)


def robust_scores(
    clean: np.ndarray, attacked: np.ndarray, targets: np.ndarray, task: str
) -> dict[str, float]:
    """Score attacked outputs; of single labels, one that is wrong when clean counts as broken.

    Args:
      clean: outputs of the clean images, as for `scores`.
      attacked: those of the attacked images.
      targets: as for `scores`.
      task: as for `scores`; but for `"single"` the attacked outputs are scored as they are.
    """
    if task != "single":
        return scores(attacked, targets, task)
    wrong = clean.argmax(-1) != targets
    return scores(np.where(wrong[:, None], clean, attacked), targets, task)
