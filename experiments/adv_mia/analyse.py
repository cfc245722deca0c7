"""Dong et al. (2024): what a defence costs, and where Grad-CAM looks as the budget grows.

python -m experiments.adv_mia.analyse RUN... [--examples 128]

RUN are folders of `advjax train`. Prints Markdown: seconds an epoch, and (not of masks) how far
the maps move between clean images and those of PGD-20 at 1, 2, 4 and 8 of 255 (one minus cosine).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from advjax import analysis, attacks, threat
from experiments.subject import Subject, load, objective_of

BUDGETS = (1, 2, 4, 8)


def seconds(folder: str) -> float:
    """Return the median of the epochs from the second on: the first one compiles."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    spent = [json.loads(line)["train_seconds"] for line in lines]
    return float(np.median(spent[1:] or spent))


def drift(subject: Subject) -> list[float]:
    layer = analysis.last_map(subject.model, subject.variables, subject.x)

    @jax.jit
    def maps(variables: Any, x: Any) -> Any:
        return analysis.grad_cam(subject.model, variables, x, layer)

    @jax.jit
    def attacked(variables: Any, x: Any, y: Any, eps: Any) -> Any:
        objective = objective_of(subject, variables)
        attack = attacks.pgd(objective, threat.linf(), num_steps=20, step_size=0.25)
        return attacks.run(attack, jax.random.key(0), x, y, eps, stop="budget").x_adv

    clean = maps(subject.variables, subject.x)
    moved = []
    for budget in BUDGETS:
        x_adv = attacked(subject.variables, subject.x, subject.y, budget / 255)
        shift = analysis.cam_shift(clean, maps(subject.variables, x_adv))
        moved.append(float(shift.mean()))
    return moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--examples", type=int, default=128)
    options = parser.parse_args()
    heads = [f"Grad-CAM at {budget}/255" for budget in BUDGETS]
    print(f"\n| model | seconds an epoch | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
    for run in options.runs:
        subject = load(run, options.examples)
        masks = subject.task.name == "segmentation"
        cells = [""] * len(BUDGETS) if masks else [f"{value:.3f}" for value in drift(subject)]
        print(f"| {subject.name} | {seconds(run):.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
