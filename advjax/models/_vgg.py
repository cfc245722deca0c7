"""VGG-16 with batch-norm (Simonyan and Zisserman, "Very Deep Convolutional Networks for
Large-Scale Image Recognition", 2014).
"""  # noqa: D205  # a title of two lines

from typing import Any

import flax.linen as nn
import jax

from advjax.models import _base, _layers, _ops

Array = jax.Array

# channels (times width) and convolutions of each level
LEVELS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
SMALLEST = 2 ** len(LEVELS)
_BINS = 7


def features(x: Array, width: int, norm: _layers.Norm, bias: bool = True) -> list[Array]:
    """Return what the five max-pools of VGG-16 give, inside of a compact call."""
    pools = []
    for level, (factor, depth) in enumerate(LEVELS, 1):
        for index in range(1, depth + 1):
            name = f"level{level}_conv{index}"
            x = _layers.conv(width * factor, 3, name=name, bias=bias)(x)
            x = nn.relu(norm(name=f"level{level}_norm{index}")(x))
        x = _ops.max_pool(x, (2, 2), (2, 2))
        pools.append(x)
    return pools


class VGG(nn.Module):
    """13 convolutions in five levels with max-pools between, and a head."""

    num_classes: int
    width: int
    stem: str
    dropout: float
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` images in [0, 1] to `[B, num_classes]` logits."""
        _base.check_images(x, "vgg16_bn")
        norm = _layers.batch_norm(train, self.axis_name)
        x = _layers.grow(_layers.normalise(x, self.mean, self.std), SMALLEST)
        x = features(x, self.width, norm)[-1]
        if self.stem == "cifar":
            return _layers.Head(self.num_classes, name="head")(x)
        x = _layers.adaptive_mean(x, _BINS).reshape(x.shape[0], -1)
        for index in (1, 2):
            x = nn.relu(_layers.WideDense(64 * self.width, name=f"dense{index}")(x))
            x = _layers.dropout(self, x, self.dropout, train)
        return _layers.WideDense(self.num_classes, name="head")(x)


def vgg16_bn(
    num_classes: int,
    *,
    width: int = 64,
    stem: str = "cifar",
    dropout: float = 0.5,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a VGG-16 with batch-norm (Simonyan and Zisserman, 2014).

    Images below 32x32 are padded with their border.

    Args:
      num_classes: number of logits.
      width: channels of the first level; the others have 2, 4, 8 and 8 times as many, and the
        hidden layers of the head 64 times (4096 as published).
      stem: which head, the rest is the same: `"imagenet"`, as published: the average over 7x7
        bins and three dense layers; `"cifar"`: the average over all pixels and one dense layer.
      dropout: rate behind the hidden layers of the published head, in training.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model for images of any size and any number of channels.

    Raises:
      ValueError: an unknown stem, or a size or rate that is out of range.
    """
    _layers.check_sizes("vgg16_bn", num_classes=num_classes, width=width)
    _layers.check_choices("vgg16_bn", stem, dropout)
    module = VGG(num_classes, width, stem, dropout, *_layers.moments(mean, std), axis_name)
    return _layers.zoo_model("vgg16_bn", module)
