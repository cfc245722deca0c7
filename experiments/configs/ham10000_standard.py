"""Skin lesions (HAM10000, 64x64, 7 classes), standard training on class-balanced batches.

advjax train experiments/configs/ham10000_standard.py
"""

from advjax.config import (
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

config = TrainConfig(
    out="runs/ham10000/standard",
    data=DataConfig(source="npz:ham10000_64.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.05, weight_decay=0.005),
    augment=AugmentConfig(
        flip_horizontal=True, flip_vertical=True, rotate_degrees=20.0, crop_padding=4
    ),
    method="standard",
    epochs=12,
    batch_size=64,
    balanced=True,
    ema=0.99,
    val_eps=1 / 255,
    val_examples=32,
)
