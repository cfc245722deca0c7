"""What should make a reader doubt a number."""

from collections.abc import Sequence

import numpy as np

from advjax import metrics, status
from advjax.report import _decisions, _format
from advjax.report._results import CLEAN, Cell, ModelRows, Results
from advjax.report._statistics import Statistics


def warnings_of(results: Results, models: Sequence[ModelRows]) -> list[str]:
    """Say what should make a reader doubt a number."""
    cells = [
        (f"{model.name} under {attack}", model, cell)
        for model in models
        for attack, cell in model.attacks.items()
    ]
    # what ends where an image breaks has outputs that are left out on purpose
    partial = any(group.partial for group in results.groups)
    said = []
    for code in (status.Status.ZERO_GRADIENT, status.Status.NON_FINITE):
        shares = [(name, cell.status.get(int(code), 0) / cell.num_rows) for name, _, cell in cells]
        seen = [f"{_format.percent(share)} for {name}" for name, share in shares if share]
        if seen:
            sentence = status.explain(code)
            said.append(f"{sentence[0].upper()}{sentence[1:]}. Share of rows: {'; '.join(seen)}.")
    missing = [
        f"{int(count)} for {name}"
        for name, _, cell in cells
        if cell.probabilities.shape[2]
        and not partial
        and (count := (~np.isfinite(cell.probabilities).all(-1) & cell.evaluated).sum())
    ]
    if missing:
        said.append(
            "Outputs that are not finite, or not stored, are left out of AUROC, sensitivity and "
            f"specificity: {'; '.join(missing)}."
        )
    rising = [(name, _rise(cell)) for name, _, cell in cells]
    weak = [f"{100 * rise:.1f} points for {name}" for name, rise in rising if rise > 0.05]
    if weak:
        said.append(
            "Accuracy under attack rises at a larger budget: the attack is too weak there, and "
            f"robust accuracy is the figure to trust. Rise: {'; '.join(weak)}."
        )
    for model, attack, verdict, _, text in results.manifest.get("extra", {}).get("trust", []):
        if any(model == one.name for one in models):
            doubt = f"{attack} on {model} is {verdict}: {text}."
            # shards have counted alike
            said += [doubt] if doubt not in said else []
    for model in models:
        said += _misled(model, results.norms)
    said += idle(results.extra.get("idle") or [])
    dtype = results.setting("gradient_dtype", "float32")
    if dtype != "float32":
        said.append(
            f"The attacks followed {dtype} gradients, which may miss what float32 gradients find; "
            "every verdict was computed in float32."
        )
    absent = results.manifest.get("extra", {}).get("missing_shards")
    if absent:
        said.append(f"These shards are missing, and their images with them: {', '.join(absent)}.")
    if results.manifest.get("earlier"):
        said.append(
            "The rows were computed in several sessions with different software; "
            "manifest.json lists them."
        )
    return said


def _decided(found: Statistics, model: str) -> float:
    """Return the share of decisions that are right on clean images, NaN where it is not known."""
    (rows,) = (m for m in found.group.models if m.name == model)
    target = found.group.target
    if rows.clean is None or rows.clean.probabilities.shape[2] != target.shape[1]:
        return float("nan")
    hit = _decisions.right(rows.clean.probabilities[0], target)
    return float(hit[target >= 0].mean()) if (target >= 0).any() else float("nan")


def idle(counts: Sequence[tuple[str, str, int, int]]) -> list[str]:
    """Say which images nothing can break, from (whose, why, how many, of how many).

    Shards have counted their own; equal words are added up.
    """
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for who, why, count, total in counts:
        before = sums.get((who, why), (0, 0))
        sums[who, why] = before[0] + count, before[1] + total
    return [
        f"{who}: {count} of {total} images {why}, and count as right at every budget."
        for (who, why), (count, total) in sums.items()
    ]


def _misled(model: ModelRows, norms: dict[str, str]) -> list[str]:
    """Name the attacks without gradients that broke what every attack with gradients left standing.

    At no smaller a budget than theirs; that a real gradient misleads so often is a sign of masking.
    """
    said = []
    for name, blind in model.attacks.items():
        right = ~blind.wrong
        guided = [
            cell for other, cell in model.attacks.items()
            if cell.num_grads and norms.get(other) == norms.get(name)
            # by another criterion more may be broken without anything being wrong
            and np.array_equal(cell.wrong, blind.wrong)
        ]  # fmt: skip
        if blind.num_grads or not guided or not right.any():
            continue
        shown = np.zeros(right.shape, bool)
        for eps, hit in zip(blind.eps, blind.success, strict=True):
            held = [
                ~cell.success[cell.eps <= eps * (1 + 1e-9)].any(0)
                for cell in guided
                if cell.eps[-1] >= eps * (1 - 1e-9)
            ]
            if len(held) == len(guided):
                shown |= right & hit & np.all(held, axis=0)
        count, total = int(shown.sum()), int(right.sum())
        if count >= 2 and count > 0.002 * total:
            said.append(
                f"{name} on {model.name} broke {count} of {total} images, without any gradient, at "
                "a budget at which every attack with gradients failed: the gradients mislead, and "
                "robust accuracy under those attacks is too good."
            )
    return said


def _rise(cell: Cell) -> float:
    """Return how far accuracy under attack climbs above what a smaller budget had left."""
    alone = metrics.accuracy_under_attack(cell.success, cell.wrong)
    return float(np.max(alone - np.minimum.accumulate(alone)))


def baseline(found: Statistics) -> list[str]:
    """Name the models that are no better, before any attack, than an answer without looking."""
    target = found.group.target
    if found.group.dense:
        return []
    if found.group.multi:
        known = np.maximum((target >= 0).sum(0), 1)
        present = (target > 0).sum(0)
        lazy = float((np.maximum(present, known - present) * (target >= 0).any(0)).sum())
        chance, answer = lazy / known.sum(), "the more frequent answer for every finding"
    else:
        counts = np.bincount(target, minlength=len(found.group.class_names))
        chance = float(counts.max()) / target.size
        answer = f"{found.group.class_names[int(counts.argmax())]!r} for every image"
    said = []
    for name in dict.fromkeys(series.model for series in found.leading):
        series = next(s for s in found.leading if s.model == name)
        clean = float(series.robust.value[0])
        if found.group.multi and not found.multi:
            clean = _decided(found, name)
        if clean <= chance:
            what = "decisions" if found.group.multi else "clean images"
            area = next(
                (float(o.values["auroc"].value[0]) for o in found.outputs
                 if (o.model, o.attack) == (name, CLEAN) and "auroc" in o.values),
                float("nan"),
            )  # fmt: skip
            said.append(
                f"{name} on {found.group.data}: gets {_format.percent(clean)} of the {what} right "
                f"without any attack; {answer} would get {_format.percent(chance)}. What it keeps "
                "of that under attack says little about robustness. Its AUROC on clean images is "
                f"{_format.number(area)}; guessing has 0.5."
            )
    return said
