"""From arrays to result rows and panels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import engine, metrics, store
from advjax.cli._subjects import Job, Subject
from advjax.config import EvaluateConfig, SweepConfig
from advjax.engine import ReferenceRows


def clean_rows(job: Job, key: jax.Array, config: EvaluateConfig | SweepConfig) -> dict[str, Any]:
    """Return the rows of the unattacked images."""
    split = job.subject.split
    output, _, loss = engine.evaluate_clean(
        job.make_attack, job.subject.variables, split.images, split.targets, key=key,
        ids=split.ids, batch_size=config.batch_size,
    )  # fmt: skip
    # a tie or an output that is not finite is no success of an attack, but no right answer either
    wrong = ~np.asarray(metrics.correct(jnp.asarray(output), jnp.asarray(split.targets)))
    return {
        **_common(job.subject, "none", 0.0, 0, output),
        "success": wrong, "wrong_when_clean": wrong, "loss": loss, "linf": 0.0, "l2": 0.0,
        "num_steps": 0, "num_grads": 0, "num_queries": 1, "status": 0,
    }  # fmt: skip


def attacked_rows(
    job: Job, eps: float, restart: int, result: ReferenceRows, wrong: np.ndarray
) -> dict[str, Any]:
    """Return the rows of one attack at one budget."""
    return {
        **_common(job.subject, job.attack, eps, restart, result.output),
        "success": result.success, "wrong_when_clean": wrong, "loss": result.loss,
        "linf": result.linf, "l2": result.l2, "num_steps": result.num_steps,
        "num_grads": result.num_grads, "num_queries": result.num_queries, "status": result.status,
    }  # fmt: skip


def _common(
    subject: Subject, attack: str, eps: float, restart: int, output: np.ndarray
) -> dict[str, Any]:
    probabilities = to_probabilities(output, subject.dataset.task)
    targets = np.asarray(subject.split.targets)
    single = subject.dataset.task == "single"
    return {
        "model": subject.name, "data": subject.dataset.name, "attack": attack,
        "example_id": np.asarray(subject.split.ids), "eps": eps, "restart": restart,
        "evaluated": True, "confidence": confidence(probabilities, single),
        "probabilities": probabilities,
        "target": targets[:, None] if single else targets,
    }  # fmt: skip


def confidence(probabilities: np.ndarray, single: bool) -> np.ndarray:
    """Return `[N]`, how sure a model is of its decisions."""
    if single:
        return probabilities.max(1)
    return np.maximum(probabilities, 1 - probabilities).mean(1)


def to_probabilities(output: np.ndarray, task: str) -> np.ndarray:
    """Return softmax or sigmoid of outputs `[N, C]`."""
    output = np.asarray(output, np.float32)
    return np.asarray(jax.nn.softmax(output) if task == "single" else jax.nn.sigmoid(output))


def write_panel(
    config: EvaluateConfig, job: Job, eps: float, result: ReferenceRows, clean: np.ndarray
) -> None:
    """Keep a few images, of different classes, to look at."""
    split, task = job.subject.split, job.subject.dataset.task
    targets = np.asarray(split.targets)
    label = targets if task == "single" else targets.argmax(1)
    turn = np.array([np.sum(label[:i] == label[i]) for i in range(len(label))])
    chosen = np.lexsort((np.arange(len(label)), turn))[: config.panels]
    images = np.asarray(split.images[chosen])
    store.write_panel(
        config.out, model=job.subject.name, attack=job.attack, eps=eps,
        clean=images / np.float32(255) if images.dtype == np.uint8 else images,
        adv=result.x_adv[chosen], target=targets[chosen], clean_probabilities=clean[chosen],
        adv_probabilities=to_probabilities(result.output[chosen], task),
        example_id=np.asarray(split.ids)[chosen],
        class_names=job.subject.dataset.class_names,
    )  # fmt: skip
