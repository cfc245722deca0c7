"""Wide residual networks (Zagoruyko and Komodakis, "Wide Residual Networks", 2016)."""

from typing import Any

import flax.linen as nn
import jax

from advjax.models import _base, _layers

Array = jax.Array


class WideBlock(nn.Module):
    """Batch-norm and ReLU before each of two 3x3 convolutions, around a shortcut."""

    features: int
    stride: int
    dropout: float
    norm: _layers.Norm

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, features]`, rounded up."""
        y = nn.relu(self.norm(name="norm1")(x))
        if x.shape[-1] != self.features:
            x = _layers.conv(self.features, 1, self.stride, name="shortcut")(y)
        y = _layers.conv(self.features, 3, self.stride, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = _layers.dropout(self, y, self.dropout, train)
        return x + _layers.conv(self.features, 3, name="conv2")(y)


class WideResNet(nn.Module):
    """A 3x3 convolution, three stages of blocks, batch-norm, global average, dense head."""

    num_classes: int
    depth: int
    widen: int
    base: int
    dropout: float
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` images in [0, 1] to `[B, num_classes]` logits."""
        _base.check_images(x, "wide_resnet")
        norm = _layers.batch_norm(train, self.axis_name)
        x = _layers.conv(self.base, 3, name="stem")(_layers.normalise(x, self.mean, self.std))
        for stage in range(3):
            features = self.base * self.widen * 2**stage
            for index in range((self.depth - 4) // 6):
                stride = 2 if stage and not index else 1
                name = f"stage{stage + 1}_block{index + 1}"
                x = WideBlock(features, stride, self.dropout, norm, name=name)(x, train)
        x = nn.relu(norm(name="norm_last")(x))
        return _layers.Head(self.num_classes, name="head")(x)


def wide_resnet(
    num_classes: int,
    *,
    depth: int = 28,
    widen: int = 10,
    width: int = 64,
    dropout: float = 0.0,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a wide residual network (Zagoruyko and Komodakis, 2016), by default WRN-28-10.

    Args:
      num_classes: number of logits.
      depth: number of convolutions, `6 n + 4`.
      widen: by how much the stages are wider than those of a plain residual network.
      width: 64 is the published network, with 16 channels in the first convolution and
        `16 * widen` in the first stage; a multiple of 4, others scale all channels.
      dropout: rate inside the blocks, in training (0.3 in the paper where it is used).
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model for images of any size and any number of channels.

    Raises:
      ValueError: a depth that is not `6 n + 4`, or a size or rate that is out of range.
    """
    _layers.check_sizes("wide_resnet", num_classes=num_classes, widen=widen, width=width)
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"wide_resnet: depth must be 6 n + 4, such as 28 or 34, got {depth}")
    _layers.check_choices("wide_resnet", dropout=dropout)
    moments, base = _layers.moments(mean, std), max(1, width // 4)
    module = WideResNet(num_classes, depth, widen, base, dropout, *moments, axis_name)
    return _layers.zoo_model(f"wrn{depth}_{widen}", module)
