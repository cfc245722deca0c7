"""DenseNet-121 (Huang et al., "Densely Connected Convolutional Networks", 2016).

With one logit for each of 14 findings it is CheXNet (Rajpurkar et al., 2017): the sigmoid
belongs to the loss.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advjax.models import _base, _layers, _ops

Array = jax.Array

_SMALLEST = {"cifar": 8, "imagenet": 32}


class DenseLayer(nn.Module):
    """Batch-norm, ReLU and convolution, 1x1 and then 3x3, whose output joins the input."""

    growth: int
    newest_first: bool
    norm: _layers.Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, C + growth]`."""
        y = nn.relu(self.norm(name="norm1")(x))
        y = nn.relu(self.norm(name="norm2")(_layers.conv(4 * self.growth, 1, name="conv1")(y)))
        y = _layers.conv(self.growth, 3, name="conv2")(y)
        return jnp.concatenate([y, x] if self.newest_first else [x, y], axis=-1)


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions that halve, batch-norm, global average, dense head."""

    num_classes: int
    depths: Sequence[int]
    width: int
    stem: str
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` images in [0, 1] to `[B, num_classes]` logits."""
        _base.check_images(x, "densenet121")
        norm, cifar = _layers.batch_norm(train, self.axis_name), self.stem == "cifar"
        x = _layers.grow(_layers.normalise(x, self.mean, self.std), _SMALLEST[self.stem])
        if cifar:
            x = _layers.conv(self.width, 3, name="stem")(x)
        else:
            x = nn.relu(norm(name="norm_stem")(_layers.conv(self.width, 7, 2, name="stem")(x)))
            x = _ops.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for block, depth in enumerate(self.depths, 1):
            if block > 1:
                x = nn.relu(norm(name=f"norm_transition{block - 1}")(x))
                x = _layers.conv(x.shape[-1] // 2, 1, name=f"transition{block - 1}")(x)
                x = _layers.avg_pool(x, 2, 2)
            for index in range(depth):
                name = f"block{block}_layer{index + 1}"
                x = DenseLayer(self.width // 2, cifar, norm, name=name)(x)
        x = nn.relu(norm(name="norm_last")(x))
        return _layers.Head(self.num_classes, name="head")(x)


def densenet(
    num_classes: int, depths: Sequence[int], width: int, stem: str, mean: Any, std: Any,
    axis_name: str | None,
) -> _base.Model:  # fmt: skip
    """Make a DenseNet of so many layers in each block; arguments as of `densenet121`."""
    _layers.check_sizes("densenet121", num_classes=num_classes)
    if width < 2 or width % 2:
        raise ValueError(
            f"densenet121: width must be even and at least 2, got {width}: each layer adds width/2"
        )
    _layers.check_choices("densenet121", stem)
    moments = _layers.moments(mean, std)
    module = DenseNet(num_classes, tuple(depths), width, stem, *moments, axis_name)
    return _layers.zoo_model("densenet121", module)


def densenet121(
    num_classes: int,
    *,
    width: int = 64,
    stem: str = "cifar",
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a DenseNet-121 (Huang et al., 2016); CheXNet is `densenet121(14, stem="imagenet")`.

    Images below 32x32 (cifar stem: 8x8) are padded with their border.

    Args:
      num_classes: number of logits.
      width: channels of the stem, even; each layer adds half as many (32 as published).
      stem: `"imagenet"`, as published: 7x7, stride 2, max-pool; `"cifar"`, as usual for images of
        32x32: 3x3, stride 1, the newest features first.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model for images of any size and any number of channels.

    Raises:
      ValueError: an unknown stem, or a size that is not positive, or an odd width.
    """
    return densenet(num_classes, (6, 12, 24, 16), width, stem, mean, std, axis_name)
