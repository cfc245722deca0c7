"""A network of two dense layers around a batch-norm, small enough for every transform in turn."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.models import Model
from advjax.training import methods
from advjax.types import Batch

SHAPE = (4, 4, 1)
CLASSES = 3
_HIDDEN = 8


def tiny_model(num_classes=CLASSES, axis_name=None, calls=None):
    """Return the model; `calls`, a list, grows by one entry per traced application."""

    def init(key, x):
        size = int(np.prod(x.shape[1:]))
        first, second = jax.random.split(key)
        return {
            "params": {
                "first": {"kernel": jax.random.normal(first, (size, _HIDDEN)) / 4},
                "norm": {"scale": jnp.ones(_HIDDEN), "bias": jnp.zeros(_HIDDEN)},
                "second": {
                    "kernel": jax.random.normal(second, (_HIDDEN, num_classes)) / 2,
                    "bias": jnp.zeros(num_classes),
                },
            },
            "batch_stats": {"mean": jnp.zeros(_HIDDEN), "var": jnp.ones(_HIDDEN)},
        }

    def apply(variables, x, train=False, rngs=None):
        del rngs
        if calls is not None:
            calls.append("train" if train else "eval")
        params, stats = variables["params"], variables["batch_stats"]
        h = (x - 0.5).reshape(x.shape[0], -1) @ params["first"]["kernel"]
        mean, var, new = stats["mean"], stats["var"], stats
        if train:
            mean, square = h.mean(0), (h**2).mean(0)
            if axis_name is not None:
                mean, square = jax.lax.pmean((mean, square), axis_name)
            var = square - mean**2
            new = {
                "mean": 0.9 * stats["mean"] + 0.1 * mean,
                "var": 0.9 * stats["var"] + 0.1 * var,
            }
        h = (h - mean) / jnp.sqrt(var + 1e-5)
        h = jax.nn.relu(h * params["norm"]["scale"] + params["norm"]["bias"])
        logits = h @ params["second"]["kernel"] + params["second"]["bias"]
        return (logits, {"batch_stats": new}) if train else logits

    return Model("tiny", init, apply)


def context():
    """Return what methods may have to know: the shape of the images, and another tiny model."""
    model = tiny_model()
    helper = methods.Helper(model.apply, model.init(jax.random.key(7), jnp.zeros((1, *SHAPE))))
    return methods.Context(SHAPE, helper)


def make_batch(size=16, seed=0, task="single", shape=SHAPE, classes=CLASSES):
    """Return a full batch whose images carry their label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size).astype(np.int32)
    pattern = np.random.default_rng(99).random((classes, *shape))
    image = 0.6 * pattern[labels] + 0.4 * rng.random((size, *shape))
    target = labels
    if task == "multi":
        target = rng.integers(0, 2, (size, classes)).astype(np.int32)
    return Batch(
        image=image.astype(np.float32),
        target=target,
        id=np.arange(seed * 1000, seed * 1000 + size, dtype=np.int32),
        valid=np.ones(size, bool),
    )
