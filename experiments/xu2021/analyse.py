"""Xu et al. (2021): PGD and GAP against trained models, and what happens inside of them.

python -m experiments.xu2021.analyse RUN... [--out FILE] [--examples 256]

RUN are folders of `advjax train`, of one label or of several findings. Prints Markdown: accuracy,
AUROC and fooling rate under PGD and under GAP; GAP against its magnitude; saliency, separability of
features, correlation of findings and which are told together, clean against PGD; flip probability
under the 14 common perturbations. The same goes to FILE.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from advjax import analysis, attacks, losses, metrics, models, threat, training
from advjax.analysis import perturbations
from experiments.subject import Subject, load, objective_of, outputs_of

# eps in 1/255 and steps of 1/255, as in the scripts of the paper
PGD = ((2, 2), (4, 4), (8, 20))
MAGNITUDES = (5, 7, 10, 13)


def decided(subject: Subject, outputs: np.ndarray) -> np.ndarray:
    """Return classes `[N]`, or findings `[N, K]`."""
    return outputs > 0 if subject.task.name == "multi" else outputs.argmax(1)


def scores_of(subject: Subject, outputs: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """Return accuracy, mean AUROC and fooling rate, in percent."""
    multi = subject.task.name == "multi"
    found, before = decided(subject, outputs), decided(subject, clean)
    hot = subject.y if multi else np.eye(outputs.shape[1])[subject.y]
    right = metrics.label_accuracy(found, subject.y) if multi else np.mean(found == subject.y)
    fooled = np.mean(found != before) if multi else metrics.fooling_rate(before, found)
    ranked = outputs if multi else np.asarray(jax.nn.softmax(outputs))
    values = (right, metrics.auroc(ranked, hot).mean, fooled)
    return {
        name: 100 * float(value)
        for name, value in zip(("accuracy", "auroc", "fooled"), values, strict=True)
    }


def pgd(subject: Subject, eps: float, steps: int) -> np.ndarray:
    """Return attacked images; every step is 1/255."""

    @jax.jit
    def run(variables: Any, x: Any, y: Any) -> Any:
        attack = attacks.pgd(
            objective_of(subject, variables), threat.linf(), num_steps=steps,
            step_size=1 / (255 * eps),
        )  # fmt: skip
        return attacks.run(attack, jax.random.key(0), x, y, eps, stop="budget").x_adv

    return np.asarray(run(subject.variables, subject.x, subject.y))


def gap(subject: Subject, magnitudes: tuple[int, ...], options: Any) -> list[np.ndarray]:
    """Train a generator for each magnitude; return attacked test images for each."""
    multi = subject.task.name == "multi"
    generator = models.gap_unet(subject.x.shape[-1], width=options.gap_width)
    found = training.train_gap(
        generator, subject.model.apply, subject.variables,
        subject.dataset.splits["train"], subject.dataset.splits["val"],
        eps=[m / 255 for m in magnitudes],
        loss=losses.binary_cross_entropy if multi else losses.cross_entropy,
        goal=training.flip_predictions if multi else training.least_likely,
        epochs=options.gap_epochs, batches_per_epoch=options.gap_batches,
        # the paper's rate of 2e-4 is meant for 800 steps and more
        optimizer=optax.adam(options.gap_rate),
    )  # fmt: skip

    @jax.jit
    def run(params: Any, made: Any, x: Any, y: Any, eps: Any) -> Any:
        objective = objective_of(subject, params)
        attack = attacks.gap(
            objective, threat.linf(), generate=lambda x: training.generated(generator, made, x)
        )
        return attacks.run(attack, jax.random.key(0), x, y, eps, stop="budget").x_adv

    return [
        np.asarray(run(subject.variables, made, subject.x, subject.y, np.float32(eps)))
        for made, eps in zip(found.variables, found.eps, strict=True)
    ]


def inside(subject: Subject, x_adv: np.ndarray) -> dict[str, float]:
    """Compare what the model looks at, and how well its features tell classes apart."""
    model, variables = subject.model, subject.variables
    maps = jax.jit(lambda v, x: analysis.saliency(model.apply, v, x))
    shift = analysis.cam_shift(maps(variables, subject.x), maps(variables, x_adv))
    told = {"saliency shift": float(shift.mean())}
    if subject.task.name == "multi":
        clean, adv = outputs_of(subject, subject.x), outputs_of(subject, x_adv)
        pairs = metrics.paired_correlation(clean, adv)
        return told | {"correlation of findings": float(pairs.mean)}
    layer = analysis.last_map(model, variables, subject.x)
    for name, x in (("clean", subject.x), ("PGD", x_adv)):
        points = analysis.features(model, variables, x, layer)
        told[f"Fisher ratio, {name}"] = analysis.fisher_ratio(points, subject.y)
    return told


def flips(subject: Subject, examples: int = 64) -> dict[str, float]:
    """Return the flip probability of each common perturbation."""
    x = subject.x[:examples]
    keys, told = jax.random.split(jax.random.key(0), len(x)), {}
    for name in perturbations.PERTURBATIONS:
        frames = np.asarray(perturbations.video(name, keys, x))
        found = decided(subject, outputs_of(subject, frames.reshape(-1, *x.shape[1:])))
        found = found.reshape(*frames.shape[:2], *found.shape[1:])
        told[name] = perturbations.flip_rate(name, found)
    return told


def analyse(subject: Subject, options: Any) -> dict[str, Any]:
    clean = outputs_of(subject, subject.x)
    told: dict[str, Any] = {"none": scores_of(subject, clean, clean)}
    attacked = {}
    for eps, steps in PGD:
        attacked[f"PGD {eps}/255, {steps} steps"] = pgd(subject, eps / 255, steps)
    sweep = MAGNITUDES if subject.name == "standard" else (10,)
    for magnitude, x_adv in zip(sweep, gap(subject, sweep, options), strict=True):
        attacked[f"GAP {magnitude}/255"] = x_adv
    for name, x_adv in attacked.items():
        told[name] = scores_of(subject, outputs_of(subject, x_adv), clean)
    strongest = attacked["PGD 4/255, 4 steps"]
    found = {"attacks": told, "inside": inside(subject, strongest), "flips": flips(subject)}
    if subject.task.name == "multi":
        found["together"] = together(subject, {"clean": subject.x, "PGD": strongest})
        found["findings"] = list(subject.dataset.class_names)
    return found


def together(subject: Subject, images: dict[str, np.ndarray]) -> dict[str, list[list[int]]]:
    """Count which findings are told together, beside which are there together."""
    found = {"truth": metrics.co_occurrence(subject.y)}
    for name, x in images.items():
        found[name] = metrics.co_occurrence(decided(subject, outputs_of(subject, x)))
    return {name: counts.tolist() for name, counts in found.items()}


def table(rows: list[str], columns: dict[str, dict[str, Any]], form: str = "{:.3f}") -> None:
    print(f"\n| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for row in rows:
        cells = [form.format(column[row]) if row in column else "" for column in columns.values()]
        print(f"| {row} | {' | '.join(cells)} |")


def show(told: dict[str, dict[str, Any]]) -> None:
    first = next(iter(told.values()))
    rows = list(dict.fromkeys(row for model in told.values() for row in model["attacks"]))
    for field in ("accuracy", "auroc", "fooled"):
        print(f"\n{field}, %")
        columns = {n: {r: v[field] for r, v in t["attacks"].items()} for n, t in told.items()}
        table(rows, columns, "{:.1f}")
    print("\nclean against PGD 4/255, 4 steps")
    table(list(first["inside"]), {name: t["inside"] for name, t in told.items()})
    if "together" in first:
        show_together(told)
    print("\nflip probability")
    table(list(first["flips"]), {name: t["flips"] for name, t in told.items()})


def show_together(told: dict[str, dict[str, Any]], most: int = 8) -> None:
    """Print the pairs of findings that are most often there together, and the sums of all."""
    names = next(iter(told.values()))["findings"]
    counts = {
        (model, kind): np.asarray(found) for model, t in told.items()
        for kind, found in t["together"].items()
    }  # fmt: skip
    truth = counts[next(iter(told)), "truth"]
    above = np.triu_indices(len(truth), 1)
    order = np.argsort(-truth[above], kind="stable")[:most]
    columns = {"truth": truth} | {
        f"{model}, {kind}": found for (model, kind), found in counts.items() if kind != "truth"
    }
    print(f"\nimages with both findings (label co-occurrence), the {most} most common pairs")
    rows = {
        f"{names[i]} and {names[j]}": (i, j)
        for i, j in zip(above[0][order], above[1][order], strict=True)
    }
    shown = {
        title: {row: int(found[at]) for row, at in rows.items()}
        | {"all pairs": int(found[above].sum()), "one finding only": int(np.trace(found))}
        for title, found in columns.items()
    }
    table([*rows, "all pairs", "one finding only"], shown, "{}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("runs/xu2021/analyse.json"))
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--gap-width", type=int, default=8)
    parser.add_argument("--gap-epochs", type=int, default=4)
    parser.add_argument("--gap-batches", type=int, default=60)
    parser.add_argument("--gap-rate", type=float, default=1e-3)
    options = parser.parse_args()
    told = {}
    for run in options.runs:
        subject = load(run, options.examples)
        print(f"{run}: attacked and analysed", file=sys.stderr, flush=True)
        told[subject.name] = analyse(subject, options)
    show(told)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
