"""Layers that the architectures share. Kernels start at zero: `_base.draw_kernels` fills them."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from advjax.models import _adapters, _base, _ops, _rows

Array = jax.Array
Norm = Callable[..., nn.Module]


def conv(features: int, size: int, stride: int = 1, *, name: str) -> nn.Conv:
    """Return a square convolution without bias, padded by half its kernel on every side."""
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        use_bias=False,
        kernel_init=nn.initializers.zeros,
        conv_general_dilated=_ops.conv,
        name=name,
    )


def batch_norm(train: bool, axis_name: str | None) -> Norm:
    """Return the factory of the batch-norms of one call.

    Args:
      train: use the statistics of the batch and update the running ones (momentum 0.9).
      axis_name: in training under `pmap`, the axis over which statistics are averaged.
    """
    return functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        axis_name=axis_name,
    )


class Head(nn.Module):
    """Global average pooling and a dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` features to `[B, num_classes]` logits."""
        x = _rows.global_mean(x)
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        return _rows.dense(x, kernel) + bias


def check_sizes(name: str, **sizes: int) -> None:
    """Check that every size is a positive integer.

    Raises:
      ValueError: one is not.
    """
    for what, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: {what} must be at least 1, got {size}")


def moments(mean: Any, std: Any) -> tuple[Any, Any]:
    """Return mean and std as a float, or as a tuple of one float for each channel.

    Raises:
      ValueError: a std is not positive.
    """
    if not np.all(np.asarray(std) > 0):
        raise ValueError(f"std must be positive, got {std}")
    return tuple(  # type: ignore[return-value]
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
