"""Seven kinds of pigmented skin lesions (HAM10000, 64x64), standard class-balanced training.

advjax train experiments/configs/ham10000_standard.py

About 8 minutes on 2 shared CPU cores. Balanced test accuracy 0.612 (seed 0, 2026-11, jax 0.10.2).
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/ham10000_standard",
    data=DataConfig(source="npz:ham10000_64.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(
        name="sgd", learning_rate=0.05, schedule="onecycle", weight_decay=5e-3
    ),
    augment=AugmentConfig(
        flip_horizontal=True, flip_vertical=True, rotate_degrees=20, crop_padding=4
    ),
    method="standard",
    epochs=20,
    batch_size=64,
    balanced=True,
    ema=0.99,
    val_examples=0,
)
