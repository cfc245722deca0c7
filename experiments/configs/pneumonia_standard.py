"""Pneumonia in chest X-rays (PneumoniaMNIST, 28x28), standard training.

advjax train experiments/configs/pneumonia_standard.py
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/pneumonia_standard",
    data=DataConfig(source="npz:pneumoniamnist_28.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, schedule="onecycle"),
    augment=AugmentConfig(flip_horizontal=True, rotate_degrees=20, crop_padding=3),
    method="standard",
    epochs=40,
    batch_size=64,
    ema=0.99,
    val_examples=0,
    checkpoint_every=40,
)
