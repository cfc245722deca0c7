"""What a sweep returns, put together from the tables of its attacks, models and processes."""

from typing import NamedTuple

import jax
import numpy as np

from advjax.engine import _processes, _trust
from advjax.engine._plan import Verdict
from advjax.engine._stage import Tables
from advjax.status import Status


class SweepResult(NamedTuple):
    """A robustness curve and all that stands behind it; NumPy, in the order of the examples.

    Attributes:
      epsilons: `[E]`, the budgets.
      min_eps: `[N]`, the smallest budget that breaks an example: 0 if it is wrong when clean, inf
        if nothing broke it.
      clean_accuracy: share of examples right before any attack.
      robust_accuracy: `[E]`, share of all examples with `min_eps > epsilons[e]`.
      rows_computed: backward passes of single examples, all slots of all ticks.
      rows_useful: those that served a live example.
      status: `[N]` int8, `advjax.Status`: of the run that broke the example, or of the last one
        at the largest budget that failed.
      solved_by: `[N]`, which attack gave `min_eps`; -1 for none.
      float_only: `[N]`, how many successes an attack claimed that did not survive the judgement
        outside of it (see `quantise`). They are not counted.
      trust: signs of masked gradients, counted, and their verdict: `"ok"`, `"suspicious"` or
        `"unreliable"`.
      rows_probed: backward passes of the two probes of `trust`, not in `rows_computed`.
      tables: one `Tables` an attack: verdict, loss, steps, gradients and status by restart and
        budget. A verdict of `Verdict.UNKNOWN` was never computed: it follows from another.
      x_adv: `[N, H, W, C]` images at `min_eps`, where asked for; the clean image if nothing broke
        it.
    """

    epsilons: np.ndarray
    min_eps: np.ndarray
    clean_accuracy: float
    robust_accuracy: np.ndarray
    rows_computed: int
    rows_useful: int
    status: np.ndarray
    solved_by: np.ndarray
    float_only: np.ndarray
    trust: _trust.Trust
    rows_probed: int
    tables: list[Tables]
    x_adv: np.ndarray | None


def with_flags(result: SweepResult, *flags: _trust.Flag) -> SweepResult:
    """Add signs that were looked for after the sweep to its trust report.

    Args:
      result: of `sweep`.
      *flags: such as those of `binarisation_test` and `transfer_check`; one of a name that is
        there already takes its place.

    Returns:
      The result with these flags, whose verdict is the worst of all.
    """
    found = {flag.name: flag for flag in (*result.trust.flags, *flags)}
    verdict = _trust.worst_verdict(flag.verdict for flag in found.values())
    trust = _trust.Trust(verdict, tuple(found.values()))
    return result._replace(trust=trust)


class Share(NamedTuple):
    """What one process found of one model."""

    epsilons: np.ndarray
    tables: list[Tables]
    computed: int
    useful: int
    x_adv: np.ndarray | None
    signs: _trust.Counts
    probed: int

    def add(
        self, tables: Tables, computed: int, useful: int, *, rounded: bool, rises: bool
    ) -> "Share":
        """Return the share with what one more attack found, and the work that it took."""
        return self._replace(
            tables=[*self.tables, tables],
            computed=self.computed + computed,
            useful=self.useful + useful,
            signs=_trust.merge(
                self.signs,
                _trust.counted(tables, first=not self.tables, rounded=rounded, rises=rises),
            ),
        )


def curve(share: Share) -> SweepResult:
    """Compute the curve from the tables of all examples."""
    first, epsilons = share.tables[0], share.epsilons
    num_budgets = len(epsilons)
    levels = np.append(epsilons, np.inf)
    # an attack's best includes that of the attacks before it, but for exhaustive orders
    bests = np.stack([t.best for t in share.tables])
    best = bests.min(0)
    min_eps = np.where(first.wrong, 0.0, levels[best])
    solved_by = np.where(~first.wrong & (best < num_budgets), np.argmin(bests, axis=0), -1)
    rejected = [(t.verdict == Verdict.REJECTED).sum((1, 2)) for t in share.tables]
    return SweepResult(
        epsilons=epsilons,
        min_eps=min_eps,
        clean_accuracy=float(1 - first.wrong.mean()),
        robust_accuracy=(min_eps[:, None] > epsilons).mean(0),
        rows_computed=share.computed,
        rows_useful=share.useful,
        status=_status(share.tables, first.wrong, best, num_budgets),
        solved_by=solved_by,
        float_only=np.sum(rejected, axis=0),
        trust=_trust.judge(share.signs),
        rows_probed=share.probed,
        tables=share.tables,
        x_adv=share.x_adv,
    )


def _status(
    tables: list[Tables], wrong: np.ndarray, best: np.ndarray, num_budgets: int
) -> np.ndarray:
    """Return the status of the run that broke each example, or of the last failure at the top."""
    rows = np.arange(len(best))
    status = np.zeros(len(best), np.int8)
    at = np.minimum(best, num_budgets - 1)
    told = np.zeros(len(best), bool)
    for table in tables:
        for restart in range(table.verdict.shape[1]):
            verdict = table.verdict[rows, restart, at]
            broke = (best < num_budgets) & (verdict == Verdict.VERIFIED)
            stood = (best == num_budgets) & (verdict != Verdict.UNKNOWN)
            # the first one that broke it, which is the one of `solved_by`
            new = (broke & ~told) | stood
            status, told = np.where(new, table.status[rows, restart, at], status), told | broke
    return np.where(wrong, np.int8(Status.WRONG_WHEN_CLEAN), status)


def across_processes(share: Share, mine: int, total: int) -> Share:
    """Exchange results: the only communication of a sweep of several processes."""
    tables, x_adv = _processes.exchange((share.tables, share.x_adv), mine, total)
    names = list(_trust.SIGNS)
    # -1: nobody looked
    signs = [share.signs.get(name, (-1, -1)) for name in names]
    work = np.array([[share.computed, share.useful, share.probed, *np.ravel(signs)]], np.int64)
    everybody = _processes.exchange(work, 1, jax.process_count())
    counts = [
        {
            name: (int(shown), int(looked))
            for name, (shown, looked) in zip(names, row[3:].reshape(-1, 2), strict=True)
            if looked >= 0
        }
        for row in everybody
    ]
    computed, useful, probed = map(int, everybody[:, :3].sum(0))
    merged = _trust.merge(*counts)
    return Share(share.epsilons, tables, computed, useful, x_adv, merged, probed)
