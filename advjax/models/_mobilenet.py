"""MobileNetV2 (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from advjax.models import _base, _layers

Array = jax.Array

# expansion, channels, blocks, stride of the first one (table 2 of the paper)
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
    (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
_STEM, _LAST = 32, 1280


def channels(count: int, width: int) -> int:
    """Return `count * width / 64` as a multiple of 8, at least 8 and at least 0.9 of it."""
    exact = count * width / 64
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter every channel by itself, narrow; add the input."""

    expansion: int
    features: int
    stride: int
    cifar: bool
    norm: _layers.Norm
    activate: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, features]`, rounded up."""
        inner, y = self.expansion * x.shape[-1], x
        if self.expansion > 1 or self.cifar:
            y = _layers.conv(inner, 1, name="expand")(y)
            y = self.activate(self.norm(name="norm_expand")(y))
        y = _layers.depthwise(inner, 3, self.stride, name="depthwise")(y)
        y = self.activate(self.norm(name="norm_depthwise")(y))
        y = self.norm(name="norm_project")(_layers.conv(self.features, 1, name="project")(y))
        if self.stride > 1:
            return y
        if x.shape[-1] == self.features:
            return x + y
        if not self.cifar:
            return y
        x = _layers.conv(self.features, 1, name="shortcut")(x)
        return self.norm(name="norm_shortcut")(x) + y


class MobileNetV2(nn.Module):
    """Stem, 17 inverted residuals, a 1x1 convolution, global average pooling, dense head."""

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
        _base.check_images(x, "mobilenet_v2")
        norm, cifar = _layers.batch_norm(train, self.axis_name), self.stem == "cifar"
        activate = nn.relu if cifar else nn.relu6
        x = _layers.normalise(x, self.mean, self.std)
        x = _layers.conv(channels(_STEM, self.width), 3, 1 if cifar else 2, name="stem")(x)
        x = activate(norm(name="norm_stem")(x))
        for stage, (expansion, features, depth, stride) in enumerate(STAGES, 1):
            for index in range(depth):
                # images of 32x32 are not halved before the third stage
                whole = index or (cifar and stage < 3)
                x = InvertedResidual(
                    expansion, channels(features, self.width), 1 if whole else stride, cifar, norm,
                    activate, name=f"stage{stage}_block{index + 1}",
                )(x)  # fmt: skip
        x = _layers.conv(channels(_LAST, max(self.width, 64)), 1, name="last")(x)
        x = activate(norm(name="norm_last")(x))
        return _layers.Head(self.num_classes, self.dropout, name="head")(x, train)


def mobilenet_v2(
    num_classes: int,
    *,
    width: int = 64,
    stem: str = "cifar",
    dropout: float = 0.2,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a MobileNetV2 (Sandler et al., 2018).

    Args:
      num_classes: number of logits.
      width: 64 is the published network; others scale all channels, rounded to multiples of 8 as
        published (the width multiplier is `width / 64`; the last layer never has fewer than 1280).
      stem: `"imagenet"`, as published: stride 2 in the first two stages and ReLU6; `"cifar"`, as
        usual for images of 32x32: stride 1 there, ReLU, an expansion in the first block too, and
        a 1x1 convolution around blocks that change the number of channels.
      dropout: rate before the head, in training.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model for images of any size and any number of channels.

    Raises:
      ValueError: an unknown stem, or a size or rate that is out of range.
    """
    _layers.check_sizes("mobilenet_v2", num_classes=num_classes, width=width)
    _layers.check_choices("mobilenet_v2", stem, dropout)
    moments = _layers.moments(mean, std)
    module = MobileNetV2(num_classes, width, stem, dropout, *moments, axis_name)
    return _layers.zoo_model("mobilenet_v2", module)
