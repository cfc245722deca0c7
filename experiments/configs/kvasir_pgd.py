"""Polyps in colonoscopy (Kvasir-SEG, 64x64), a small U-Net, PGD adversarial training at 4/255.

advjax train experiments/configs/kvasir_pgd.py
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
    out="runs/kvasir_pgd",
    data=DataConfig(source="npz:kvasir_seg_64.npz", task="segmentation"),
    model=ModelConfig(name="unet", width=8),
    optimizer=OptimizerConfig(name="adam", learning_rate=4e-3, weight_decay=1e-3),
    augment=AugmentConfig(flip_horizontal=True, flip_vertical=True, crop_padding=4),
    method="pgd",
    eps=4 / 255,
    attack_steps=3,
    epochs=60,
    batch_size=16,
    ema=0.99,
    val_attack=AttackConfig(name="pgd", num_steps=5),
    val_examples=50,
    checkpoint_every=10,
)
