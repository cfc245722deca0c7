"""`advjax sweep`: models x attacks x budgets x seeds by the engine, row by row into the store."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from advjax import engine, store
from advjax import mesh as meshes
from advjax import report as reports
from advjax.cli import _runtime
from advjax.cli._about import extra_of
from advjax.cli._autoattack import is_autoattack, run_autoattack
from advjax.cli._cell import Cell, Clean
from advjax.cli._checks import check_sweep, shard_of
from advjax.cli._evaluate import hash_of, leaves_of
from advjax.cli._parse import parse
from advjax.cli._rows import clean_rows
from advjax.cli._subjects import Job, Subject, judges_itself, load_subjects, plan, precision_of
from advjax.config import SweepConfig
from advjax.engine import Progress, Tables
from advjax.store import Store, fingerprint

DESCRIPTION = """Find the smallest budget that breaks each image, for a grid of models and attacks.

The engine runs all images and budgets of an attack in one program, and computes only what decides:
OUT/rows/*.parquet gets one row per model, attack, image and budget as `advjax evaluate` writes
them (`evaluated` is false where a verdict follows from another), then curves and a report. Images
whose rows are stored are not attacked again, so that a killed sweep goes on with the same command.
Every image gets its verdict by itself: slots, devices and shards change nothing."""

# stored images that a sweep looks at once more where it was killed before it had its doubts
SEEN_AGAIN = 32


def sweep(argv: list[str]) -> None:
    """Run `advjax sweep`."""
    config = parse(SweepConfig, argv, command="sweep", description=DESCRIPTION)
    check_sweep(config)
    _runtime.prepare(config.devices)
    if config.distributed:
        meshes.join_processes()
        config = dataclasses.replace(
            config, shard=f"{jax.process_index()}/{jax.process_count()}", devices=0
        )
    part, parts = shard_of(config.shard)
    here = config.out if parts == 1 else str(Path(config.out) / f"shard-{part}-of-{parts}")
    subjects = [_share(subject, part, parts) for subject in load_subjects(config)]
    rows = _open(config, here, subjects)
    done = _run(config, rows, subjects, _mesh(config.devices))
    if config.distributed:
        meshes.wait_for_processes()
        if jax.process_index() > 0:
            return
    if parts > 1 and not config.distributed:
        print(
            f"{here}: shard {part} of {parts} is complete; all of them: advjax report {config.out}"
        )
        return
    _conclude(config, done)


def _conclude(config: SweepConfig, done: int) -> None:
    """Put shards together, make the report and print the summary."""
    merged = store.merge_shards(config.out)
    page = Path(config.out) / "report.html"
    if done or merged or not page.is_file():
        page = reports.build(config.out)
    else:
        print(f"{config.out}: nothing to do, all rows are stored")
    print(reports.summary_table(config.out))
    print(f"curves: {page.with_name('curves.png')}\nreport: {page}")


def _share(subject: Subject, part: int, parts: int) -> Subject:
    """Return the subject with the images of one shard."""
    if len(subject.split) < parts:
        raise ValueError(f"shard: {parts} shards of {len(subject.split)} images; use fewer")
    return subject._replace(split=subject.split.select(np.arange(part, len(subject.split), parts)))


def _mesh(devices: int) -> Any:
    if devices == 1:
        return None
    local = jax.local_devices()
    if devices > len(local):
        # says what is missing and how to get it
        return meshes.data_mesh(devices)
    chosen = local[: devices or len(local)]
    return jax.sharding.Mesh(np.array(chosen), (meshes.AXIS,)) if len(chosen) > 1 else None


def _open(config: SweepConfig, here: str, subjects: list[Subject]) -> Store:
    """Open the store; what the rows depend on is its identity."""
    weights = {s.name: fingerprint(leaves_of(s.variables)) for s in subjects}
    images = {s.dataset.name: hash_of(s.split) for s in subjects}
    parts = shard_of(config.shard)[1]
    settings = {
        name: getattr(config, name)
        for name in ("epsilons", "restarts", "order", "quantise", "split", "num_examples", "seed")
    }
    if config.warm_start:
        settings["warm_start"] = True
    identity = {
        "weights": weights,
        # each shard has images of its own; the sweep is the same
        "data": images if parts == 1 else dict.fromkeys(images, parts),
        "settings": settings | {"command": "sweep"} | precision_of(config),
    }
    store.check_shards(config.out, parts, identity)
    rows = Store(here, identity=identity)
    jobs = plan(config, subjects)
    rows.write_manifest(
        config=config,
        inputs={**weights, **images},
        extra=extra_of(
            subjects, jobs,
            {_label(job, seed): job.config.norm for job in jobs for seed in config.seeds},
        ),
    )  # fmt: skip
    text = json.dumps({"config": dataclasses.asdict(config)}, indent=2) + "\n"
    store.write_atomic(Path(here) / "config.json", text.encode())
    return rows


def _label(job: Job, seed: int) -> str:
    return job.attack if seed == 0 else f"{job.attack}@{seed}"


def _run(config: SweepConfig, rows: Store, subjects: list[Subject], mesh: Any) -> int:
    """Sweep every cell of the grid that is not stored; return how many that was."""
    jobs = plan(config, subjects)
    cells = [(job, seed) for job in jobs for seed in config.seeds]
    clean: dict[str, Clean] = {}
    swept = number = 0
    for group in _groups(config, cells):
        wanted = []
        for job, seed in group:
            subject = job.subject
            if subject.name not in clean:
                clean[subject.name] = _clean(config, rows, job)
            if is_autoattack(job):
                key = jax.random.key(seed)
                swept += run_autoattack(config, rows, job, _label(job, seed), key, mesh)
                continue
            before = clean[subject.name]
            if judges_itself(job):
                # the engine says which images count as broken before the attack
                before = before._replace(wrong=np.zeros_like(before.wrong))
            cell = Cell(rows, job, _label(job, seed), config, before)
            if len(cell.missing()) or not cell.concluded():
                wanted.append(cell)
        number += len(group)
        if wanted:
            swept += len(wanted)
            names = " ".join(cell.job.subject.name for cell in wanted)
            title = f"[{number}/{len(cells)}] {names} {wanted[0].label}"
            _sweep_cells(config, wanted, jax.random.key(group[0][1]), mesh, title)
    return swept


def _groups(config: SweepConfig, cells: list[tuple[Job, int]]) -> list[list[tuple[Job, int]]]:
    """Put together what is swept at once: one attack and seed on models of one architecture."""
    together = config.stack != "off"
    if config.stack == "auto":
        # on a CPU models run one after the other in any case; apart, they are stored one by one
        together = jax.default_backend() != "cpu"
    groups: dict[Any, list[tuple[Job, int]]] = {}
    for index, (job, seed) in enumerate(cells):
        key = (job.make_attack, job.subject.dataset.name, seed) if together else index
        groups.setdefault(key, []).append((job, seed))
    return [
        group[i : i + config.stack_size]
        for group in groups.values()
        for i in range(0, len(group), config.stack_size)
    ]


def _clean(config: SweepConfig, rows: Store, job: Job) -> Clean:
    """Evaluate the images unattacked; store that once."""
    columns = clean_rows(job, jax.random.key(config.seed), config)
    subject = job.subject
    stored = rows.num_rows(model=subject.name, data=subject.dataset.name, attack="none")
    if stored < len(subject.split):
        # named by its images, since shards are put together
        first = int(np.asarray(subject.split.ids).min())
        rows.write(columns, f"{subject.name}/none/{first}-{len(subject.split)}")
    return Clean(*(columns[name] for name in ("wrong_when_clean", *Clean._fields[1:])))


def _sweep_cells(
    config: SweepConfig, cells: list[Cell], key: jax.Array, mesh: Any, title: str
) -> None:
    """Attack the images that lack rows, and store their rows as they are decided.

    A sweep that was killed on the way attacks some of the stored images again, so that doubts and
    panels are not about the few images that were left.
    """
    stack = config.stack if config.stack in ("vmap", "map") else None
    lacking = [cell.missing() for cell in cells]
    todo = np.unique(np.concatenate(lacking))
    if not all(cell.concluded() for cell in cells):
        last = len(cells[0].job.subject.split) - 1
        todo = np.union1d(todo, np.linspace(0, last, min(last + 1, SEEN_AGAIN)).astype(int))
    split, job = cells[0].job.subject.split.select(todo), cells[0].job
    started = time.monotonic()
    with tqdm(total=len(todo) * len(cells), unit="image", desc=title) as bar:

        def progress(at: Progress) -> None:
            seconds = max(time.monotonic() - started, 1e-9)
            share = at.rows_useful / max(at.rows_computed, 1)
            bar.set_postfix_str(f"{at.rows_computed / seconds:.0f} grad/s, {share:.0%} useful")
            bar.update(at.done - bar.n)

        def write(model: int, _: int, examples: np.ndarray, tables: Tables) -> None:
            # what another model lacks may be stored for this one
            new = np.isin(todo[examples], lacking[model])
            if new.any():
                rows = Tables(*(column[new] for column in tables))
                cells[model].write(todo[examples][new], rows)

        results = engine.sweep_models(
            job.make_attack, [cell.job.subject.variables for cell in cells],
            split.images, split.targets, stack=stack,
            epsilons=config.epsilons, key=key, restarts=config.restarts, slots=config.slots,
            order=config.order, warm_start=config.warm_start, mesh=mesh, ids=split.ids,
            quantise=config.quantise,
            memory_limit=config.memory_limit_mb * 2**20, diagnose=config.diagnose,
            take=lambda model, _, finished, rows: cells[model].take(finished, todo[rows]),
            done=write, progress=progress,
        )  # fmt: skip
    seconds = (time.monotonic() - started) / len(cells)
    for cell, result in zip(cells, results, strict=True):
        cell.conclude(result, seconds)
