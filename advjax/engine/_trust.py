"""Whether a robustness figure can be believed: the usual signs of masked gradients, counted.

The signs are those of Athalye et al. (2018), Carlini et al. (2019) and Croce et al. (2022,
"Evaluating the adversarial robustness of adaptive test-time defenses"). Most are by-products of
the sweep. Two are short probes with the same compiled program: more steps from another start, and
a budget that allows every image.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from advjax.engine._plan import Verdict
from advjax.engine._stage import Stage, Tables
from advjax.status import Status
from advjax.types import Array, Attack

Counts = dict[str, tuple[int, int]]  # how many show the sign, of how many looked at

GRADES = ("ok", "suspicious", "unreliable")


class Sign(NamedTuple):
    """A sign of trouble: above which share and from how many on it is one, and what it means."""

    suspicious: float
    unreliable: float
    meaning: str
    least: int = 1


SIGNS = {
    "zero_gradient": Sign(
        0.05, 0.5, "runs met a gradient that is exactly zero: a quantising layer, a saturated "
        "softmax or a step without derivative hides it; attack the model without it, or with a "
        "differentiable stand-in",
    ),
    "non_finite": Sign(
        0.0, 0.1, "runs met NaN or infinite losses or gradients; scale the logits or the loss",
    ),
    "randomised_output": Sign(
        0.0, 0.05, "clean images got another output from other random numbers, or at another "
        "place in the batch: switch dropout and batch statistics off, or attack the expectation "
        "(attacks.with_eot; where it is used already, of more draws)",
    ),
    "probabilities": Sign(
        0.5, 1.1, "outputs look like probabilities: a softmax before the loss makes gradients "
        "vanish; let the model return logits",
    ),
    "nothing_to_reach": Sign(
        0.5, 0.999, "images have a loss that no output of the model changes (no known finding, or "
        "nothing that the goal could change) and count as right at every budget: leave them out",
    ),
    "loss_not_rising": Sign(
        0.1, 0.5, "failed runs ended with no higher loss than the clean image has: the gradient "
        "does not point uphill",
    ),
    "more_effort_breaks": Sign(
        0.1, 0.4, "examples that stood fell to twice the steps from another start: the attack is "
        "too weak for its figure",
        least=2,  # of a few that are probed, a single one says little
    ),
    "more_restarts_break": Sign(
        0.1, 0.4, "examples fell at a smaller budget to a later start than to the first: more "
        "restarts would lower the figure",
        least=2,
    ),
    "black_box_better": Sign(
        0.002, 0.05, "examples fell to an attack without gradients at a budget at which every "
        "attack with gradients failed: the gradients mislead",
        least=2,
    ),
    "unverified_success": Sign(
        0.1, 0.5, "successes of the attack did not survive the judgement outside of it, in the "
        "ball and in full precision, and are not counted: the figure is too good",
        least=2,
    ),
    "unbounded_eps_fails": Sign(
        0.0, 0.4, "examples stood a budget that allows every image: no real model does, so the "
        "attack fails",
    ),
    "binarisation_unsolved": Sign(
        0.05, 0.3, "images stood although a two-class read-out of the model surely has an "
        "adversarial image within the budget: the attack misses what is there; give it more steps, "
        "or a differentiable stand-in for the layer that hides the gradient",
    ),
    "transfer_better": Sign(
        0.02, 0.1, "examples that stood fell to images made for other models within the same "
        "budget: the gradient of this one is masked, or the attack too weak",
        least=2,
    ),
}  # fmt: skip


class Flag(NamedTuple):
    """One sign, counted.

    Attributes:
      name: a key of `SIGNS`.
      shown: how many showed it; `total`: of how many.
      verdict: `"ok"`, `"suspicious"` or `"unreliable"`.
      text: one sentence with the numbers, and what to do.
    """

    name: str
    shown: int
    total: int
    verdict: str
    text: str


class Trust(NamedTuple):
    """The worst verdict of all flags, and the flags."""

    verdict: str
    flags: tuple[Flag, ...]


def judge(counts: Counts) -> Trust:
    """Turn counts into verdicts; signs that were not looked for are left out."""
    flags = []
    for name, sign in SIGNS.items():
        if name not in counts:
            continue
        shown, total = counts[name]
        share = shown / total if total else 0.0
        verdict = "ok"
        if share > sign.suspicious and shown >= sign.least:
            verdict = "unreliable" if share > sign.unreliable else "suspicious"
        text = f"{shown} of {total} {sign.meaning}" if verdict != "ok" else "nothing found"
        flags.append(Flag(name, shown, total, verdict, text))
    return Trust(worst_verdict(flag.verdict for flag in flags), tuple(flags))


def worst_verdict(verdicts: Iterable[str]) -> str:
    """Return the gravest of some verdicts, `"ok"` of none."""
    return max(verdicts, key=GRADES.index, default="ok")


def counted(tables: Tables, *, first: bool, rounded: bool, rises: bool) -> Counts:
    """Count the signs that a finished stage shows by itself.

    Args:
      tables: what it found.
      first: of a cascade; only the first stage looks at every clean image.
      rounded: successes had to survive rounding, so that to lose some is no sign.
      rises: a failed run has a point whose loss can be held against that of the clean image.
    """
    idle = tables.idle[:, None, None]
    ran = (tables.verdict != Verdict.UNKNOWN) & ~idle
    lost = (tables.verdict == Verdict.FAILED) & ~idle
    risen = tables.loss > tables.clean_loss[:, None, None]
    broken, looked = (int(tables.broken.sum()), len(tables.wrong)) if first else (0, 0)
    lost_claims = int((tables.verdict == Verdict.REJECTED).sum())
    claims = int((tables.verdict == Verdict.VERIFIED).sum()) + lost_claims
    counts = {
        "zero_gradient": (int(tables.zero[ran].sum()), int(ran.sum())),
        "non_finite": (
            int((tables.status[ran] == Status.NON_FINITE).sum()) + broken,
            int(ran.sum()) + broken,
        ),
    }
    if rises:
        counts["loss_not_rising"] = (int((lost & ~risen).sum()), int(lost.sum()))
    if first:
        unsteady = int(tables.unsteady.sum())
        # every second image of a batch is looked at twice
        counts["randomised_output"] = (unsteady, max((looked + 1) // 2, unsteady))
        counts["probabilities"] = (int(tables.bounded.sum()), looked)
        counts["nothing_to_reach"] = (int(tables.idle.sum()), looked)
    if not rounded:
        counts["unverified_success"] = (lost_claims, claims)
    return counts


def compared(tables: Sequence[Tables], attacks: Sequence[Attack], chosen: Sequence[bool]) -> Counts:
    """Count the signs that show when attacks, or their restarts, are held against each other.

    Args:
      tables: what each attack of a cascade found.
      attacks: of the cascade.
      chosen: whether several runs of an attack are about other targets, and no restarts.
    """
    counts: Counts = {}
    blind = np.array([attack.spec.cost.backwards == 0 for attack in attacks])
    bests = np.stack([table.best for table in tables])
    right = ~tables[0].wrong
    if blind.any() and not blind.all():
        # an attack's best includes that of the attacks before it
        below = np.arange(tables[0].verdict.shape[2]) < bests[~blind].min(0)[:, None]
        won = [
            (t.verdict == Verdict.VERIFIED).any(1) for t, b in zip(tables, blind, strict=True) if b
        ]
        shown = right & (np.any(won, axis=0) & below).any(1)
        counts["black_box_better"] = (int(shown.sum()), int(right.sum()))
    for table, about_targets in zip(tables, chosen, strict=True):
        if about_targets or table.verdict.shape[1] == 1:
            continue
        won = table.verdict == Verdict.VERIFIED
        fell = won.any((1, 2))
        earliest = won.argmax(2) + np.where(won.any(2), 0, won.shape[2])
        later = fell & (earliest[:, 1:].min(1) < earliest[:, 0])
        ran = (table.verdict[:, 0] != Verdict.UNKNOWN).any(1)
        found = {"more_restarts_break": (int(later.sum()), int(ran.sum()))}
        counts = merge(counts, found)
    return counts


def merge(*parts: Counts) -> Counts:
    """Add counts of several attacks, or of several processes."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: (
            sum(part.get(name, (0, 0))[0] for part in parts),
            sum(part.get(name, (0, 0))[1] for part in parts),
        )
        for name in names
    }


def probe(
    again: Callable[[np.ndarray], Stage],
    tables: Tables,
    skipped: np.ndarray,
    epsilons: np.ndarray,
    key: Array,
) -> tuple[list[Counts], np.ndarray]:
    """Attack a few examples of each model harder.

    Args:
      again: makes a stage with other budgets `[E]` (the same program).
      tables: what the attack found.
      skipped: `[N]` bool, examples that are wrong when clean (a later attack of a cascade has not
        seen them), or that have nothing to reach.
      epsilons: `[E]`, the budgets.
      key: one key.

    Returns:
      The counts of each model, and `[models]` backward passes that it took.
    """
    stage = again(epsilons)
    size = max(stage.settings.slots // 4, 8) * stage.num_devices
    last = len(epsilons) - 1
    at = np.minimum(tables.best, len(epsilons)) - 1
    rows = np.arange(len(at))
    failed = tables.verdict[rows, 0, np.maximum(at, 0)] == Verdict.FAILED
    stood = np.flatnonzero(~skipped & (at >= 0) & failed)
    chosen = _spread(stage, stood, size)
    steps = 2 * stage.attack.spec.num_steps
    other = jax.random.fold_in(key, 1)
    found = _once(stage, np.concatenate(chosen), at, other, steps)
    counts: list[Counts] = [
        {"more_effort_breaks": (int((found.best[some] <= at[some]).sum()), len(some))}
        for some in chosen
    ]
    work = stage.computed
    everything = _largest(stage)
    if everything is not None and everything > epsilons[last]:
        levels = epsilons.copy()
        levels[last] = everything
        stage = again(levels)
        chosen = _spread(stage, np.flatnonzero(~skipped), size)
        top = np.full(len(at), last)
        found = _once(stage, np.concatenate(chosen), top, key, stage.attack.spec.num_steps)
        for mine, some in zip(counts, chosen, strict=True):
            mine["unbounded_eps_fails"] = (int((found.best[some] > last).sum()), len(some))
        work = work + stage.computed
    return counts, work


def _once(stage: Stage, chosen: np.ndarray, at: np.ndarray, key: Array, steps: int) -> Tables:
    """Run one budget of each chosen example; the table of verdicts leaves nothing else to do."""
    num_budgets = len(stage.epsilons)
    shape = (stage.total, stage.settings.restarts, num_budgets)
    verdict = np.full(shape, Verdict.FAILED, np.int8)
    rows = np.arange(stage.total)
    verdict[rows, 0, np.maximum(at, 0)] = Verdict.UNKNOWN
    ceiling = np.clip(at + 1, 0, num_budgets).astype(np.int32)
    # a solved ceiling above the last budget does not exist: nothing is solved there
    first = np.maximum(at, 0).astype(np.int32)
    return stage.run(chosen, key, ceiling=ceiling, first=first, num_steps=steps, verdict=verdict)


def _spread(stage: Stage, rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Return at most `size` examples of each model, evenly."""
    by_model = [rows[rows // stage.images == m] for m in range(stage.settings.models)]
    return [
        some[np.linspace(0, len(some) - 1, min(size, len(some))).astype(int)] for some in by_model
    ]


def _largest(stage: Stage) -> float | None:
    """Return a budget that allows every image of the bounds, where the norm is a known one."""
    low, high = (np.asarray(bound, np.float64) for bound in stage.attack.spec.ball.bounds)
    one = np.broadcast_to(high - low, np.shape(stage.examples.images[0]))
    if not np.isfinite(one).all():
        return None
    name = stage.attack.spec.ball.name
    if name == "linf":
        return float(one.max())
    if name == "l1":
        return float(one.sum())
    return float(np.linalg.norm(one)) if name == "l2" else None
