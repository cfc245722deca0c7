"""Pneumonia in chest X-rays (PneumoniaMNIST, 28x28), standard training.

advjax train experiments/configs/pneumonia_standard.py

About 1 minute on 2 shared CPU cores. Test accuracy 0.874, 0.900 and 0.904 (seeds 0, 1 and 2); under
PGD-20 (seed 0) 0.297 at 4/255 and 0.015 at 8/255 (2026-11, jax 0.10.2).
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/pneumonia_standard",
    data=DataConfig(source="npz:pneumoniamnist_28.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, schedule="onecycle"),
    augment=AugmentConfig(flip_horizontal=True, rotate_degrees=20, crop_padding=3),
    method="standard",
    epochs=20,
    balanced=True,
    batch_size=64,
    ema=0.99,
    val_examples=0,
    checkpoint_every=20,
)
