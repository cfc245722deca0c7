"""Pneumonia in chest X-rays (PneumoniaMNIST, 28x28), TRADES at 4/255 and beta 6.

advjax train experiments/configs/pneumonia_trades.py

With --epochs 5 (185 updates), latest checkpoint: test accuracy 0.868; under PGD-20 0.767 at 4/255
and 0.611 at 8/255. Standard training of as many updates: 0.885, 0.504 and 0.120 (seed 0, 2026-11,
jax 0.10.2).
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
    out="runs/pneumonia_trades",
    data=DataConfig(source="npz:pneumoniamnist_28.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, schedule="onecycle"),
    augment=AugmentConfig(flip_horizontal=True, rotate_degrees=20, crop_padding=3),
    method="trades",
    eps=4 / 255,
    attack_steps=5,
    beta=6.0,
    epochs=20,
    balanced=True,
    batch_size=64,
    ema=0.99,
    val_attack=AttackConfig(name="pgd", num_steps=10),
    checkpoint_every=5,
)
