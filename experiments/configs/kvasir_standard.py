"""Polyps in colonoscopy (Kvasir-SEG, 64x64), a small U-Net, standard training.

advjax train experiments/configs/kvasir_standard.py
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/kvasir_standard",
    data=DataConfig(source="npz:kvasir_seg_64.npz", task="segmentation"),
    model=ModelConfig(name="unet", width=8),
    optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, weight_decay=1e-3),
    augment=AugmentConfig(flip_horizontal=True, flip_vertical=True, crop_padding=4),
    method="standard",
    epochs=40,
    batch_size=16,
    ema=0.99,
    val_examples=0,
    checkpoint_every=10,
)
