"""Quickstart, first model: a small ResNet on dermoscopy phantoms, trained plainly.

advjax train experiments/configs/quickstart_standard.py
"""

from advjax.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/quickstart/standard",
    data=DataConfig(
        source="phantom:dermoscopy",
        size=32,
        num_train=1536,
        num_val=192,
        num_test=48,
        difficulty=0.3,
        signal=1.5,
    ),
    model=ModelConfig(name="resnet18", width=8),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, schedule="onecycle"),
    method="standard",
    epochs=8,
    batch_size=64,
    val_examples=64,
)
