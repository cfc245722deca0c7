"""Quickstart, the evaluation: both models, five attacks, sixteen budgets, 0.5/255 to 8/255.

advjax sweep experiments/configs/quickstart.py
"""

from advjax.config import SweepConfig

config = SweepConfig(
    out="runs/quickstart",
    runs=("runs/quickstart/standard", "runs/quickstart/pgd"),
    attacks=("fgsm", "bim", "pgd:num_steps=10", "mifgsm", "smia"),
    epsilons=tuple(i / 510 for i in range(1, 17)),
    batch_size=48,
)
