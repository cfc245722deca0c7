"""One model under one attack: from what the engine finds to rows, panels, costs and doubts."""

from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.cli._rows import in_turn, write_panel
from advjax.cli._subjects import Job
from advjax.config import SweepConfig
from advjax.engine import Finished, SweepResult, Tables, Verdict, worst_verdict
from advjax.status import Status
from advjax.store import Store
from advjax.tasks import get_task, told


class Clean(NamedTuple):
    """The images of a subject before any attack, `[N, ...]`."""

    wrong: np.ndarray
    probabilities: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray


class Cell:
    """Collects finished runs of one attack on one model and stores rows of decided images."""

    def __init__(
        self, rows: Store, job: Job, label: str, config: SweepConfig, clean: Clean
    ) -> None:
        """Make room for every run of every image."""
        self.rows, self.job, self.label, self.config, self.clean = rows, job, label, config, clean
        self.task = get_task(job.subject.dataset.task)
        total, classes = clean.probabilities.shape
        shape = (total, config.restarts, len(config.epsilons))
        self.probabilities = np.zeros((*shape, classes), np.float32)
        self.loss, self.linf, self.l2, self.confidence = np.zeros((4, *shape), np.float32)
        # at most one adversarial image an example, to look at
        self.images: dict[int, np.ndarray] = {}
        self.shown = len(config.epsilons) // 2

    def missing(self) -> np.ndarray:
        """Return the numbers of the images whose rows are not stored."""
        subject = self.job.subject
        found = self.rows.read(
            ["example_id"], model=subject.name, data=subject.dataset.name, attack=self.label
        )["example_id"]
        return np.flatnonzero(~np.isin(np.asarray(subject.split.ids), found))

    def concluded(self) -> bool:
        """Whether costs and doubts are stored, which is the last thing that a sweep does."""
        cost = self.rows.manifest.get("extra", {}).get("cost", {})
        return self.label in cost.get(self.job.subject.name, {})

    def take(self, finished: Finished, examples: np.ndarray) -> None:
        """Keep what finished runs ended with."""
        at = (examples, finished.restart, finished.budget)
        targets = np.asarray(self.job.subject.split.targets)[examples]
        # any number of runs ends at a time: sizes are powers of two, so that few compile
        count = len(examples)
        padded = np.minimum(np.arange(1 << (count - 1).bit_length()), count - 1)
        output, targets = jax.tree.map(lambda v: np.asarray(v)[padded], (finished.output, targets))
        record, sure = told(self.task, output, targets)
        self.probabilities[at], self.confidence[at] = record[:count], sure[:count]
        self.loss[at], self.linf[at], self.l2[at] = finished.loss, finished.linf, finished.l2
        wanted = 16 * self.config.panels
        # a success at a smaller budget is one at the shown budget too
        lower = finished.verified & (finished.budget < self.shown)
        for i in np.flatnonzero((finished.budget == self.shown) | lower):
            known = examples[i] in self.images
            if finished.verified[i] if known else len(self.images) < wanted:
                self.images[int(examples[i])] = np.array(finished.x[i])

    def write(self, examples: np.ndarray, tables: Tables) -> None:
        """Store all rows of decided images, restarts x budgets each."""
        columns = self._columns(examples, tables)
        first = int(np.asarray(self.job.subject.split.ids)[examples].min())
        self.rows.write(columns, f"{self.job.subject.name}/{self.label}/{first}-{len(examples)}")

    def conclude(self, result: SweepResult, seconds: float) -> None:
        """Store costs, doubts and panels of a finished sweep."""
        extra = self.rows.manifest.get("extra", {})
        cost = {model: dict(found) for model, found in extra.get("cost", {}).items()}
        name, each = self.job.subject.name, self.job.spec.cost
        mine = dict(cost.setdefault(name, {}).get(self.label, {}))
        work = result.rows_computed + result.rows_probed
        more = {
            "forwards": work // max(each.backwards, 1) * each.forwards,
            "backwards": work,
            "seconds": seconds,
        }
        cost[name][self.label] = {k: mine.get(k, 0) + v for k, v in more.items()}
        doubts = [
            [name, self.label, flag.verdict, flag.name, flag.text]
            for flag in result.trust.flags
            if flag.verdict != "ok"
        ]
        # what was found on images that are not attacked again still stands, and the graver word
        stands: dict[tuple[str, ...], list[str]] = {}
        for doubt in (*extra.get("trust", []), *doubts):
            about = (doubt[0], doubt[1], doubt[3])
            before = stands.get(about, doubt)
            stands[about] = doubt if worst_verdict((before[2], doubt[2])) == doubt[2] else before
        trust = list(stands.values())
        self.rows.write_manifest(extra={"cost": cost, "trust": trust})
        if self.config.panels and self.images:
            self._write_panel()

    def _columns(self, examples: np.ndarray, tables: Tables) -> dict[str, Any]:
        """Return the rows of examples `[m]` as columns `[m * R * E]`."""
        split, num = self.job.subject.split, len(self.config.epsilons)
        shape = tables.verdict.shape
        known = tables.verdict != Verdict.UNKNOWN
        solved = tables.verdict == Verdict.VERIFIED
        wrong = np.broadcast_to((tables.wrong | self.clean.wrong[examples])[:, None, None], shape)
        index = np.arange(num)
        broken = index >= tables.best[:, None, None]
        success = np.where(known, solved, broken) | wrong
        example, restart, budget, clean = self._sources(tables, known, solved)
        rows = examples[example]
        at = (rows, restart, budget)

        def pick(found: np.ndarray, unattacked: Any) -> np.ndarray:
            mask = clean.reshape(clean.shape + (1,) * (found.ndim - 3))
            return np.where(mask, unattacked, found[at])

        probabilities = pick(self.probabilities, self.clean.probabilities[rows]).reshape(
            -1, self.probabilities.shape[-1]
        )
        status = np.where(known, tables.status, np.int8(Status.PRUNED))
        status = np.where(tables.wrong[:, None, None], np.int8(Status.WRONG_WHEN_CLEAN), status)
        dataset = self.job.subject.dataset
        labels = self.task.label(np.asarray(split.targets)[examples], dataset.num_classes)
        return {
            "model": self.job.subject.name, "data": self.job.subject.dataset.name,
            "attack": self.label, "example_id": np.asarray(split.ids)[rows].ravel(),
            "eps": np.broadcast_to(np.asarray(self.config.epsilons), shape).ravel(),
            "restart": np.broadcast_to(np.arange(shape[1])[:, None], shape).ravel(),
            "evaluated": known.ravel(), "success": success.ravel(),
            "wrong_when_clean": wrong.ravel(),
            "loss": pick(self.loss, self.clean.loss[rows]).ravel(),
            "linf": pick(self.linf, 0.0).ravel(), "l2": pick(self.l2, 0.0).ravel(),
            "num_steps": tables.steps.ravel(), "num_grads": tables.grads.ravel(),
            "num_queries": tables.queries.ravel(), "status": status.ravel(),
            "target": labels[example.ravel()], "probabilities": probabilities,
            "confidence": pick(self.confidence, self.clean.confidence[rows]).ravel(),
        }  # fmt: skip

    @staticmethod
    def _sources(
        tables: Tables, known: np.ndarray, solved: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return whose output stands in a row: (example, restart, budget), and where it is clean.

        A row that was computed shows itself. Above the smallest solved budget it shows the image
        that solved it, which is in the larger ball too. Below, it shows the failure at the next
        larger budget, which bounds it, and the clean image where there was none.
        """
        num = known.shape[2]
        indices: list[np.ndarray] = list(np.indices(known.shape))
        example, restart, budget = indices
        best = np.minimum(tables.best, num - 1)
        winner = solved[np.arange(len(best)), :, best].argmax(1)
        above = ~known & (budget >= tables.best[:, None, None])
        failed = np.where(known & ~solved, budget, num)
        following = np.minimum.accumulate(failed[..., ::-1], axis=-1)[..., ::-1]
        source = np.where(known, budget, np.minimum(following, num - 1))
        source = np.where(above, best[:, None, None], source)
        winning = np.where(above, winner[:, None, None], restart)
        clean = ~known & ~above & (following >= num)
        clean = clean | (tables.wrong[:, None, None] & ~known)
        return example, winning, source, clean

    def _write_panel(self) -> None:
        """Keep a few images, of different classes, to look at."""
        subject, rows = self.job.subject, np.array(sorted(self.images))
        turn = in_turn(np.asarray(subject.split.targets)[rows])
        chosen = rows[np.argsort(turn, kind="stable")[: self.config.panels]]
        adversarial = np.stack([self.images[int(i)] for i in chosen])
        eps = self.config.epsilons[self.shown]
        write_panel(self.rows.folder, subject, self.label, eps, chosen, adversarial)
