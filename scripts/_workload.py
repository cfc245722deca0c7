"""One row of bench_engine: a trained run, its test images, and what a sweep of them costs.

Every function that measures is called in a process of its own, so that peak memory and compile
time are those of one row.
"""

import functools
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import _timing
import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, data, engine, losses, threat, training
from advjax.config import ModelConfig

# calls of a fast program are repeated, the median counts; slow ones average over themselves
REPEATS = 3
ENOUGH = 20.0
SEED = 0


class Task(NamedTuple):
    """What is measured: plain values, since they cross to another process."""

    folder: str
    examples: int
    epsilons: tuple[float, ...]
    steps: int
    step_size: float
    slots: int


class Loaded(NamedTuple):
    """A run of `advjax train` and the test images it is attacked on."""

    make_attack: Callable[[Any], Any]
    variables: Any
    config: ModelConfig
    num_classes: int
    images: np.ndarray
    targets: np.ndarray
    logits: np.ndarray
    right: np.ndarray


def load(task: Task) -> Loaded:
    """Restore the run and evaluate its first test images without an attack."""
    model, variables, config, info = training.restore_model(task.folder)
    split = data.load(config.data).test.select(slice(task.examples))

    def make_attack(params: Any) -> Any:
        objective = attacks.from_logits(lambda x: model.apply(params, x), loss=losses.cross_entropy)
        return attacks.pgd(objective, threat.linf(), num_steps=task.steps, step_size=task.step_size)

    logits, wrong, _ = engine.evaluate_clean(
        make_attack, variables, split.images, split.targets, key=jax.random.key(SEED)
    )
    return Loaded(
        make_attack, variables, config.model, info["num_classes"], split.images, split.targets,
        logits, ~wrong,
    )  # fmt: skip


def pixels(work: Loaded) -> np.ndarray:
    """Return the images as float32 in [0, 1]."""
    whole = work.images.dtype == np.uint8
    return work.images.astype(np.float32) / np.float32(255 if whole else 1)


def sweep_of(
    work: Loaded, task: Task, order: str, restarts: int = 1, **options: Any
) -> Callable[[Any], engine.SweepResult]:
    """Return the sweep of a task as a function of the labels."""
    return functools.partial(
        engine.sweep, work.make_attack, work.variables, work.images, epsilons=task.epsilons,
        key=jax.random.key(SEED), slots=task.slots, order=order, restarts=restarts, **options,
    )  # fmt: skip


def measure_order(task: Task, order: str, restarts: int = 1) -> dict[str, Any]:
    """Time `engine.sweep` in one order; compile time apart."""
    work = load(task)
    sweep = sweep_of(work, task, order, restarts)
    # labels that every image contradicts: the same program is compiled and has nothing to attack
    contradicted = (work.logits.argmax(-1) + 1) % work.num_classes
    compiling = _timing.once(lambda: sweep(contradicted.astype(work.targets.dtype)))
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH:
        start = time.perf_counter()
        result = sweep(work.targets)
        seconds.append(time.perf_counter() - start)
    return {
        "rows": result.rows_computed, "useful": result.rows_useful,
        "seconds": statistics.median(seconds), "calls": len(seconds), "compile s": compiling,
        **peak_memory(), "right": int(work.right.sum()), "budgets": str(len(task.epsilons)),
        "robust": result.robust_accuracy.tolist(), "min_eps": result.min_eps.tolist(),
    }  # fmt: skip


def measure_tick(task: Task, rounds: int) -> tuple[float, float, float]:
    """Return min, median and max of the cost of a tick over that of a bare jitted PGD step.

    A tick is a whole climb over the two smallest budgets, the host, the clean evaluation and the
    judgements included, divided by the batches that it computed; the probes of `trust`, whose
    rows are counted apart, are left out. The step is called from Python as many times on as many
    images; both take turns.
    """
    work = load(task)
    few = task._replace(epsilons=task.epsilons[:2])
    sweep = functools.partial(sweep_of(work, few, "ascending", diagnose=False), work.targets)
    slots = min(task.slots, len(work.images))
    ticks = max(round(sweep().rows_computed / slots), 1)
    step = _bare_step(work, task, slots)
    seconds = _timing.paired({"tick": sweep, "step": lambda: step(ticks)}, rounds)
    return _timing.median_ratio(seconds["tick"], seconds["step"])


def _bare_step(work: Loaded, task: Task, batch: int) -> Callable[[int], Any]:
    """Return a function that makes so many steps of PGD, as anybody would write them."""
    clean = jnp.asarray(pixels(work)[:batch])
    targets, eps = jnp.asarray(work.targets[:batch]), jnp.float32(task.epsilons[0])
    keys = jax.random.split(jax.random.key(0), batch)

    def total(variables: Any, x: jax.Array) -> jax.Array:
        logits = work.make_attack(variables).spec.objective.apply(x, keys)
        return jax.vmap(losses.cross_entropy)(logits, targets).sum()

    @jax.jit
    def step(variables: Any, x: jax.Array) -> jax.Array:
        moved = x + task.step_size * eps * jnp.sign(jax.grad(total, argnums=1)(variables, x))
        return jnp.clip(jnp.clip(moved, clean - eps, clean + eps), 0, 1)

    def program(times: int) -> jax.Array:
        x = clean
        for _ in range(times):
            x = step(work.variables, x)
        return jax.block_until_ready(x)

    return program


def peak_memory() -> dict[str, float | None]:
    """Return the largest memory of this process so far, and of its device where it tells."""
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    stats = jax.local_devices()[0].memory_stats() or {}
    device = stats.get("peak_bytes_in_use")
    return {
        "peak MiB": host / 2**20,
        "device MiB": None if device is None else device / 2**20,
    }
