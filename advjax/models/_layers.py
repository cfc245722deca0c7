"""Layers that the architectures share. Kernels start at zero: `_base.draw_kernels` fills them."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advjax.models import _adapters, _base, _ops, _rows

Array = jax.Array
Norm = Callable[..., nn.Module]

NUMBERS = ("NHWC", "HWIO", "NHWC")
STEMS = ("cifar", "imagenet")


def conv(
    features: int,
    size: int | tuple[int, int],
    stride: int = 1,
    *,
    name: str,
    padding: int | None = None,
    bias: bool = False,
) -> nn.Conv:
    """Return a convolution, padded by half its kernel on every side unless told otherwise.

    Args:
      features: channels of the output.
      size: height and width of the kernel, or one number for both.
      stride: in both directions.
      name: of the module.
      padding: pixels on every side; None: half the kernel, rounded down.
      bias: whether a bias is added.
    """
    window = (size, size) if isinstance(size, int) else size
    sides = [k // 2 if padding is None else padding for k in window]
    return nn.Conv(
        features,
        window,
        strides=(stride, stride),
        padding=[(side, side) for side in sides],
        use_bias=bias,
        kernel_init=nn.initializers.zeros,
        conv_general_dilated=_ops.conv,
        name=name,
    )


def depthwise(features: int, size: int, stride: int = 1, *, name: str) -> nn.Conv:
    """Return a convolution of each of `features` channels by itself, padded as by `conv`."""
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        feature_group_count=features,
        use_bias=False,
        kernel_init=nn.initializers.zeros,
        conv_general_dilated=_ops.depthwise_conv,
        name=name,
    )


def batch_norm(train: bool, axis_name: str | None, epsilon: float = 1e-5) -> Norm:
    """Return the factory of the batch-norms of one call.

    Args:
      train: use the statistics of the batch and update the running ones (momentum 0.9).
      axis_name: in training under `pmap`, the axis over which statistics are averaged.
      epsilon: added to the variance.
    """
    return functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=epsilon,
        axis_name=axis_name,
    )


def dropout(module: nn.Module, x: Array, rate: float, train: bool) -> Array:
    """Drop entries of `x` in training, where the call of the module has a key for it."""
    active = train and rate > 0 and module.has_rng("dropout")
    return nn.Dropout(rate, deterministic=not active)(x)


def avg_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
    """Average `[B, H, W, C]` over square windows, padded zeros counted; a sum of shifted views."""
    x = lax.pad(x, x.dtype.type(0), [(0, 0, 0), *[(padding, padding, 0)] * 2, (0, 0, 0)])
    for axis in (2, 1):
        last = x.shape[axis] - size
        views = [
            lax.slice_in_dim(x, k, k + last // stride * stride + 1, stride, axis)
            for k in range(size)
        ]
        x = functools.reduce(jnp.add, views)
    return x / (size * size)


def adaptive_mean(x: Array, bins: int) -> Array:
    """Average `[B, H, W, C]` over `bins x bins` parts of about equal size, which may overlap."""
    for axis in (1, 2):
        size = x.shape[axis]
        edges = [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]
        parts = [
            _rows.tree_sum(lax.slice_in_dim(x, low, high, axis=axis), axis) / (high - low)
            for low, high in edges
        ]
        x = jnp.stack(parts, axis)
    return x


def grow(x: Array, smallest: int, multiple: int = 1) -> Array:
    """Repeat the border of `[B, H, W, C]`, the image in the middle.

    Args:
      x: images.
      smallest: both sides get at least so many pixels,
      multiple: and a multiple of this.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        wanted = -(-max(size, smallest) // multiple) * multiple
        if wanted > size:
            low = (wanted - size) // 2
            # a gather, whose gradient adds in a fixed order
            x = x.take(np.clip(np.arange(wanted) - low, 0, size - 1), axis)
    return x


def double(x: Array) -> Array:
    """Repeat every pixel of `[B, H, W, C]` in both directions; `[B, 2 H, 2 W, C]`."""
    for axis in (2, 1):
        shape = [2 * n if i == axis else n for i, n in enumerate(x.shape)]
        x = jnp.stack([x, x], axis + 1).reshape(shape)
    return x


def fit(x: Array, sizes: tuple[int, ...]) -> Array:
    """Pad `[B, H, W, C]` with zeros, or crop it, to `sizes`; the middle stays in the middle."""
    edges = []
    for n, wanted in zip(x.shape[1:3], sizes, strict=True):
        low = (wanted - n) // 2 if wanted > n else -((n - wanted) // 2)
        edges.append((low, wanted - n - low, 0))
    return lax.pad(x, x.dtype.type(0), [(0, 0, 0), *edges, (0, 0, 0)])


class Head(nn.Module):
    """Global average pooling, dropout in training and a dense layer."""

    num_classes: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` features to `[B, num_classes]` logits."""
        x = dropout(self, _rows.global_mean(x), self.dropout, train)
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return _rows.dense(x, kernel) + bias


class Dense(nn.Module):
    """A dense layer with few weights, by `_rows.dense`."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, C]` to `[B, features]`."""
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return _rows.dense(x, kernel) + bias


class WideDense(nn.Module):
    """A dense layer with many weights, as a 1x1 convolution: the same bits in every batch."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, C]` to `[B, features]`."""
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = _ops.conv(
            x[:, None, None], kernel[None, None], (1, 1), "VALID", dimension_numbers=NUMBERS
        )
        return y[:, 0, 0] + bias


class UpConv(nn.Module):
    """A 2x2 transposed convolution of stride 2 with a bias: four products of every pixel."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, 2 H, 2 W, features]`."""
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", nn.initializers.zeros, (2, 2, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        flat = kernel.transpose(2, 0, 1, 3).reshape(1, 1, channels, -1)
        y = _ops.conv(x, flat, (1, 1), "VALID", dimension_numbers=NUMBERS)
        y = y.reshape(batch, height, width, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(batch, 2 * height, 2 * width, self.features) + bias


def check_smallest(name: str, x: Array, smallest: int) -> None:
    """Check that images have at least so many pixels on both sides.

    Raises:
      ValueError: they have not.
    """
    if min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"{name}: images of {x.shape[1]}x{x.shape[2]} are too small; it needs at least "
            f"{smallest}x{smallest}, so resize them"
        )


def check_sizes(name: str, **sizes: int) -> None:
    """Check that every size is a positive integer.

    Raises:
      ValueError: one is not.
    """
    for what, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: {what} must be at least 1, got {size}")


def check_choices(name: str, stem: str = STEMS[0], dropout: float = 0.0) -> None:
    """Check the options that several architectures have.

    Raises:
      ValueError: an unknown stem, or a rate that is not in [0, 1).
    """
    if stem not in STEMS:
        raise ValueError(f"{name}: stem {stem!r} is unknown; known: {', '.join(STEMS)}")
    if not 0 <= dropout < 1:
        raise ValueError(f"{name}: dropout must be in [0, 1), got {dropout}")


def moments(mean: Any, std: Any) -> tuple[Any, Any]:
    """Return mean and std as a float, or as a tuple of one float for each channel.

    Raises:
      ValueError: a std is not positive.
    """
    if not np.all(np.asarray(std) > 0):
        raise ValueError(f"std must be positive, got {std}")
    return tuple(  # type: ignore[return-value]  # of two
        float(np.asarray(v)) if np.ndim(v) == 0 else tuple(map(float, v)) for v in (mean, std)
    )


def normalise(x: Array, mean: Any, std: Any) -> Array:
    """Return `(x - mean) / std` in the dtype of `x`; mean and std as `moments` returns them."""
    return (x - np.asarray(mean, x.dtype)) / np.asarray(std, x.dtype)


def zoo_model(name: str, module: nn.Module) -> _base.Model:
    """Make a `Model` of a module of the zoo, whose kernels `init` draws all at once."""
    model = _adapters.from_linen(module, name=name)

    def init(key: Array, x: Array) -> _base.Variables:
        _base.check_images(x, name)
        return _base.draw_kernels(key, model.init(key, x))

    return _base.Model(name, init, model.apply)
