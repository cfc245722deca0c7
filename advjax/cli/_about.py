"""What a report must know of an evaluation beside its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax import losses, report
from advjax.cli._main import warn
from advjax.cli._subjects import Job, Subject, judges_itself
from advjax.tasks import get_task, goal

_NOTHING = {
    "multi": "have no known finding",
    "segmentation": "have a mask of ignored pixels only",
    "detection": "have no box",
}


def extra_of(
    subjects: Sequence[Subject], jobs: Sequence[Job], norms: Mapping[str, str]
) -> dict[str, Any]:
    """Return what the manifest keeps; warn of images that nothing can break.

    Args:
      subjects: the models.
      jobs: attacks on them.
      norms: of the attacks, by label.
    """
    idle = _idle(jobs)
    for sentence in report.idle(idle):
        warn(sentence)
    return {
        "data": {
            s.dataset.name: {"class_names": list(s.dataset.class_names), "task": s.dataset.task}
            for s in subjects
        },
        "norms": dict(norms),
        "idle": idle,
        "own": {
            job.attack: f"goal {job.config.goal}" if job.config.goal else
            f"criterion {job.config.criterion}"
            for job in jobs if judges_itself(job)
        },
    }  # fmt: skip


def _idle(jobs: Sequence[Job]) -> list[tuple[str, str, int, int]]:
    """Return (whose, why, how many, of how many) images that nothing can break."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for job in jobs:
        dataset, split, wanted = job.subject.dataset, job.subject.split, job.config.goal
        if dataset.task not in _NOTHING:
            continue
        targets = np.asarray(split.targets)
        empty = _empty(dataset.task, targets)
        about = {(dataset.name, _NOTHING[dataset.task]): empty}
        if wanted is not None:
            aim = goal(get_task(dataset.task), wanted, dataset.class_names)
            aimless = _empty(dataset.task, np.asarray(jax.vmap(aim)(targets))) & ~empty
            whose = f"{job.attack} on {dataset.name}"
            about[whose, "have nothing that the goal could change"] = aimless
        for name, hit in about.items():
            if hit.any():
                found[name] = int(hit.sum()), len(hit)
    return [(*name, *counts) for name, counts in found.items()]


def _empty(task: str, targets: np.ndarray) -> np.ndarray:
    """Return which targets `[N, ...]` hold nothing that counts."""
    if task == "detection":
        counts = targets[..., 0] >= 0
    else:
        counts = targets >= 0 if task == "multi" else targets != losses.IGNORE
    return np.logical_not(counts.reshape(len(targets), -1).any(1))
