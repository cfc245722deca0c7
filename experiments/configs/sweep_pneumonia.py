"""Pneumonia on chest X-rays: whole robustness curves of both models, by the engine.

export ADVJAX_DATA_DIR=...   # holds pneumoniamnist_28.npz
advjax train experiments/configs/pneumonia_standard.py
advjax train experiments/configs/pneumonia_pgd.py
advjax sweep experiments/configs/sweep_pneumonia.py
"""

from advjax.config import SweepConfig

config = SweepConfig(
    out="runs/sweep_pneumonia",
    runs=("runs/pneumonia_standard", "runs/pneumonia_pgd"),
    attacks=("fgsm", "pgd:num_steps=100,step_size=0.25", "mifgsm"),
    epsilons=tuple(i / 510 for i in range(1, 17)),
    seeds=(0, 1),
)
