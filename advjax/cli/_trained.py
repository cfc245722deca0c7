"""`--attacks uap gap`: trained on the training split, once for each budget, kept, then applied."""

import functools
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from advjax import attacks, models, store, threat, training, tree
from advjax.cli._subjects import TRAINED, Job, budget_of
from advjax.config import EvaluateConfig
from advjax.data import Split
from advjax.engine import MakeAttack
from advjax.random import stable_id
from advjax.store import Store
from advjax.tasks import get_task, goal
from advjax.types import Array, Attack, Ball, PyTree

# as published: `delta` of Moosavi-Dezfooli et al. (2017) and of Hirano et al. (2021)
_UNFOOLED = {"deepfool": 0.2, "sign": 1e-6}
_PASSES = {"deepfool": 10, "sign": 15}
_SIGN_STEP = 0.03  # of eps: 0.0024 of 0.08, as Hirano et al. have it
_IMAGES = {"uap": 256, "gap": 512}
# with 2e-4 as published, hundreds of updates lead nowhere (see experiments/xu2021)
_RATE = 1e-3
_EPOCHS, _WIDTH, _BATCH = 10, 16, 16
# beside the rows: what was trained
FOLDER = "trained"

# how far a training is, in words
Say = Callable[[str], None]


def check_trained(config: EvaluateConfig, rows: Store, jobs: list[Job]) -> None:
    """Keep what the trainings go by, before anything is computed.

    Raises:
      ValueError: rows of one of them are stored that was trained on other images or otherwise.
    """
    kept = _kept(rows)
    for job in jobs:
        if job.config.name not in TRAINED:
            continue
        images = _images(config, job)
        version, epochs, step = _settings(job)
        settings = {
            "images": len(images), "version": version, "epochs": epochs, "step_size": step,
            "data": store.fingerprint([np.asarray(images.images), np.asarray(images.targets)]),
        }  # fmt: skip
        of_model = kept.setdefault(job.subject.name, {})
        if not of_model.setdefault(job.attack, {"made": {}})["made"]:
            of_model[job.attack]["settings"] = settings
        told = of_model[job.attack]["settings"]
        other = [name for name, value in settings.items() if told.get(name) != value]
        if other:
            raise ValueError(
                f"out: {rows.folder} holds rows of {job.attack} that was trained with other "
                f"{', '.join(other)}; choose another out folder"
            )
    if kept:
        rows.write_manifest(extra={"trained": kept})


def ready(
    config: EvaluateConfig, rows: Store, job: Job, eps: float, restart: int = 0
) -> tuple[MakeAttack, PyTree]:
    """Return what attacks the images of a job, and its argument; train it where it is trained.

    What was trained is a file in the folder of the rows, and is read from there the next time.

    Args:
      config: of the evaluation; its seed is that of the training.
      rows: gets what the training cost.
      job: any but a cascade.
      eps: the budget.
      restart: each is trained anew, from another start or in another order.

    Returns:
      `make_attack` and `params` for `engine.reference`.

    Raises:
      ValueError: the file of an earlier training is damaged.
    """
    subject = job.subject
    if job.config.name not in TRAINED:
        return job.make_attack, subject.variables
    make_attack, like = _applies(job)
    settings = _kept(rows)[subject.name][job.attack]["settings"]
    weights = store.fingerprint([np.asarray(v) for v in jax.tree.leaves(subject.variables)])
    file = store.file_name(
        f"{subject.name}/{job.attack}/{eps!r}/{restart}/{config.seed}/{weights}/{settings}"
    )
    path = rows.folder / FOLDER / f"{file}.npz"
    if not path.is_file():
        store.write_atomic(path, _packed(_train(config, rows, job, eps, restart)))
    return make_attack, {"model": subject.variables, "made": _read(path, like)}


def _train(config: EvaluateConfig, rows: Store, job: Job, eps: float, restart: int) -> PyTree:
    """Train, say what came of it, and note what it cost."""
    subject = job.subject
    title = f"{subject.name} {job.attack} {budget_of(job, eps)}"
    images, started = _images(config, job), time.monotonic()
    key = jax.random.fold_in(jax.random.key(config.seed), stable_id(job.config.name))
    key = jax.random.fold_in(key, restart)
    train = _train_uap if job.config.name == "uap" else _train_gap
    with tqdm(desc=title, bar_format="{desc}, training{postfix} [{elapsed}]", leave=False) as bar:
        bar.set_postfix_str("compiling")
        made, share = train(job, images, eps, key, bar.set_postfix_str)
    seconds = time.monotonic() - started
    kept = _kept(rows)
    kept[subject.name][job.attack]["made"][f"{eps!r}/{restart}"] = {
        "seconds": seconds, "reached": share,
    }  # fmt: skip
    rows.write_manifest(extra={"trained": kept})
    tqdm.write(
        f"{title}: trained on {len(images)} training images in {seconds:.1f} s, "
        f"goal reached there: {share:.1%}"
    )
    return made


def _applies(job: Job) -> tuple[MakeAttack, PyTree]:
    """Return what applies what a job has trained, and the shapes of that."""
    ball, shape = job.spec.ball, job.subject.dataset.image_shape
    if job.config.name == "uap":
        return _applied(job.make_attack, ball), {
            "perturbation": jax.ShapeDtypeStruct(shape, jnp.float32)
        }
    generator = _generator(shape[-1], job.config.width or _WIDTH)
    variables = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros((1, *shape)))
    make_attack = _generated(job.make_attack, ball, generator, _settings(job)[0] == "universal")
    return make_attack, {"seed": jax.ShapeDtypeStruct((), jnp.uint32), "generator": variables}


def _packed(made: PyTree) -> bytes:
    """Return an npz of the leaves, by their names."""
    leaves = jax.tree_util.tree_leaves_with_path(made)
    arrays = {tree.name_of(path): np.asarray(leaf) for path, leaf in leaves}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _read(path: Path, like: PyTree) -> PyTree:
    def leaf(at: Any, shape: jax.ShapeDtypeStruct) -> Array:
        name = tree.name_of(at)
        found = arrays[name]
        if found.shape != shape.shape or not np.isfinite(found).all():
            raise ValueError(f"{name} is no array of finite numbers of shape {shape.shape}")
        return jnp.asarray(found, shape.dtype)

    try:
        with np.load(path) as arrays:
            return jax.tree_util.tree_map_with_path(leaf, like)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove it, and it is trained again"
        ) from None


def _kept(rows: Store) -> dict[str, Any]:
    """Return what is stored of trainings: model -> attack -> settings, and what was made."""
    found = rows.manifest.get("extra", {}).get("trained", {})
    return {
        model: {name: {**told, "made": dict(told["made"])} for name, told in of_model.items()}
        for model, of_model in found.items()
    }


def _images(config: EvaluateConfig, job: Job) -> Split:
    """Return the training images of an attack, in random order."""
    split = job.subject.dataset.train
    order = np.random.default_rng(config.seed).permutation(len(split))
    return split.select(order[: job.config.images or _IMAGES[job.config.name]])


def _settings(job: Job) -> tuple[str, int, float]:
    """Return version, epochs and step size as given, or their defaults."""
    config = job.config
    if config.name == "gap":
        return config.version or "image", config.epochs or _EPOCHS, config.step_size or _RATE
    version = config.version or "deepfool"
    step = config.step_size or _SIGN_STEP if version == "sign" else 0.0
    return version, config.epochs or _PASSES[version], step


def _train_uap(job: Job, images: Split, eps: float, key: Array, say: Say) -> tuple[PyTree, float]:
    """Train a universal perturbation; return it, and the share fooled."""
    subject, ball = job.subject, job.spec.ball
    version, epochs, step = _settings(job)
    if version == "sign":
        # signs are of length 1 in the l-infinity norm; in others the step has the same share of eps
        ones = jnp.ones(subject.dataset.image_shape)
        step *= eps / float(ball.distance(ones, jnp.zeros_like(ones)))
    found = training.train_uap(
        _mover(job.make_attack, version), subject.variables, images.images, eps=eps, key=key,
        ball=ball, attack_eps=step if version == "sign" else None, delta=_UNFOOLED[version],
        max_passes=epochs, decide=_findings if subject.dataset.task == "multi" else None,
        progress=lambda done, rate: say(f"pass {done} of {epochs}, goal reached: {rate:.1%}"),
    )  # fmt: skip
    return {"perturbation": found.perturbation}, found.rate


def _train_gap(job: Job, images: Split, eps: float, key: Array, say: Say) -> tuple[PyTree, float]:
    """Train a generator; return its variables and seed, and the share of the goal.

    A fifth of the images chooses the epoch and is not trained on.
    """
    subject, config, ball = job.subject, job.config, job.spec.ball
    task = get_task(subject.dataset.task)
    version, epochs, rate = _settings(job)
    held = max(1, len(images) // 5)
    # any number below 2^31, the seed of a generator
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    generator = _generator(subject.dataset.image_shape[-1], config.width or _WIDTH)
    aim = training.flip_predictions if task.name == "multi" else training.least_likely
    if config.goal is not None:
        wanted = goal(task, config.goal, subject.dataset.class_names)
        aim = training.Goal(config.goal, lambda output, label: wanted(label), targeted=True)
    found = training.train_gap(
        generator, subject.apply, subject.variables, images.select(slice(held, None)),
        images.select(slice(held)), eps=eps, loss=task.losses.get(str(config.loss), task.loss),
        goal=aim, ball=ball, optimizer=optax.adam(rate), epochs=epochs, batch_size=_BATCH,
        batches_per_epoch=len(images), universal=version == "universal", seed=seed, stack="off",
        progress=lambda at: say(
            f"epoch {at['epoch']} of {epochs}, goal reached: {at['score'][0]:.1%}"
        ),
    )  # fmt: skip
    made = {"seed": np.uint32(seed), "generator": found.variables[0]}
    return made, float(found.scores[0])


def _findings(logits: Array) -> Array:
    return (logits > 0).astype(jnp.int32)


# what follows is kept, since it is the key of compiled programs


@functools.lru_cache(maxsize=16)
def _generator(channels: int, width: int) -> models.Model:
    return models.gap_unet(channels, width=width)


@functools.lru_cache(maxsize=64)
def _mover(judge: MakeAttack, version: str) -> MakeAttack:
    """Return what a universal perturbation is moved by, image after image."""

    def make_attack(variables: PyTree) -> Attack:
        objective = judge(variables).spec.objective
        if version == "sign":
            return attacks.fgsm(objective, threat.linf())
        return attacks.deepfool(objective, threat.l2(), num_steps=10, search_steps=0)

    return make_attack


@functools.lru_cache(maxsize=64)
def _applied(judge: MakeAttack, ball: Ball) -> MakeAttack:
    """Return what adds a perturbation that was trained, at the length of the budget.

    What training keeps may be shorter: it ends when enough is fooled, and its control is as long.
    """

    def make_attack(params: PyTree) -> Attack:
        objective = judge(params["model"]).spec.objective
        return attacks.universal(objective, ball, perturbation=params["made"]["perturbation"])

    return make_attack


@functools.lru_cache(maxsize=64)
def _generated(
    judge: MakeAttack, ball: Ball, generator: models.Model, universal: bool
) -> MakeAttack:
    """Return what adds the perturbations of a generator that was trained."""

    def make_attack(params: PyTree) -> Attack:
        made = params["made"]

        def generate(x: Array) -> Array:
            return training.generated(generator, made["generator"], x, universal, made["seed"])

        return attacks.gap(judge(params["model"]).spec.objective, ball, generate=generate)

    return make_attack
