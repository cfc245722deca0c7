"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2015)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from advjax.models import _base, _layers, _ops

Array = jax.Array


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (ResNet-18 and 34)."""

    features: int
    stride: int
    norm: _layers.Norm

    expansion = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, features]`, rounded up."""
        y = _layers.conv(self.features, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = _layers.conv(self.features, 3, name="conv2")(y)
        # No zero scale here, as the plain recipe has: blocks that start as the identity leave
        # adversarial training on its plateau for many epochs (measured).
        y = self.norm(name="norm2")(y)
        return nn.relu(_shortcut(x, y, self.stride, self.norm) + y)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions (ResNet-50); the stride is in the 3x3."""

    features: int
    stride: int
    norm: _layers.Norm

    expansion = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, 4 * features]`, rounded up."""
        y = nn.relu(self.norm(name="norm1")(_layers.conv(self.features, 1, name="conv1")(x)))
        y = _layers.conv(self.features, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = _layers.conv(4 * self.features, 1, name="conv3")(y)
        y = self.norm(name="norm3")(y)
        return nn.relu(_shortcut(x, y, self.stride, self.norm) + y)


def _shortcut(x: Array, y: Array, stride: int, norm: _layers.Norm) -> Array:
    if x.shape == y.shape:
        return x
    return norm(name="norm_shortcut")(_layers.conv(y.shape[-1], 1, stride, name="shortcut")(x))


class ResNet(nn.Module):
    """Stem, four stages of blocks, global average pooling, dense head."""

    num_classes: int
    block: type[nn.Module]
    depths: Sequence[int]
    width: int
    stem: str
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` images in [0, 1] to `[B, num_classes]` logits."""
        _base.check_images(x, "resnet")
        norm = _layers.batch_norm(train, self.axis_name)
        x = _layers.normalise(x, self.mean, self.std)
        if self.stem == "cifar":
            x = nn.relu(norm(name="norm_stem")(_layers.conv(self.width, 3, name="stem")(x)))
        else:
            x = nn.relu(norm(name="norm_stem")(_layers.conv(self.width, 7, 2, name="stem")(x)))
            x = _ops.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                x = self.block(
                    self.width * 2**stage, stride, norm, name=f"stage{stage + 1}_block{index + 1}"
                )(x)
        return _layers.Head(self.num_classes, name="head")(x)


def _resnet(
    name: str,
    block: type[nn.Module],
    depths: Sequence[int],
    num_classes: int,
    width: int,
    **options: Any,
) -> _base.Model:
    _layers.check_sizes(name, num_classes=num_classes, width=width)
    stem = options["stem"]
    _layers.check_choices(name, stem)
    mean, std = _layers.moments(options["mean"], options["std"])
    module = ResNet(num_classes, block, tuple(depths), width, stem, mean, std, options["axis_name"])
    return _layers.zoo_model(name, module)


def resnet18(
    num_classes: int,
    *,
    width: int = 64,
    stem: str = "cifar",
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a ResNet-18 (He et al., 2015).

    Args:
      num_classes: number of logits.
      width: channels of the first stage; the others have 2, 4 and 8 times as many.
      stem: `"cifar"` (3x3, stride 1) or `"imagenet"` (7x7, stride 2, 3x3 max-pool).
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model for images of any size and any number of channels.

    Raises:
      ValueError: an unknown stem, or a size that is not positive.
    """
    options = {"stem": stem, "mean": mean, "std": std, "axis_name": axis_name}
    return _resnet("resnet18", BasicBlock, (2, 2, 2, 2), num_classes, width, **options)


def resnet34(
    num_classes: int,
    *,
    width: int = 64,
    stem: str = "cifar",
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a ResNet-34 (He et al., 2015); arguments as of `resnet18`.

    Returns:
      A model for images of any size and any number of channels.

    Raises:
      ValueError: an unknown stem, or a size that is not positive.
    """
    options = {"stem": stem, "mean": mean, "std": std, "axis_name": axis_name}
    return _resnet("resnet34", BasicBlock, (3, 4, 6, 3), num_classes, width, **options)


def resnet50(
    num_classes: int,
    *,
    width: int = 64,
    stem: str = "cifar",
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a ResNet-50 (He et al., 2015), with the stride in the 3x3; arguments as of `resnet18`.

    Returns:
      A model for images of any size and any number of channels.

    Raises:
      ValueError: an unknown stem, or a size that is not positive.
    """
    options = {"stem": stem, "mean": mean, "std": std, "axis_name": axis_name}
    return _resnet("resnet50", Bottleneck, (3, 4, 6, 3), num_classes, width, **options)
