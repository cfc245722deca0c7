"""What the experiments share: a trained model with its images, and how numbers are written."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax import attacks, data, metrics, training
from advjax.data import Dataset
from advjax.models import Model
from advjax.tasks import Task, get_task
from advjax.types import Objective


class Subject(NamedTuple):
    """A trained model and the images that it is attacked on, `[N, H, W, C]` floats."""

    name: str
    model: Model
    variables: Any
    task: Task
    x: np.ndarray
    y: np.ndarray
    dataset: Dataset


def load(folder: str, examples: int) -> Subject:
    model, variables, config, _ = training.restore_model(folder, "best")
    dataset = data.load(config.data)
    split = dataset.test.select(np.arange(min(examples, len(dataset.test))))
    images = np.asarray(split.images)
    if images.dtype == np.uint8:
        images = images / np.float32(255)
    name, task = Path(folder).name, get_task(dataset.task)
    return Subject(name, model, variables, task, images, np.asarray(split.targets), dataset)


def objective_of(subject: Subject, variables: Any, **changes: Any) -> Objective:
    """Return what is attacked; `changes` replace the loss or the criterion of the task."""
    words = {"loss": subject.task.loss, "criterion": subject.task.criterion, **changes}
    return attacks.from_logits(lambda x: subject.model.apply(variables, x), **words)


def outputs_of(subject: Subject, x: Any, batch_size: int = 128) -> np.ndarray:
    """Return the logits of images, the last batch filled up so that there is one program."""
    apply, parts = jax.jit(subject.model.apply), []
    size = min(batch_size, len(x))
    for start in range(0, len(x), size):
        rows = np.minimum(np.arange(start, start + size), len(x) - 1)
        parts.append(np.asarray(apply(subject.variables, np.asarray(x)[rows])))
    return np.concatenate(parts)[: len(x)]


def number(text: str) -> float:
    """Read `2/255`, or a plain number."""
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def share(values: np.ndarray) -> str:
    """Write a mean over images with its interval, in percent."""
    found = metrics.bootstrap(
        functools.partial(metrics.weighted_mean, values.astype(float)[None]), len(values)
    )
    value, low, high = (100 * float(np.ravel(part)[0]) for part in found)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
