"""`advjax transfer`: images made for each model, judged by all: attacks without a look at it."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from advjax import engine, store
from advjax.cli import _runtime
from advjax.cli._about import extra_of
from advjax.cli._checks import check_evaluation
from advjax.cli._evaluate import add_cost, clean_of, hash_of, leaves_of, show, stored
from advjax.cli._parse import parse
from advjax.cli._rows import attacked_rows, clean_rows, wrong_of
from advjax.cli._subjects import AUTOATTACK, Job, Subject, load_subjects, plan, precision_of
from advjax.cli._trained import check_trained, ready
from advjax.config import AttackConfig, EvaluateConfig
from advjax.engine import ReferenceRows
from advjax.report import ARROW
from advjax.store import Store, fingerprint

DESCRIPTION = """Judge the adversarial images of each model by all the others (transfer, no-box).

Every run is attacked at every budget by brute force, and each of the other runs says what it makes
of those images. Writes the rows of `advjax evaluate`; those of images made for another model A
have the attack pgd-20<-A. The report has a matrix: who judges, under whose images. Rows that are
stored are not computed again."""


def transfer(argv: list[str]) -> None:
    """Run `advjax transfer`."""
    config = parse(EvaluateConfig, argv, command="transfer", description=DESCRIPTION)
    check_evaluation(config)
    _check(config)
    _runtime.prepare()
    subjects = load_subjects(config)
    _check_same_images(subjects)
    jobs = plan(config, subjects)
    rows = _open(config, subjects, jobs)
    print(f"report: {show(config.out, run(config, jobs, rows))}")


def _check(config: EvaluateConfig) -> None:
    if config.torch_weights is not None or len(config.runs) < 2:
        raise ValueError(
            "runs: images of one model are judged by others; name at least two runs, such as "
            "--runs runs/a runs/b"
        )
    if config.restarts != 1:
        raise ValueError(f"restarts: transfer makes one image each; got {config.restarts}")
    for text in config.attacks:
        if AttackConfig.parse(text).name == AUTOATTACK:
            raise ValueError("attacks: autoattack keeps no image for every budget; use pgd or apgd")


def _check_same_images(subjects: list[Subject]) -> None:
    names = {s.dataset.name for s in subjects}
    classes = {(s.dataset.task, tuple(s.dataset.class_names)) for s in subjects}
    if len(names) > 1 or len(classes) > 1:
        raise ValueError(
            f"runs: were trained on {', '.join(sorted(names))}; images can be judged by models of "
            "the same data and classes only"
        )


def _open(config: EvaluateConfig, subjects: list[Subject], jobs: list[Job]) -> Store:
    """Open the store; what the rows depend on is its identity."""
    weights = {s.name: fingerprint(leaves_of(s.variables)) for s in subjects}
    dataset = subjects[0].dataset
    images = {dataset.name: hash_of(subjects[0].split)}
    settings: dict[str, Any] = {
        "command": "transfer", "seed": config.seed, "split": config.split,
        "num_examples": config.num_examples, **precision_of(config),
    }  # fmt: skip
    rows = Store(config.out, identity={"weights": weights, "data": images, "settings": settings})
    norms = {job.attack: job.config.norm for job in jobs}
    norms |= {f"{job.attack}{ARROW}{job.subject.name}": job.config.norm for job in jobs}
    rows.write_manifest(
        config=config, inputs={**weights, **images}, extra=extra_of(subjects, jobs, norms)
    )
    text = json.dumps({"config": dataclasses.asdict(config)}, indent=2) + "\n"
    store.write_atomic(Path(config.out) / "config.json", text.encode())
    return rows


def run(config: EvaluateConfig, jobs: list[Job], rows: Store) -> int:
    """Make images for each model and let all judge them; return how many parts were computed."""
    check_trained(config, rows, jobs)
    key = jax.random.key(config.seed)
    subjects = {job.subject.name: job.subject for job in jobs}
    for subject in subjects.values():
        if not stored(rows, subject, "none", 0.0, 0):
            first = next(job for job in jobs if job.subject.name == subject.name)
            rows.write(clean_rows(first, key, config), f"{subject.name}/none")
    clean = {name: clean_of(rows, subject) for name, subject in subjects.items()}
    todo = [
        (job, eps, lacking)
        for job in jobs
        for eps in config.epsilons
        if (lacking := _lacking(rows, jobs, job, eps))
    ]
    wrong = {
        (job.subject.name, job.attack): wrong_of(job, key, config, clean[job.subject.name])
        for job in (jobs if todo else [])
    }
    for job, eps, lacking in tqdm(todo, unit="attack", desc="transfer", disable=not todo):
        subject = job.subject
        make_attack, params = ready(config, rows, job, eps)
        started = time.monotonic()
        made = engine.reference(
            make_attack, params, subject.split.images, subject.split.targets,
            eps, key=key, ids=subject.split.ids, batch_size=config.batch_size,
        )  # fmt: skip
        for judge in lacking:
            name = judge.subject.name
            found = made if name == subject.name else _judged(config, judge, made, key)
            columns = attacked_rows(judge, eps, 0, found, wrong[name, job.attack])
            rows.write(columns, f"{name}/{judge.attack}/{eps!r}/0")
        add_cost(rows, job, len(clean[subject.name]), time.monotonic() - started)
    return len(todo)


def _lacking(rows: Store, jobs: list[Job], maker: Job, eps: float) -> list[Job]:
    """Return who has still to judge the images of a job, each under the name of its rows."""
    judges = [maker] + [
        job._replace(attack=f"{maker.attack}{ARROW}{maker.subject.name}")
        for job in jobs
        if job.config == maker.config and job.subject.name != maker.subject.name
    ]
    return [job for job in judges if not stored(rows, job.subject, job.attack, eps, 0)]


def _judged(
    config: EvaluateConfig, judge: Job, made: ReferenceRows, key: jax.Array
) -> ReferenceRows:
    """Return what a model says of images that were made for another."""
    split, objective = judge.subject.split, judge.spec.objective
    output, _, loss = engine.evaluate_clean(
        judge.make_attack, judge.subject.variables, made.x_adv, split.targets, key=key,
        ids=split.ids, batch_size=config.batch_size,
    )  # fmt: skip
    targets = jnp.asarray(split.targets)
    output = jax.tree.map(jnp.asarray, output)
    success = np.asarray(jax.vmap(objective.criterion)(output, targets))
    nothing = np.zeros(len(success), np.int32)
    # no gradient of this model was asked for; it saw the image once
    return made._replace(
        output=output, success=success, unconfirmed=np.zeros_like(success), loss=loss,
        num_steps=nothing, num_grads=nothing, num_queries=nothing + 1,
        status=nothing.astype(np.int8),
    )  # fmt: skip
