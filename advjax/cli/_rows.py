"""From arrays to result rows and panels."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import boxes, engine, store
from advjax.cli._subjects import Job, Subject, judges_itself
from advjax.config import EvaluateConfig, SweepConfig
from advjax.engine import ReferenceRows
from advjax.tasks import get_task, told


def clean_rows(job: Job, key: jax.Array, config: EvaluateConfig | SweepConfig) -> dict[str, Any]:
    """Return the rows of the unattacked images."""
    split = job.subject.split
    output, _, loss = engine.evaluate_clean(
        job.make_attack, job.subject.variables, split.images, split.targets, key=key,
        ids=split.ids, batch_size=config.batch_size,
    )  # fmt: skip
    # a tie or an output that is not finite is no success of an attack, but no right answer either
    task = get_task(job.subject.dataset.task)
    output = jax.tree.map(jnp.asarray, output)
    wrong = ~np.asarray(jax.vmap(task.right)(output, jnp.asarray(split.targets)))
    return {
        **_common(job.subject, "none", 0.0, 0, output),
        "success": wrong, "wrong_when_clean": wrong, "loss": loss, "linf": 0.0, "l2": 0.0,
        "num_steps": 0, "num_grads": 0, "num_queries": 1, "status": 0,
    }  # fmt: skip


def wrong_of(
    job: Job, key: jax.Array, config: EvaluateConfig | SweepConfig, wrong: np.ndarray
) -> np.ndarray:
    """Return `[N]`, which images count as broken before the attack of a job.

    Args:
      job: an attack; one with a criterion or a goal of its own judges clean images by that.
      key: of the evaluation.
      config: of the evaluation.
      wrong: `[N]`, which images the model gets wrong.
    """
    if not judges_itself(job):
        return wrong
    split = job.subject.split
    return engine.evaluate_clean(
        job.make_attack, job.subject.variables, split.images, split.targets, key=key,
        ids=split.ids, batch_size=config.batch_size,
    )[1]  # fmt: skip


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


def _common(subject: Subject, attack: str, eps: float, restart: int, output: Any) -> dict[str, Any]:
    task, targets = get_task(subject.dataset.task), np.asarray(subject.split.targets)
    record, sure = told(task, output, targets)
    return {
        "model": subject.name, "data": subject.dataset.name, "attack": attack,
        "example_id": np.asarray(subject.split.ids), "eps": eps, "restart": restart,
        "evaluated": True, "confidence": sure, "probabilities": record,
        "target": task.label(targets, subject.dataset.num_classes),
    }  # fmt: skip


def write_panel(
    folder: str | Path,
    subject: Subject,
    attack: str,
    eps: float,
    chosen: np.ndarray,
    adversarial: np.ndarray,
) -> None:
    """Keep a few images to look at.

    Args:
      folder: of the evaluation.
      subject: the model and its images.
      attack: name; `eps`: its budget.
      chosen: `[k]` numbers of the images.
      adversarial: `[k, H, W, C]`.
    """
    split, dataset, task = subject.split, subject.dataset, get_task(subject.dataset.task)
    images, targets = pixels(split.images[chosen]), np.asarray(split.targets)[chosen]
    # a few forward passes more, so that nobody has to keep all outputs of a run
    outputs = [
        jax.jit(subject.apply)(subject.variables, jnp.asarray(x)) for x in (images, adversarial)
    ]
    said = [told(task, output, targets)[0] for output in outputs]
    drawn = {}
    for name, output in zip(("clean", "adv"), outputs, strict=True):
        if task.name == "segmentation":
            drawn[f"{name}_mask"] = np.asarray(output).argmax(-1)
        if task.name == "detection":
            drawn[f"{name}_boxes"] = _told_boxes(output)
    if task.name == "detection":
        drawn["true_boxes"], targets = targets, task.label(targets, dataset.num_classes)
    store.write_panel(
        folder, model=subject.name, attack=attack, eps=eps, clean=images, adv=adversarial,
        target=targets, clean_probabilities=said[0], adv_probabilities=said[1],
        example_id=np.asarray(split.ids)[chosen], class_names=dataset.class_names, **drawn,
    )  # fmt: skip


def _told_boxes(output: Any) -> np.ndarray:
    """Return the boxes that a detector tells of each image, as true boxes are, `[k, n, 5]`."""

    def one(maps: Any) -> Any:
        return boxes.as_targets(boxes.decode(maps), score=boxes.SCORE)

    return np.asarray(jax.jit(jax.vmap(one))(output))


def pixels(images: Any) -> np.ndarray:
    """Return images as float32 in [0, 1]."""
    images = np.asarray(images)
    return images / np.float32(255) if images.dtype == np.uint8 else images


def in_turn(targets: np.ndarray) -> np.ndarray:
    """Return `[N]`, how many examples of the same class come before each: to show all classes."""
    if targets.ndim > 2:
        return np.arange(len(targets))
    label = targets if targets.ndim == 1 else targets.argmax(1)
    return np.array([np.sum(label[:i] == label[i]) for i in range(len(label))])
