"""SMIA (Qi et al., ICLR 2021) beside FGSM, BIM, PGD, MI-FGSM and DAG at equal budget and steps.

python -m experiments.smia.compare RUN... [--out FOLDER] [--examples 128] [--eps 0.5/255]

RUN are folders of `advjax train`, of any task; DAG (Xie et al. 2017) attacks masks and boxes only,
in steps of 0.5/255 as published and in steps of the whole budget. Prints, as Markdown, what
each attack leaves right with 95 % intervals over images, the differences from PGD (paired), the
variance of the perturbations, the divergence of the predictions iterate by iterate with and without
the stabilisation, and what weight and kernel change. The same goes to FOLDER/compare.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import analysis, attacks, threat
from experiments.subject import Subject, load, number, objective_of, share

PLAIN = {
    "fgsm": lambda objective, ball, steps: attacks.fgsm(objective, ball),
    "bim": lambda objective, ball, steps: attacks.bim(objective, ball, num_steps=steps),
    "pgd": lambda objective, ball, steps: attacks.pgd(objective, ball, num_steps=steps),
    "mifgsm": lambda objective, ball, steps: attacks.mifgsm(objective, ball, num_steps=steps),
}

DENSE = {
    "dag": lambda objective, ball, steps: attacks.dag(objective, ball, num_steps=steps),
    "dag, steps of eps": lambda objective, ball, steps: attacks.dag(
        objective, ball, num_steps=steps, step_size=1.0
    ),
}


def smia(**options: Any) -> Any:
    return lambda objective, ball, steps: attacks.smia(objective, ball, num_steps=steps, **options)


VARIANTS = {
    "smia": smia(),
    "smia, hard reference": smia(target="hard"),
    "smia, weight 0": smia(a2=0.0),
    "smia, weight 0.2": smia(a2=0.2),
    "smia, weight 5": smia(a2=5.0),
    "smia, kernel 5": smia(ksize=5),
    "smia, kernel 7, sigma 2": smia(ksize=7, sigma=2.0),
    "smia, last step": smia(smooth="last_step"),
}


class Outcome(NamedTuple):
    """What an attack left: `[N]` right, and the attacked images `[N, H, W, C]`."""

    right: np.ndarray
    x_adv: np.ndarray


def attacked(subject: Subject, make: Any, eps: float, steps: int) -> Outcome:
    ball = threat.linf()

    @jax.jit
    def run(variables: Any, x: Any, y: Any) -> Any:
        attack = make(objective_of(subject, variables), ball, steps)
        result = attacks.run(attack, jax.random.key(0), x, y, eps, stop="budget")
        right = jax.vmap(subject.task.right)(subject.model.apply(variables, result.x_adv), y)
        return right, result.x_adv

    return Outcome(*map(np.asarray, run(subject.variables, subject.x, subject.y)))


def traced(subject: Subject, make: Any, eps: float, steps: int) -> analysis.Trace:
    @jax.jit
    def run(variables: Any, x: Any, y: Any) -> Any:
        attack = make(objective_of(subject, variables), threat.linf(), steps)
        return analysis.trace(attack, jax.random.key(0), x, y, eps)

    return jax.tree.map(np.asarray, run(subject.variables, subject.x, subject.y))


def compare(subject: Subject, eps: float, steps: int) -> dict[str, Any]:
    """Attack one subject in every way; print its tables and return them."""
    output = jax.jit(subject.model.apply)(subject.variables, subject.x)
    clean = np.asarray(jax.vmap(subject.task.right)(output, jnp.asarray(subject.y)))
    told = subject.task.scores(
        np.asarray(jax.vmap(subject.task.readout)(output, jnp.asarray(subject.y))), subject.y
    )
    about = f"{len(clean)} images, {subject.task.name}"
    print(f"\n### {subject.name} ({about}), eps {eps * 255:.3g}/255")
    print(f"\nClean: {', '.join(f'{name} {value:.3f}' for name, value in told.items())}.")
    print("\n| attack | right, % | below PGD, points | variance of the change, (1/255)^2 |")
    print("|---|---|---|---|")
    print(f"| none | {share(clean)} | | |")
    dense = DENSE if subject.task.name in ("segmentation", "detection") else {}
    makers = {**PLAIN, **dense, **VARIANTS}
    found = {n: attacked(subject, make, eps, steps) for n, make in makers.items()}
    rows: dict[str, Any] = {"none": {"right": float(clean.mean()), **told}}
    for name, outcome in found.items():
        spread = analysis.perturbation_variance(subject.x, outcome.x_adv)
        stands = outcome.right & clean
        gap = (found["pgd"].right & clean).astype(float) - stands
        rows[name] = {
            "right": float(stands.mean()), "below_pgd": float(gap.mean()),
            "variance": spread.mean_within,
        }  # fmt: skip
        against = "" if name == "pgd" else share(gap)
        print(f"| {name} | {share(stands)} | {against} | {spread.mean_within * 255**2:.3f} |")
    rows["traces"] = {}
    print("\n| iterate | KL from the last, smia | weight 0 | KL from clean, smia | weight 0 |")
    print("|---|---|---|---|---|")
    pair = [traced(subject, VARIANTS[n], eps, steps) for n in ("smia", "smia, weight 0")]
    for name, told in zip(("smia", "weight 0"), pair, strict=True):
        rows["traces"][name] = {
            field: getattr(told, field).mean(1).tolist()
            for field in ("from_last", "from_clean", "to_target", "loss", "variance")
        }
    for step in range(steps + 1):
        values = [
            f"{getattr(told, field)[step].mean():.4f}"
            for field in ("from_last", "from_clean")
            for told in pair
        ]
        print(f"| {step} | {' | '.join(values)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out", default="runs/smia")
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--eps", type=number, default=0.5 / 255)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    tables = {}
    for run in options.runs:
        subject = load(run, options.examples)
        tables[subject.name] = compare(subject, options.eps, options.steps)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"eps": options.eps, "steps": options.steps, "examples": options.examples}
    text = json.dumps({"settings": settings, "tables": tables}, indent=1)
    (out / "compare.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
