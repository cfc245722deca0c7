"""U-Net (Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
2015), with batch-norm and padded convolutions, as the segmentation benchmarks have it.
"""  # noqa: D205  # a title of two lines

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advjax.models import _base, _layers, _ops

Array = jax.Array

LEVELS = 5
_SMALLEST = 2 ** (LEVELS - 1)


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with batch-norm and ReLU."""

    features: int
    norm: _layers.Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, features]`."""
        for index in (1, 2):
            x = _layers.conv(self.features, 3, name=f"conv{index}")(x)
            x = nn.relu(self.norm(name=f"norm{index}")(x))
        return x


class UNet(nn.Module):
    """Five levels down by 2x2 max-pools, four up by transposed convolutions, with skips."""

    num_classes: int
    width: int
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` images in [0, 1] to `[B, H, W, num_classes]` logits."""
        _base.check_images(x, "unet")
        norm = _layers.batch_norm(train, self.axis_name)
        sizes = x.shape[1:3]
        x = _layers.grow(_layers.normalise(x, self.mean, self.std), _SMALLEST)
        skips = []
        for level in range(LEVELS):
            if level:
                x = _ops.max_pool(x, (2, 2), (2, 2))
            x = DoubleConv(self.width * 2**level, norm, name=f"down{level}")(x)
            skips.append(x)
        for level in reversed(range(LEVELS - 1)):
            skip, features = skips[level], self.width * 2**level
            x = _layers.UpConv(features, name=f"up{level}")(x)
            x = jnp.concatenate([skip, _layers.fit(x, skip.shape[1:3])], axis=-1)
            x = DoubleConv(features, norm, name=f"join{level}")(x)
        x = _layers.conv(self.num_classes, 1, name="head", bias=True)(x)
        return _layers.fit(x, sizes)


def unet(
    num_classes: int,
    *,
    width: int = 64,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a U-Net (Ronneberger et al., 2015) for segmentation.

    Where a side is no multiple of 16, what was pooled away is padded with zeros on the way up;
    images below 16x16 are padded with their border, and the output is cropped back.

    Args:
      num_classes: number of logits of a pixel.
      width: channels of the first level; the others have 2, 4, 8 and 16 times as many.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model of `[B, H, W, C]` to `[B, H, W, num_classes]`, for images of any size and any
      number of channels.

    Raises:
      ValueError: a size is not positive.
    """
    _layers.check_sizes("unet", num_classes=num_classes, width=width)
    module = UNet(num_classes, width, *_layers.moments(mean, std), axis_name)
    return _layers.zoo_model("unet", module)
