"""Dong et al. (2024), masks: a small U-Net on the lesions of procedural dermoscopy.

advjax train experiments/adv_mia/masks.py --method pgd --out runs/adv_mia/lesions/pgd
"""

import dataclasses
import runpy
from pathlib import Path

from advjax.config import DataConfig, ModelConfig, OptimizerConfig

_single = runpy.run_path(str(Path(__file__).with_name("single.py")))["config"]

config = dataclasses.replace(
    _single,
    out="runs/adv_mia/lesions/standard",
    data=DataConfig(source="phantom:dermoscopy", num_test=256, task="segmentation"),
    model=ModelConfig(name="unet", width=4),
    optimizer=OptimizerConfig(name="adam", learning_rate=2e-3),
    balanced=False,
    attack_steps=3,
    eps=8 / 255,
    val_examples=64,
)
