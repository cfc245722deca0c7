"""SMIA, segmentation of lesions in CT: a small U-Net on procedural images.

advjax train experiments/smia/ct.py
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/smia/ct",
    data=DataConfig(source="phantom:ct", num_test=128, task="segmentation"),
    model=ModelConfig(name="unet", width=4),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-2),
    augment=AugmentConfig(flip_horizontal=True),
    method="standard",
    epochs=30,
    batch_size=64,
    val_examples=0,
    checkpoint_every=10,
)
