"""SMIA, grades of retinopathy in the fundus: a small ResNet-18 on procedural images.

advjax train experiments/smia/fundus.py
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/smia/fundus",
    data=DataConfig(source="phantom:fundus", num_test=128),
    model=ModelConfig(name="resnet18", width=8),
    optimizer=OptimizerConfig(name="adam", learning_rate=2e-3),
    augment=AugmentConfig(flip_horizontal=True),
    method="standard",
    epochs=8,
    batch_size=64,
    val_examples=0,
    checkpoint_every=8,
)
