"""Skin lesions: four networks under FGSM and PGD, from 0.5/255 to 8/255.

advjax evaluate experiments/skin_lesions/robustness.py
"""

from advjax.config import EvaluateConfig

NAMES = ("standard", "fgsm", "pgd", "mixed")

config = EvaluateConfig(
    out="runs/skin_lesions/robustness",
    runs=tuple(f"runs/skin_lesions/{name}" for name in NAMES),
    attacks=("fgsm", "pgd:num_steps=10,step_size=0.25"),
    epsilons=tuple(i / 255 for i in (0.5, 1, 2, 4, 6, 8)),
)
