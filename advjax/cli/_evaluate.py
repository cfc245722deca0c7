"""`advjax evaluate`: models x attacks x budgets by brute force, row by row into the store."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from advjax import engine, store
from advjax import report as reports
from advjax.cli import _runtime
from advjax.cli._about import extra_of
from advjax.cli._autoattack import is_autoattack, run_autoattack
from advjax.cli._checks import check_evaluation
from advjax.cli._parse import parse
from advjax.cli._rows import attacked_rows, clean_rows, in_turn, write_panel, wrong_of
from advjax.cli._subjects import Job, Subject, budget_of, load_subjects, plan, precision_of
from advjax.cli._torch import torch_subject
from advjax.cli._trained import check_trained, ready
from advjax.config import EvaluateConfig
from advjax.data import Split
from advjax.store import Store, fingerprint
from advjax.types import PyTree

DESCRIPTION = """Attack trained models over many budgets, by brute force.

Every test image, every budget, every step. Writes OUT/rows/*.parquet (one row per model, attack,
image and budget), OUT/panels/, OUT/curves.png and OUT/report.html. Rows that are stored are not
computed again, so that a killed evaluation goes on with the same command.

In place of runs, --torch-weights FILE --model NAME --data SOURCE attacks a PyTorch checkpoint."""


def evaluate(argv: list[str]) -> None:
    """Run `advjax evaluate`."""
    config = parse(EvaluateConfig, argv, command="evaluate", description=DESCRIPTION)
    check_evaluation(config)
    _runtime.prepare()
    subjects = load_subjects(config) if config.torch_weights is None else [torch_subject(config)]
    jobs = plan(config, subjects)
    weights = {s.name: fingerprint(leaves_of(s.variables)) for s in subjects}
    images = {s.dataset.name: hash_of(s.split) for s in subjects}
    identity = {
        "weights": weights,
        "data": images,
        "settings": {
            "seed": config.seed, "split": config.split, "num_examples": config.num_examples,
            **precision_of(config),
        },
    }  # fmt: skip
    rows = Store(config.out, identity=identity)
    rows.write_manifest(
        config=config,
        inputs={**weights, **images},
        extra=extra_of(subjects, jobs, {job.attack: job.config.norm for job in jobs}),
    )
    text = json.dumps({"config": dataclasses.asdict(config)}, indent=2) + "\n"
    store.write_atomic(Path(config.out) / "config.json", text.encode())
    page = show(config.out, run(config, jobs, rows))
    print(f"curves: {page.with_name('curves.png')}\nreport: {page}")


def show(out: str, done: int) -> Path:
    """Make the report where parts were computed, print its summary, return the page."""
    page = Path(out) / "report.html"
    if done or not page.is_file():
        page = reports.build(out)
    else:
        print(f"{out}: nothing to do, all rows are stored")
    print(reports.summary_table(out))
    return page


def run(config: EvaluateConfig, jobs: list[Job], rows: Store) -> int:
    """Compute what is not stored yet and return how many parts that was."""
    check_trained(config, rows, jobs)
    todo = [
        (job, eps, restart)
        for job in jobs
        if not is_autoattack(job)
        for restart in range(config.restarts)
        for eps in config.epsilons
        if not stored(rows, job.subject, job.attack, eps, restart)
    ]
    total = sum(len(job.subject.split.images) * job.spec.num_steps for job, _, _ in todo)
    key = jax.random.key(config.seed)
    bar = tqdm(total=total, unit="grad", unit_scale=True, desc="attack", disable=not todo)
    for subject in {job.subject.name: job.subject for job in jobs}.values():
        if not stored(rows, subject, "none", 0.0, 0):
            first = next(job for job in jobs if job.subject.name == subject.name)
            rows.write(clean_rows(first, key, config), f"{subject.name}/none")
    clean: dict[tuple[str, str], np.ndarray] = {}
    shown = config.epsilons[len(config.epsilons) // 2]
    with bar:
        for job, eps, restart in todo:
            subject = job.subject
            named = subject.name, job.attack
            if named not in clean:
                clean[named] = wrong_of(job, key, config, clean_of(rows, subject))
            wrong = clean[named]
            title = f"{subject.name} {job.attack} {budget_of(job, eps)}"
            bar.set_postfix_str(title, refresh=False)
            make_attack, params = ready(config, rows, job, eps, restart)
            started = time.monotonic()
            result = engine.reference(
                make_attack, params, subject.split.images, subject.split.targets,
                eps, key=key, ids=subject.split.ids, restart=restart,
                batch_size=config.batch_size,
                progress=_ticker(bar, job.spec.num_steps),
            )  # fmt: skip
            columns = attacked_rows(job, eps, restart, result, wrong)
            # before the rows: what has rows is never computed again
            if restart == 0 and eps == shown and config.panels > 0:
                targets = np.asarray(subject.split.targets)
                chosen = np.argsort(in_turn(targets), kind="stable")[: config.panels]
                write_panel(config.out, subject, job.attack, eps, chosen, result.x_adv[chosen])
            rows.write(columns, f"{subject.name}/{job.attack}/{eps!r}/{restart}")
            add_cost(rows, job, len(wrong), time.monotonic() - started)
    cascades = [
        run_autoattack(config, rows, job, job.attack, key) for job in jobs if is_autoattack(job)
    ]
    return len(todo) + sum(cascades)


def _ticker(bar: tqdm, num_steps: int) -> Callable[[int], None]:
    """Advance the bar by gradient rows as examples are done."""

    def tick(num_examples: int) -> None:
        bar.update(num_examples * num_steps)

    return tick


def stored(rows: Store, subject: Subject, attack: str, eps: float, restart: int) -> bool:
    """Whether every image of a subject has its row."""
    count = rows.num_rows(
        model=subject.name, data=subject.dataset.name, attack=attack, eps=eps, restart=restart
    )
    return count >= len(subject.split.images)


def clean_of(rows: Store, subject: Subject) -> np.ndarray:
    """Return `[N]`, which images are wrong when clean, as stored."""
    name, data = subject.name, subject.dataset.name
    return rows.read(["wrong_when_clean"], model=name, data=data, attack="none")["wrong_when_clean"]


def add_cost(rows: Store, job: Job, num_rows: int, seconds: float) -> None:
    """Keep what an attack cost, over resumed runs too; written with the next part."""
    extra = rows.manifest.get("extra", {})
    cost = {model: dict(by_attack) for model, by_attack in extra.get("cost", {}).items()}
    mine = dict(cost.setdefault(job.subject.name, {}).get(job.attack, {}))
    steps, each = job.spec.num_steps, job.spec.cost
    more = {
        "forwards": num_rows * (steps * each.forwards + 2),  # finalize, and the verdict
        "backwards": num_rows * steps * each.backwards,
        "seconds": seconds,
    }
    cost[job.subject.name][job.attack] = {k: mine.get(k, 0) + v for k, v in more.items()}
    rows.write_manifest(extra={"cost": cost})


def leaves_of(variables: PyTree) -> list[np.ndarray]:
    """Return the arrays of a model, for its fingerprint."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]


def hash_of(split: Split) -> str:
    """Return the fingerprint of images, targets and identities."""
    return fingerprint([np.asarray(split.images), np.asarray(split.targets), np.asarray(split.ids)])
