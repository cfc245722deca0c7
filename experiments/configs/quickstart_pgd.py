"""Quickstart, second model: the same ResNet, PGD-adversarially trained.

advjax train experiments/configs/quickstart_pgd.py
"""

import dataclasses
import runpy
from pathlib import Path

_standard = runpy.run_path(str(Path(__file__).with_name("quickstart_standard.py")))["config"]

config = dataclasses.replace(
    _standard,
    out="runs/quickstart/pgd",
    method="pgd",
    eps=4 / 255,
    attack_steps=5,
    val_eps=4 / 255,
    val_examples=96,
)
