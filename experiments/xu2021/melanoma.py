"""Xu et al. (2021), skin lesions, one label: AttnVGG on procedural dermoscopy.

advjax train experiments/xu2021/melanoma.py --method mpadvt --out runs/xu2021/melanoma/mpadvt

Attack in training: 4 steps of a quarter of eps, as in the paper's scripts, at half of their 4/255
(a budget that a network of this size learns); `experiments/xu2021/run full` takes theirs.
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
    out="runs/xu2021/melanoma/standard",
    data=DataConfig(source="phantom:dermoscopy", num_test=256),
    model=ModelConfig(name="attn_vgg", width=8),
    optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, schedule="cosine"),
    augment=AugmentConfig(flip_horizontal=True, flip_vertical=True),
    method="standard",
    eps=2 / 255,
    attack_steps=4,
    attack_step_size=0.25,
    epochs=40,
    batch_size=64,
    balanced=True,
    val_attack=AttackConfig(name="pgd", num_steps=4, step_size=0.25),
    val_examples=128,
    checkpoint_every=2,
)
