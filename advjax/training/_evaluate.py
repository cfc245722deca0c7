"""Outputs of a model over a split, clean and attacked, and the scores that selection uses."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, data, metrics, threat
from advjax.config import AttackConfig
from advjax.data import Split
from advjax.models import Model
from advjax.random import example_keys
from advjax.training.methods import get_task
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
    ball = {"linf": threat.linf, "l2": threat.l2}[norm]()
    loss = get_task(task).loss

    def attacked(variables: Any, batch: Batch, key: Array, eps: Array) -> Array:
        objective = attacks.from_logits(lambda x: apply(variables, x), loss=loss)
        attack = attacks.by_name(
            config.name, objective, ball, num_steps=config.num_steps, step_size=config.step_size
        )
        keys = example_keys(key, batch.id, attack_id=config.name)
        return attacks.run(attack, keys, batch.image, batch.target, eps).x_adv

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
      attack: its name and numbers; it stops a row at its first success.
      eps: budget in [0, 1] pixel units; traced.
      task: `"single"` or `"multi"`.
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


def scores(logits: np.ndarray, targets: np.ndarray, task: str) -> dict[str, float]:
    """Score outputs.

    Args:
      logits: `[N, C]`.
      targets: `[N]` labels or `[N, K]` multi-hot.
      task: `"single"`: accuracy and balanced accuracy; `"multi"`: mean AUROC (labels without a
        positive or a negative are left out of the mean) and accuracy over labels.
    """
    if task == "single":
        prediction = logits.argmax(-1)
        count = logits.shape[-1]
        balanced = metrics.balanced_accuracy(prediction, targets, num_classes=count)
        return {
            "accuracy": metrics.accuracy(prediction, targets),
            "balanced_accuracy": float(balanced.mean),
        }
    area = metrics.auroc(logits, targets)
    return {
        "auroc": float(area.mean),
        "accuracy": metrics.label_accuracy((logits > 0).astype(np.int64), targets),
    }


def robust_scores(
    clean: np.ndarray, attacked: np.ndarray, targets: np.ndarray, task: str
) -> dict[str, float]:
    """Score attacked outputs, an example that is wrong when clean counting as broken.

    Args:
      clean: `[N, C]` logits of the clean images.
      attacked: `[N, C]` logits of the attacked images.
      targets: `[N]` labels or `[N, K]` multi-hot.
      task: as for `scores`; for `"multi"` the attacked outputs are scored as they are.
    """
    if task == "multi":
        return scores(attacked, targets, task)
    wrong = clean.argmax(-1) != targets
    return scores(np.where(wrong[:, None], clean, attacked), targets, task)
