"""Xu et al. (2021), chest X-rays, several findings: a ResNet-18 on procedural images.

advjax train experiments/xu2021/xray.py --method mpadvt --out runs/xu2021/xray/mpadvt

The paper's DenseNet-121 is the network of the full size (`experiments/xu2021/run full`).
"""

import dataclasses
import runpy
from pathlib import Path

from advjax.config import AugmentConfig, DataConfig, ModelConfig

_melanoma = runpy.run_path(str(Path(__file__).with_name("melanoma.py")))["config"]

config = dataclasses.replace(
    _melanoma,
    out="runs/xu2021/xray/standard",
    data=DataConfig(source="phantom:xray", num_test=256),
    model=ModelConfig(name="resnet18", width=8),
    augment=AugmentConfig(flip_horizontal=True),
    balanced=False,
    eps=4 / 255,
    epochs=12,
)
