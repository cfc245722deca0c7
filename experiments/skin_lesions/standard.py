"""Skin lesions, the plain network: procedural dermoscopy, 7 classes, 32x32.

advjax train experiments/skin_lesions/standard.py
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/skin_lesions/standard",
    data=DataConfig(source="phantom:dermoscopy", num_test=256),
    model=ModelConfig(name="resnet18", width=8),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, schedule="onecycle"),
    augment=AugmentConfig(flip_horizontal=True, flip_vertical=True),
    method="standard",
    epochs=12,
    batch_size=64,
    balanced=True,
    val_eps=2 / 255,
    val_examples=64,
)
