"""COVID-19 in single slices of CT (COVID-CT, 64x64), standard training.

advjax train experiments/configs/covid_ct_standard.py
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/covid_ct_standard",
    data=DataConfig(source="npz:covid_ct_64.npz"),
    model=ModelConfig(name="resnet18", width=16, stem="imagenet"),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, weight_decay=1e-2),
    augment=AugmentConfig(flip_horizontal=True, rotate_degrees=10, crop_padding=6),
    method="standard",
    epochs=40,
    batch_size=32,
    balanced=True,
    ema=0.99,
    val_examples=0,
    checkpoint_every=10,
)
