"""Every model and adapter, small, under the name that the contract test shows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from advjax import models

CLASSES = 3


class LinenNet(nn.Module):
    """Batch-norm and dropout, with one argument for each mode."""

    @nn.compact
    def __call__(self, x, deterministic=True, use_running_average=True):
        x = nn.Conv(6, (3, 3), conv_general_dilated=models.conv)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=use_running_average)(x))
        x = nn.Dropout(0.5, deterministic=deterministic)(x)
        return models.dense(
            models.global_mean(x), self.param("w", nn.initializers.normal(1.0), (6, CLASSES))
        )


class LinenPlain(nn.Module):
    """Neither statistics nor modes."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (2, 2), conv_general_dilated=models.conv)(x))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class NnxNet(nnx.Module):
    """Batch-norm and dropout; the mode is nnx's own."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 6, (3, 3), conv_general_dilated=models.conv, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))


def linear():
    """A linear model from two functions."""

    def init(key, x):
        return {"params": {"w": jax.random.normal(key, (x[0].size, CLASSES))}}

    return models.from_fn(
        lambda v, x: models.dense(x.reshape(x.shape[0], -1), v["params"]["w"]), init, name="linear"
    )


def centred():
    """A function that keeps statistics of its own."""

    def init(key, x):
        del key
        size = x[0].size
        w = jnp.cos(jnp.arange(size * CLASSES, dtype=x.dtype)).reshape(size, CLASSES)
        return {"params": {"w": w}, "batch_stats": {"mean": jnp.zeros(size, x.dtype)}}

    def apply(v, x, train=False, rngs=None):
        del rngs
        x = x.reshape(x.shape[0], -1)
        mean = x.mean(0) if train else v["batch_stats"]["mean"]
        logits = models.dense(x - mean, v["params"]["w"])
        return (logits, {"batch_stats": {"mean": mean}}) if train else logits

    return models.from_fn(apply, init, name="centred")


ZOO = {
    "small_cnn": lambda: models.small_cnn(CLASSES, width=4),
    "resnet18": lambda: models.resnet18(CLASSES, width=4),
    "resnet18-imagenet": lambda: models.resnet18(CLASSES, width=4, stem="imagenet"),
    "resnet34": lambda: models.resnet34(CLASSES, width=2),
    "resnet50": lambda: models.resnet50(CLASSES, width=2),
    "from_fn": linear,
    "from_fn-stats": centred,
    "from_linen": lambda: models.from_linen(LinenNet()),
    "from_linen-plain": lambda: models.from_linen(LinenPlain()),
    "from_nnx": lambda: models.from_nnx(NnxNet(nnx.Rngs(0))),
    "from_nnx-function": lambda: models.from_nnx(lambda rngs: NnxNet(rngs)),
}
WITH_STATS = [name for name in ZOO if name not in ("from_fn", "from_linen-plain")]
WITH_DROPOUT = ["from_linen", "from_nnx", "from_nnx-function"]
# All their operators are ours: a row has the same bits in every batch.
EXACT = ["small_cnn", "resnet18", "resnet18-imagenet", "resnet34", "resnet50", "from_fn"]
# The deep ones add nothing but compile time where the blocks are what is tested.
QUICK = [name for name in ZOO if name not in ("resnet34", "resnet50")]
