"""Skin lesions, the same network trained with PGD images at 2/255.

advjax train experiments/skin_lesions/pgd.py
"""

import dataclasses
import runpy
from pathlib import Path

_standard = runpy.run_path(str(Path(__file__).with_name("standard.py")))["config"]

config = dataclasses.replace(
    _standard, out="runs/skin_lesions/pgd", method="pgd", eps=2 / 255, attack_steps=5
)
