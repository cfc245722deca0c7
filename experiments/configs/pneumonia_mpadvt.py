"""Pneumonia in chest X-rays (PneumoniaMNIST, 28x28), MPAdvT.

advjax train experiments/configs/pneumonia_mpadvt.py

As Xu et al. (2021): half of the images, budgets of 0.01 to 0.04, 1 to 9 steps of 1/255. `eps` is
that of the validation.

With --epochs 5 (185 updates), latest checkpoint: test accuracy 0.868; under PGD-20 0.737 at 4/255
and 0.500 at 8/255. Standard training of as many updates: 0.885, 0.504 and 0.120 (seed 0, 2026-11,
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
    out="runs/pneumonia_mpadvt",
    data=DataConfig(source="npz:pneumoniamnist_28.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, schedule="onecycle"),
    augment=AugmentConfig(flip_horizontal=True, rotate_degrees=20, crop_padding=3),
    method="mpadvt",
    eps=4 / 255,
    eps_range=(0.01, 0.04),
    steps_range=(1, 9),
    epochs=20,
    balanced=True,
    batch_size=64,
    ema=0.99,
    val_attack=AttackConfig(name="pgd", num_steps=10),
    checkpoint_every=5,
)
