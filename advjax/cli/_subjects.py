"""Which models are attacked by what: loaded once, compiled once per architecture and attack."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax import attacks, criteria, data, losses, models, threat, training
from advjax.cli._main import warn
from advjax.config import AttackConfig, DataConfig, EvaluateConfig, SweepConfig
from advjax.data import Dataset, Split
from advjax.engine import MakeAttack
from advjax.tasks import get_task, goal
from advjax.types import Attack, AttackSpec, Objective, PyTree

# the cascade is no attack of the table: it runs many
AUTOATTACK = "autoattack"
# nor are those that are trained first, by what `cli._trained` finds
TRAINED = ("uap", "gap")


class Subject(NamedTuple):
    """One model under evaluation."""

    name: str
    architecture: Any  # hashable: what makes two models share one compiled program
    apply: Any
    variables: PyTree
    dataset: Dataset
    split: Split


class Job(NamedTuple):
    """One attack on one model."""

    subject: Subject
    attack: str  # label
    config: AttackConfig
    make_attack: MakeAttack
    spec: AttackSpec


def budget_of(job: Job, eps: float) -> str:
    """Say a budget as people do."""
    return f"{eps * 255:.3g}/255" if job.config.norm == "linf" else f"{eps:.3g}"


def judges_itself(job: Job) -> bool:
    """Whether an attack has its own word for broken, so that clean images are judged by it too."""
    return job.config.criterion is not None or job.config.goal is not None


def load_subjects(config: EvaluateConfig | SweepConfig) -> list[Subject]:
    """Load models and their data, each once.

    Raises:
      FileNotFoundError: a run has no checkpoint, or its data is gone.
      ValueError: a split that the data does not have, data of another shape or other classes than
        a run was trained on, or runs that cannot be compared.
    """
    sources: dict[DataConfig, Dataset] = {}
    hashes: dict[DataConfig, str] = {}
    applies: dict[Any, Any] = {}
    subjects = []
    names = [Path(run).name for run in config.runs]
    for folder, name in zip(config.runs, names, strict=True):
        model, variables, trained, info = training.restore_model(folder, config.checkpoint)
        if trained.data not in sources:
            sources[trained.data] = data.load(trained.data)
            hashes[trained.data] = data.fingerprint(sources[trained.data])
        dataset = sources[trained.data]
        _check_data(folder, info, dataset, hashes[trained.data])
        split = choose_split(config, dataset)
        architecture = (trained.model, info["num_classes"], tuple(info["image_shape"]))
        apply = applies.setdefault(architecture, model.apply)
        label = name if names.count(name) == 1 else str(folder)
        subjects.append(Subject(label, architecture, apply, variables, dataset, split))
    if len({s.dataset.task for s in subjects}) > 1:
        raise ValueError("runs: models of several tasks need an evaluation each")
    _check_names(config, subjects)
    return subjects


def choose_split(config: EvaluateConfig | SweepConfig, dataset: Dataset) -> Split:
    """Return the images that are attacked.

    Raises:
      ValueError: the data has no such split.
    """
    if config.split not in dataset.splits:
        known = ", ".join(dataset.splits)
        raise ValueError(f"split {config.split!r} is not in {dataset.name}; it has {known}")
    split = dataset.splits[config.split]
    if config.num_examples is not None:
        # at random: many sources are sorted by class
        order = np.random.default_rng(config.seed).permutation(len(split))
        split = split.select(np.sort(order[: config.num_examples]))
    return split


def _check_data(folder: str, info: dict[str, Any], dataset: Dataset, found: str) -> None:
    """Compare what a run was trained on with what its source holds now."""
    told = (
        ("image_shape", "images of shape", tuple(dataset.image_shape)),
        ("task", "the task", dataset.task),
        ("num_classes", "the number of classes", dataset.num_classes),
    )
    for name, words, now in told:
        then = tuple(info[name]) if name == "image_shape" else info[name]
        if then != now:
            raise ValueError(
                f"{folder}: was trained with {words} {then}, but {dataset.name} now has {now}; "
                "restore the data, or train again in a new folder"
            )
    if info.get("fingerprint") not in (None, found):
        warn(
            f"{folder}: {dataset.name} is not what the model was trained on (the hash of images "
            "and labels differs): test images may be among its training images"
        )


def _check_names(config: EvaluateConfig | SweepConfig, subjects: list[Subject]) -> None:
    """Refuse two sets of images under one name: rows know their data by the name only."""
    seen: dict[str, tuple[str, Split]] = {}
    for run, subject in zip(config.runs, subjects, strict=True):
        first, split = seen.setdefault(subject.dataset.name, (run, subject.split))
        same = all(
            np.array_equal(getattr(split, part), getattr(subject.split, part))
            for part in ("ids", "images", "targets")
        )
        if not same:
            raise ValueError(
                f"runs: {first} and {run} name the same source, {subject.dataset.name}, with other "
                "settings (size, number or seed of the images, positive); give them an evaluation "
                "each"
            )


def plan(config: EvaluateConfig | SweepConfig, subjects: list[Subject]) -> list[Job]:
    """Return every (model, attack), one compiled program per (architecture, attack)."""
    made: dict[Any, MakeAttack] = {}
    jobs = []
    for subject in subjects:
        for text in config.attacks:
            wanted = AttackConfig.parse(text)
            _check_fits(wanted, subject)
            names = subject.dataset.class_names
            key = (subject.architecture, subject.dataset.task, wanted, names)
            if key not in made:
                made[key] = attack_factory(
                    subject.apply, subject.dataset.task, wanted, config.gradient_dtype, names
                )
            spec = made[key](subject.variables).spec
            whole = wanted.name == AUTOATTACK
            steps = None if whole or spec.num_steps == 1 else spec.num_steps
            label = dataclasses.replace(wanted, num_steps=steps).label()
            if wanted.name == "universal":
                # the control of those that are trained
                label += "-random"
            jobs.append(Job(subject, label, wanted, made[key], spec))
    labels = [(job.subject.name, job.attack) for job in jobs]
    if len(set(labels)) < len(labels):
        raise ValueError(f"attacks: the same attack is named twice in {', '.join(config.attacks)}")
    return jobs


def _check_fits(wanted: AttackConfig, subject: Subject) -> None:
    """Refuse an attack that compares logits which a model does not have.

    Raises:
      ValueError: naming attacks that fit.
    """
    task, name = subject.dataset.task, wanted.name
    if name == AUTOATTACK and task != "single":
        what = {"multi": "several findings an image", "segmentation": "a mask"}.get(task, "boxes")
        raise ValueError(
            f"attacks: autoattack compares the logits of classes; {subject.name} has {what}: use "
            "pgd or apgd"
        )
    why = attacks.misfit(name, task)
    if why:
        raise ValueError(f"attacks: {name} {why} ({subject.name} has {task} data)")
    if task == "detection" and name in TRAINED:
        raise ValueError(f"attacks: {name} is not trained against boxes; use pgd, smia or dag")
    if task == "segmentation" and name == "uap" and wanted.version != "sign":
        raise ValueError(
            f"attacks: DeepFool looks for other classes of an image, and {subject.name} has masks; "
            "use uap:version=sign or gap"
        )
    if name in TRAINED and len(subject.dataset.splits.get("train", ())) < 2:
        raise ValueError(
            f"attacks: {name} is trained on images of the split train, of which "
            f"{subject.dataset.name} has none: use universal, or data with that split"
        )


def precision_of(config: EvaluateConfig | SweepConfig) -> dict[str, str]:
    """Return what the precision of the gradients adds to the identity of a store.

    Nothing for the default, so that stores of versions without the choice go on.
    """
    plain = config.gradient_dtype == "float32"
    return {} if plain else {"gradient_dtype": config.gradient_dtype}


def attack_factory(
    apply: Any,
    task: str,
    config: AttackConfig,
    gradient_dtype: str = "float32",
    names: Sequence[str] = (),
) -> MakeAttack:
    """Return `variables -> Attack` for a task; keep the callable, it is the key of its program.

    Raises:
      ValueError: the task has no such loss, criterion or goal, or no such class.
    """
    if config.name in TRAINED:
        # what judges its images, at its price; and its control, until it is trained
        config = dataclasses.replace(config, name="universal", step_size=None)
    # of a cascade, what judges its images and those before any attack
    name = "pgd" if config.name == AUTOATTACK else config.name
    about = get_task(task)
    loss = _chosen("loss", config.loss, about.loss, about.losses)
    if task == "single" and name in ("simba", "square") and config.loss is None:
        # as published; the margin does not saturate where a search has nothing else to go by
        loss = losses.cw_margin
    criterion = _chosen("criterion", config.criterion, about.criterion, about.criteria)
    aim: dict[str, Any] = {"loss": loss, "criterion": criterion}
    inner, wanted = aim, None
    if config.goal is not None:
        if config.criterion is not None:
            raise ValueError("goal: says what counts as reached; leave criterion out")
        if name in ("fab", "deepfool"):
            raise ValueError(f"goal: {name} leads away from a label only; use ddn, fmn or cw_l2")
        wanted = goal(about, config.goal, names)
        # margins, pixels and boxes of an attack are those of what it wants
        inner = {"loss": loss, "targeted": True}
        aim = {
            "loss": lambda output, target: loss(output, wanted(target)),
            "criterion": lambda output, target: criteria.targeted_default(output, wanted(target)),
            "targeted": True,
        }
    ball = threat.by_name(config.norm)
    low = None if gradient_dtype == "float32" else models.in_precision(apply, gradient_dtype)

    def make_attack(variables: PyTree) -> Attack:
        def objective_of(aim: dict[str, Any]) -> Objective:
            return attacks.from_logits(
                lambda x: apply(variables, x),
                **aim,
                gradient_fn=None if low is None else lambda x: low(variables, x),
            )

        attack = attacks.by_name(
            name, objective_of(inner), ball, num_steps=config.num_steps, step_size=config.step_size
        )
        if wanted is None:
            return attack
        return attacks.with_view(attack, jax.vmap(wanted), objective_of(aim))

    return make_attack


def _chosen(what: str, name: str | None, default: Any, known: Mapping[str, Any]) -> Any:
    """Return what an attack names of the table of its task."""
    if name is None:
        return default
    if name not in known:
        raise ValueError(f"{what}: unknown {name!r} for this data; use {', '.join(known)}")
    return known[name]
