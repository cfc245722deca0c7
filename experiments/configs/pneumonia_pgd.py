"""Pneumonia on chest X-rays, the same network PGD-adversarially trained at 4/255.

advjax train experiments/configs/pneumonia_pgd.py
"""

import dataclasses
import runpy
from pathlib import Path

_standard = runpy.run_path(str(Path(__file__).with_name("pneumonia_standard.py")))["config"]

config = dataclasses.replace(
    _standard,
    out="runs/pneumonia/pgd",
    method="pgd",
    eps=4 / 255,
    attack_steps=5,
    val_eps=4 / 255,
    val_examples=None,
)
