"""Dong et al. (2024), one label: a ResNet-18 on procedural dermoscopy, attacked at 2/255.

advjax train experiments/adv_mia/single.py --method trades --out runs/adv_mia/melanoma/trades

A budget that a network of this size learns; `experiments/adv_mia/run full` takes 8/255.
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
    out="runs/adv_mia/melanoma/standard",
    data=DataConfig(source="phantom:dermoscopy", num_test=256),
    model=ModelConfig(name="resnet18", width=8),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, schedule="onecycle"),
    augment=AugmentConfig(flip_horizontal=True, flip_vertical=True),
    method="standard",
    eps=2 / 255,
    attack_steps=5,
    beta=6.0,
    epochs=12,
    batch_size=64,
    balanced=True,
    val_attack=AttackConfig(name="pgd", num_steps=10),
    val_examples=128,
    checkpoint_every=2,
)
