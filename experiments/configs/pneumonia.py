"""Pneumonia on chest X-rays: the standard and the PGD-trained model under attack.

export ADVJAX_DATA_DIR=...   # holds pneumoniamnist_28.npz
advjax train experiments/configs/pneumonia_standard.py
advjax train experiments/configs/pneumonia_pgd.py
advjax evaluate experiments/configs/pneumonia.py
"""

from advjax.config import EvaluateConfig

config = EvaluateConfig(
    out="runs/pneumonia",
    runs=("runs/pneumonia_standard", "runs/pneumonia_pgd"),
    attacks=("fgsm", "pgd:num_steps=20"),
    epsilons=tuple(i / 255 for i in range(1, 9)),
    batch_size=117,
)
