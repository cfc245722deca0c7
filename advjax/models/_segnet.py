"""SegNet (Badrinarayanan et al., "SegNet: A Deep Convolutional Encoder-Decoder Architecture for
Image Segmentation", 2015): VGG-16 down, its mirror image up, joined by the places of the maxima.
"""  # noqa: D205  # a title of two lines

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from advjax.models import _base, _layers

Array = jax.Array

# channels of the first level, and convolutions, of each of the five levels
_FACTORS, _DEPTHS = (1, 2, 4, 8, 8), (2, 2, 3, 3, 3)
_SMALLEST = 2 ** len(_DEPTHS)


def pool_with_places(x: Array) -> tuple[Array, list[Array]]:
    """Take maxima over 2x2 windows, and remember where they were.

    Args:
      x: `[B, H, W, C]`; an odd last row or column is left out.

    Returns:
      Maxima `[B, H // 2, W // 2, C]`, and for each of the four places of a window, in row-major
      order, 1 where the maximum was there (the first of equal ones) and 0 elsewhere.
    """
    high, wide = (n // 2 * 2 for n in x.shape[1:3])
    views = [x[:, a:high:2, b:wide:2] for a in (0, 1) for b in (0, 1)]
    best, at = views[0], jnp.zeros(views[0].shape, jnp.int8)
    for place, view in enumerate(views[1:], 1):
        better = view > best
        best, at = jnp.where(better, view, best), jnp.where(better, jnp.int8(place), at)
    return best, [lax.stop_gradient((at == place).astype(x.dtype)) for place in range(4)]


def unpool(x: Array, places: list[Array], sizes: tuple[int, ...]) -> Array:
    """Put `[B, h, w, C]` where the maxima were, and zeros elsewhere, in an image of `sizes`."""
    batch, high, wide, channels = x.shape
    rows = [jnp.stack([x * places[a], x * places[a + 1]], 3) for a in (0, 2)]
    y = jnp.stack(rows, 2).reshape(batch, 2 * high, 2 * wide, channels)
    edges = [(0, n - m, 0) for n, m in zip(sizes, y.shape[1:3], strict=True)]
    return lax.pad(y, y.dtype.type(0), [(0, 0, 0), *edges, (0, 0, 0)])


class SegNet(nn.Module):
    """13 convolutions with max-pools, 13 with unpooling; the last one gives the logits."""

    num_classes: int
    width: int
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` images in [0, 1] to `[B, H, W, num_classes]` logits."""
        _base.check_images(x, "segnet")
        norm = _layers.batch_norm(train, self.axis_name)
        sizes = x.shape[1:3]
        x = _layers.grow(_layers.normalise(x, self.mean, self.std), _SMALLEST)

        def layer(x: Array, features: int, name: str) -> Array:
            x = _layers.conv(features, 3, name=f"{name}_conv")(x)
            return nn.relu(norm(name=f"{name}_norm")(x))

        pools = []
        for level, depth in enumerate(_DEPTHS):
            for index in range(depth):
                x = layer(x, self.width * _FACTORS[level], f"down{level + 1}_{index + 1}")
            pooled, places = pool_with_places(x)
            pools.append((places, x.shape[1:3]))
            x = pooled
        for level in reversed(range(len(_DEPTHS))):
            x = unpool(x, *pools[level])
            for index in range(_DEPTHS[level]):
                last = index == _DEPTHS[level] - 1
                if last and not level:
                    break
                features = self.width * _FACTORS[level - 1 if last else level]
                x = layer(x, features, f"up{level + 1}_{index + 1}")
        x = _layers.conv(self.num_classes, 3, name="head", bias=True)(x)
        return _layers.fit(x, sizes)


def segnet(
    num_classes: int,
    *,
    width: int = 64,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a SegNet (Badrinarayanan et al., 2015) for segmentation.

    Images below 32x32 are padded with their border, and the output is cropped back.

    Args:
      num_classes: number of logits of a pixel.
      width: channels of the first level; the others have 2, 4, 8 and 8 times as many.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model of `[B, H, W, C]` to `[B, H, W, num_classes]`, for images of any size and any
      number of channels.

    Raises:
      ValueError: a size is not positive.
    """
    _layers.check_sizes("segnet", num_classes=num_classes, width=width)
    module = SegNet(num_classes, width, *_layers.moments(mean, std), axis_name)
    return _layers.zoo_model("segnet", module)
