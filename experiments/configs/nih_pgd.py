"""Fourteen findings in chest X-rays, PGD adversarial training at 2/255.

advjax train experiments/configs/nih_pgd.py
"""

from advjax.config import (
    AttackConfig,
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

config = TrainConfig(
    out="runs/nih_pgd",
    data=DataConfig(source="npz:nih1000_64.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, weight_decay=1e-2),
    augment=AugmentConfig(flip_horizontal=True, rotate_degrees=10, crop_padding=4),
    method="pgd",
    eps=2 / 255,
    attack_steps=4,
    epochs=30,
    batch_size=32,
    ema=0.99,
    val_attack=AttackConfig(name="pgd", num_steps=10),
    checkpoint_every=10,
)
