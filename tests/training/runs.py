"""Small runs: a file of images, a config, a network of one layer."""

import numpy as np

from advjax import models, training
from advjax.config import (
    AttackConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from tests.training.tiny import tiny_model

CLASSES = 5


def write_npz(path, *, multi=False, seed=0):
    """Write a small file of the MedMNIST layout whose images carry their label."""
    random = np.random.default_rng(seed)
    pattern = random.random((CLASSES, 12, 12, 3))
    arrays = {}
    for name, size in (("train", 64), ("val", 40), ("test", 16)):
        labels = random.integers(0, CLASSES, size)
        images = 0.5 * pattern[labels] + 0.5 * random.random((size, 12, 12, 3))
        arrays[f"{name}_images"] = (255 * images).astype(np.uint8)
        hot = (random.random((size, CLASSES)) < 0.5).astype(np.uint8)
        arrays[f"{name}_labels"] = hot if multi else labels[:, None].astype(np.uint8)
    np.savez(path, **arrays)
    return DataConfig(source=f"npz:{path}")


def use_tiny(patch):
    calls = []
    patch.setattr(models, "build", lambda config, num_classes: tiny_model(num_classes, calls=calls))
    return calls


def make_config(folder, **fields):
    defaults = {
        "out": str(folder),
        "model": ModelConfig(name="small_cnn", width=4),
        "optimizer": OptimizerConfig(learning_rate=0.05),
        "method": "pgd",
        "eps": 0.02,
        "attack_steps": 2,
        "epochs": 3,
        "batch_size": 16,
        "val_attack": AttackConfig(name="pgd", num_steps=2),
        "val_examples": 16,
    }
    return TrainConfig(**{**defaults, **fields})


def train(config):
    return training.train(config, progress=False)
