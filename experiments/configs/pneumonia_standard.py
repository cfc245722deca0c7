"""Pneumonia on chest X-rays (PneumoniaMNIST layout, 28x28), standard training.

advjax train experiments/configs/pneumonia_standard.py
"""

from advjax.config import (
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

config = TrainConfig(
    out="runs/pneumonia/standard",
    data=DataConfig(source="npz:pneumoniamnist_28.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.05, weight_decay=0.01),
    augment=AugmentConfig(flip_horizontal=True, rotate_degrees=15.0, crop_padding=3),
    method="standard",
    epochs=20,
    batch_size=64,
    ema=0.99,
    val_examples=64,
    checkpoint_every=2,
)
