"""`--attack autoattack`: the cascade on one model, over all budgets, into the store."""

import dataclasses
import shutil
import time
from collections import Counter
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from advjax import engine, store
from advjax.cli._rows import in_turn, pixels, write_panel
from advjax.cli._subjects import AUTOATTACK, Job
from advjax.config import EvaluateConfig, SweepConfig
from advjax.engine import AutoAttackResult, Progress, Verdict
from advjax.status import Status
from advjax.store import Store
from advjax.tasks import get_task, told


def is_autoattack(job: Job) -> bool:
    """Whether a job is a whole cascade."""
    return job.config.name == AUTOATTACK


def run_autoattack(
    config: EvaluateConfig | SweepConfig, rows: Store, job: Job, label: str, key: jax.Array,
    mesh: Any = None,
) -> bool:  # fmt: skip
    """Run the cascade on the images of a job and store its rows; return whether there was any work.

    What is decided is kept in OUT/resume, so that a killed evaluation goes on in the middle of an
    attack; it goes when the rows are stored. Budgets whose rows are stored are not attacked again.
    """
    subject = job.subject
    split, name = subject.split, subject.name
    lacking = [
        eps for eps in config.epsilons
        if rows.num_rows(model=name, data=subject.dataset.name, attack=label, eps=eps) < len(split)
    ]  # fmt: skip
    if not lacking:
        return False
    budgets = store.fingerprint(lacking)[:8]
    kept = rows.folder / "resume" / f"{name}-{label}-{budgets}".replace("/", "_")
    config = dataclasses.replace(config, epsilons=tuple(lacking))
    started = time.monotonic()
    words = "{desc}: {postfix} [{elapsed}]"
    with tqdm(desc=f"{name} {label}", bar_format=words) as bar:

        def progress(at: Progress) -> None:
            # an image is decided once by every attack that it meets
            bar.set_postfix_str(f"{at.done} of {at.total} images by this attack")

        result = engine.autoattack(
            subject.apply, subject.variables, split.images, split.targets,
            norm=job.config.norm, epsilons=config.epsilons,
            version=job.config.version or "standard", key=key, ids=split.ids, mesh=mesh,
            slots=getattr(config, "slots", None), quantise=getattr(config, "quantise", None),
            resume=kept, progress=progress,
        )  # fmt: skip
    output, _, loss = engine.evaluate_clean(
        job.make_attack, subject.variables, result.x_adv, split.targets, key=key, ids=split.ids,
        batch_size=config.batch_size,
    )  # fmt: skip
    clean, _, clean_loss = engine.evaluate_clean(
        job.make_attack, subject.variables, split.images, split.targets, key=key, ids=split.ids,
        batch_size=config.batch_size,
    )  # fmt: skip
    columns = _columns(config, job, label, result, (output, loss), (clean, clean_loss))
    # before the rows: what has rows is never computed again
    if config.panels:
        _write_panel(config, rows, job, label, result)
    _conclude(rows, job, label, result, time.monotonic() - started)
    first = int(np.asarray(split.ids).min())
    rows.write(columns, f"{name}/{label}/{budgets}/{first}-{len(split)}")
    shutil.rmtree(kept, ignore_errors=True)
    return True


def _columns(
    config: EvaluateConfig | SweepConfig, job: Job, label: str, result: AutoAttackResult,
    adversarial: tuple[np.ndarray, np.ndarray], clean: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:  # fmt: skip
    """Return the rows `[N * E]`; a budget that no attack ran at follows from another."""
    subject, tables = job.subject, result.sweep.tables
    split, task = subject.split, get_task("single")
    known = np.any([(t.verdict != Verdict.UNKNOWN).any(1) for t in tables], axis=0)
    shape = known.shape
    wrong = np.broadcast_to((result.min_eps == 0)[:, None], shape)
    broken = result.min_eps[:, None] <= result.epsilons
    shown = broken & ~wrong  # these rows show the image that broke it
    status = np.where(known, np.int8(Status.EXHAUSTED), np.int8(Status.PRUNED))
    status = np.where(broken, result.sweep.status[:, None], status)
    status = np.where(wrong, np.int8(Status.WRONG_WHEN_CLEAN), status)
    images, targets = pixels(split.images), np.asarray(split.targets)
    change = (result.x_adv - images).reshape(len(images), -1)
    broke, before = told(task, adversarial[0], targets), told(task, clean[0], targets)
    probabilities = np.where(shown[..., None], broke[0][:, None], before[0][:, None])
    probabilities = probabilities.reshape(-1, broke[0].shape[1])

    def spread(values: np.ndarray, otherwise: Any = 0.0) -> np.ndarray:
        """Return a value an example as one a row, where rows show its image."""
        return np.where(shown, values[:, None], np.reshape(otherwise, (-1, 1))).ravel()

    def spent(name: str) -> np.ndarray:
        return np.sum([getattr(t, name).sum(1) for t in tables], axis=0).ravel()

    return {
        "model": subject.name, "data": subject.dataset.name, "attack": label,
        "example_id": np.repeat(np.asarray(split.ids), shape[1]),
        "eps": np.tile(np.asarray(config.epsilons), shape[0]), "restart": 0,
        "evaluated": known.ravel(), "success": broken.ravel(), "wrong_when_clean": wrong.ravel(),
        "loss": spread(adversarial[1], clean[1]), "linf": spread(np.abs(change).max(1)),
        "l2": spread(np.linalg.norm(change, axis=1)), "num_steps": spent("steps"),
        "num_grads": spent("grads"), "num_queries": spent("queries"), "status": status.ravel(),
        "target": np.repeat(targets, shape[1])[:, None],
        "probabilities": _known(probabilities, (broken | wrong).ravel()),
        "confidence": np.where(
            (broken | wrong).ravel(), spread(broke[1], before[1]), np.float32(np.nan)
        ),
    }  # fmt: skip


def _known(probabilities: np.ndarray, told: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of rows; none where the attacked image of one that stood is not kept."""
    return [row if known else row[:0] for row, known in zip(probabilities, told, strict=True)]


def _conclude(rows: Store, job: Job, label: str, result: AutoAttackResult, seconds: float) -> None:
    """Store costs, doubts, and who broke what; say the last."""
    extra, name = rows.manifest.get("extra", {}), job.subject.name
    cost = {model: dict(found) for model, found in extra.get("cost", {}).items()}
    cost.setdefault(name, {})[label] = {
        "forwards": int(result.num_queries.sum()),
        "backwards": int(result.num_grads.sum()),
        "seconds": seconds,
    }
    trust = [line for line in extra.get("trust", []) if line[:2] != [name, label]]
    trust += [
        [name, label, flag.verdict, flag.name, flag.text]
        for flag in result.trust.flags
        if flag.verdict != "ok"
    ]
    counts = Counter(str(who) for who in result.broken_by)
    broken = {who: counts[who] for who in ("clean", *result.attacks)} | {"robust": counts[""]}
    cascades = {model: dict(found) for model, found in extra.get("cascades", {}).items()}
    cascades.setdefault(name, {})[label] = {"broken_by": broken, "notes": list(result.notes)}
    rows.write_manifest(extra={"cost": cost, "trust": trust, "cascades": cascades})
    words = ", ".join(f"{who} {count}" for who, count in broken.items())
    print(f"{name} {label}, who broke each image at its smallest budget: {words}")
    for note in result.notes:
        print(f"{name} {label}: {note}")


def _write_panel(
    config: EvaluateConfig | SweepConfig, rows: Store, job: Job, label: str,
    result: AutoAttackResult,
) -> None:  # fmt: skip
    """Keep a few images, of different classes, those that were broken first."""
    split = job.subject.split
    eps = config.epsilons[len(config.epsilons) // 2]
    turn = in_turn(np.asarray(split.targets))
    safe = ~((result.min_eps > 0) & (result.min_eps <= eps))
    chosen = np.lexsort((np.arange(len(turn)), turn, safe))[: config.panels]
    images, stands = pixels(split.images[chosen]), safe[chosen]
    stands = stands.reshape(-1, *[1] * (images.ndim - 1))
    shown = np.where(stands, images, result.x_adv[chosen])
    write_panel(rows.folder, job.subject, label, eps, chosen, shown)
