"""SMIA, boxes of artefacts in endoscopy: a small CenterNet on procedural images.

advjax train experiments/smia/endoscopy.py
"""

from advjax.config import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    out="runs/smia/endoscopy",
    data=DataConfig(
        source="phantom:endoscopy", size=64, num_train=1024, num_val=128, num_test=128,
        task="detection",
    ),
    model=ModelConfig(name="centernet", width=12),
    optimizer=OptimizerConfig(name="adam", learning_rate=3e-3),
    augment=AugmentConfig(flip_horizontal=True, flip_vertical=True),
    method="standard",
    epochs=30,
    batch_size=32,
    val_examples=0,
)  # fmt: skip
