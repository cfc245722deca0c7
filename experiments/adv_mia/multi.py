"""Dong et al. (2024), several findings: a ResNet-18 on procedural chest X-rays.

advjax train experiments/adv_mia/multi.py --method pgd --out runs/adv_mia/xray-findings/pgd
"""

import dataclasses
import runpy
from pathlib import Path

from advjax.config import AugmentConfig, DataConfig

_single = runpy.run_path(str(Path(__file__).with_name("single.py")))["config"]

config = dataclasses.replace(
    _single,
    out="runs/adv_mia/xray-findings/standard",
    data=DataConfig(source="phantom:xray", num_test=256),
    augment=AugmentConfig(flip_horizontal=True),
    balanced=False,
    eps=4 / 255,
)
