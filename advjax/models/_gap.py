"""Generators of perturbations (Poursaeed et al., "Generative Adversarial Perturbations", 2018).

The network maps an image to a perturbation in [-1, 1]; the attack scales it to the budget.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advjax.models import _base, _layers, _transpose

Array = jax.Array

_MOST = 8  # no level has more than so many times `width` channels
_HALVED = 2  # how often the residual generator halves the image


class Spread(nn.Module):
    """A transposed convolution of stride 2 that doubles the image."""

    features: int
    kernel: int
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, 2 H, 2 W, features]`."""
        window = (self.kernel, self.kernel)
        kernel = self.param("kernel", nn.initializers.zeros, (*window, x.shape[3], self.features))
        # one pixel is cut off in front, and behind what makes it twice the size
        cut = [(1, self.kernel - 3)] * 2
        y = _transpose.conv_transpose(x, kernel, (2, 2), cut)
        if self.bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))
        return y


class UNetGenerator(nn.Module):
    """4x4 convolutions of stride 2 down, transposed ones up, with skips."""

    channels: int
    width: int
    depth: int
    dropout: float
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` images in [0, 1] to `[B, H, W, channels]` in [-1, 1]."""
        _base.check_images(x, "gap_unet")
        norm, sizes = _layers.batch_norm(train, self.axis_name), x.shape[1:3]
        x = _layers.normalise(x, self.mean, self.std)
        x = _layers.grow(x, 2**self.depth, 2**self.depth)
        counts = [self.width * min(2**level, _MOST) for level in range(self.depth)]
        skips = []
        for level, count in enumerate(counts):
            if level:
                skips.append(x)
                x = nn.leaky_relu(x, 0.2)
            x = _layers.conv(count, 4, 2, padding=1, name=f"down{level + 1}")(x)
            if 0 < level < self.depth - 1:
                x = norm(name=f"down{level + 1}_norm")(x)
        for level in reversed(range(1, self.depth)):
            x = Spread(counts[level - 1], 4, name=f"up{level + 1}")(nn.relu(x))
            x = norm(name=f"up{level + 1}_norm")(x)
            if counts[level] == counts[level - 1]:
                x = _layers.dropout(self, x, self.dropout, train)
            x = jnp.concatenate([skips.pop(), x], axis=-1)
        x = Spread(self.channels, 4, bias=True, name="up1")(nn.relu(x))
        return _layers.fit(jnp.tanh(x), sizes)


class ResNetGenerator(nn.Module):
    """Two halvings, residual blocks, two doublings, between 7x7 convolutions."""

    channels: int
    width: int
    blocks: int
    dropout: float
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` images in [0, 1] to `[B, H, W, channels]` in [-1, 1]."""
        _base.check_images(x, "gap_resnet")
        norm, sizes = _layers.batch_norm(train, self.axis_name), x.shape[1:3]
        x = _layers.normalise(x, self.mean, self.std)
        x = _layers.grow(x, 2 * 2**_HALVED, 2**_HALVED)
        x = _layers.conv(self.width, 7, padding=0, name="stem")(_reflect(x, 3))
        x = nn.relu(norm(name="norm_stem")(x))
        for level in range(1, _HALVED + 1):
            x = _layers.conv(self.width * 2**level, 3, 2, name=f"down{level}")(x)
            x = nn.relu(norm(name=f"down{level}_norm")(x))
        for block in range(1, self.blocks + 1):
            y = _layers.conv(x.shape[3], 3, padding=0, name=f"block{block}_conv1")(_reflect(x, 1))
            y = nn.relu(norm(name=f"block{block}_norm1")(y))
            y = _layers.dropout(self, y, self.dropout, train)
            y = _layers.conv(x.shape[3], 3, padding=0, name=f"block{block}_conv2")(_reflect(y, 1))
            x = x + norm(name=f"block{block}_norm2")(y)
        for level in reversed(range(_HALVED)):
            x = Spread(self.width * 2**level, 3, name=f"up{level + 1}")(x)
            x = nn.relu(norm(name=f"up{level + 1}_norm")(x))
        x = _layers.conv(self.channels, 7, padding=0, name="head", bias=True)(_reflect(x, 3))
        return _layers.fit(jnp.tanh(x), sizes)


def _reflect(x: Array, by: int) -> Array:
    return jnp.pad(x, [(0, 0), (by, by), (by, by), (0, 0)], mode="reflect")


def gap_unet(
    channels: int,
    *,
    width: int = 64,
    depth: int = 5,
    dropout: float = 0.5,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make the U-Net generator of Poursaeed et al. (2018), which Xu et al. (2021) train.

    Args:
      channels: of the perturbation, as many as the images have.
      width: channels of the first level, doubled on each up to 8 times as many.
      depth: how often the image is halved. The paper halves images of 224 pixels seven times;
        images are padded with their border to a multiple of `2**depth`, and the output is cropped.
      dropout: rate on the way up where the channels do not shrink, in training.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model of `[B, H, W, C]` to `[B, H, W, channels]` in [-1, 1], for images of any size.

    Raises:
      ValueError: a size or rate that is out of range, or a depth below 2.
    """
    _layers.check_sizes("gap_unet", channels=channels, width=width)
    if depth < 2:
        raise ValueError(f"gap_unet: depth must be at least 2, got {depth}")
    _layers.check_choices("gap_unet", dropout=dropout)
    moments = _layers.moments(mean, std)
    module = UNetGenerator(channels, width, depth, dropout, *moments, axis_name)
    return _layers.zoo_model("gap_unet", module)


def gap_resnet(
    channels: int,
    *,
    width: int = 64,
    blocks: int = 6,
    dropout: float = 0.5,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make the residual generator of Poursaeed et al. (2018).

    Args:
      channels: of the perturbation, as many as the images have.
      width: channels of the first convolution; the blocks have 4 times as many.
      blocks: residual blocks.
      dropout: rate inside the blocks, in training.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model of `[B, H, W, C]` to `[B, H, W, channels]` in [-1, 1], for images of any size: they
      are padded with their border to a multiple of 4, 8x8 at least, and the output is cropped.

    Raises:
      ValueError: a size or rate that is out of range.
    """
    _layers.check_sizes("gap_resnet", channels=channels, width=width, blocks=blocks)
    _layers.check_choices("gap_resnet", dropout=dropout)
    moments = _layers.moments(mean, std)
    module = ResNetGenerator(channels, width, blocks, dropout, *moments, axis_name)
    return _layers.zoo_model("gap_resnet", module)
