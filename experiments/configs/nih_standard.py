"""Fourteen findings in chest X-rays (a sample of NIH ChestX-ray14, 64x64), standard training.

advjax train experiments/configs/nih_standard.py
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/nih_standard",
    data=DataConfig(source="npz:nih1000_64.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, weight_decay=1e-2),
    augment=AugmentConfig(flip_horizontal=True, rotate_degrees=10, crop_padding=4),
    method="standard",
    epochs=30,
    batch_size=32,
    ema=0.99,
    val_examples=0,
    checkpoint_every=10,
)
