"""Inception-v3 (Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
2015), with the names and sizes of the usual PyTorch implementation.
"""  # noqa: D205  # a title of two lines

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advjax.models import _base, _layers, _ops

Array = jax.Array
Kernel = int | tuple[int, int]

SMALLEST = 75
_SMALLEST_CIFAR = 7
_AUX_SIZE = 17
# name, channels, kernel, stride, padding of the layers before the first mixed block
STEM = (
    ("Conv2d_1a_3x3", 32, 3, 2, 0), ("Conv2d_2a_3x3", 32, 3, 1, 0), ("Conv2d_2b_3x3", 64, 3, 1, 1),
    ("Conv2d_3b_1x1", 80, 1, 1, 0), ("Conv2d_4a_3x3", 192, 3, 1, 0),
)  # fmt: skip
_POOLED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")


class ConvNorm(nn.Module):
    """Convolution, batch-norm and ReLU."""

    features: int
    kernel: Kernel
    norm: _layers.Norm
    stride: int = 1
    padding: int | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H', W', features]`."""
        x = _layers.conv(
            self.features, self.kernel, self.stride, padding=self.padding, name="conv"
        )(x)
        return nn.relu(self.norm(name="norm")(x))


class Mixed(nn.Module):
    """One mixed block; `kind` is its letter in the usual implementation, A to E."""

    kind: str
    width: int
    norm: _layers.Norm
    size: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to the concatenation of the branches."""
        return jnp.concatenate(getattr(self, f"_{self.kind}")(x), axis=-1)

    def _conv(self, x: Array, name: str, count: int, kernel: Kernel = 1, stride: int = 1) -> Array:
        features = max(1, count * self.width // 64)
        padding = 0 if stride > 1 else None
        return ConvNorm(features, kernel, self.norm, stride, padding, name=name)(x)

    def _chain(self, x: Array, name: str, *layers: tuple[int, Kernel]) -> Array:
        for index, (count, kernel) in enumerate(layers, 1):
            x = self._conv(x, f"{name}_{index}", count, kernel)
        return x

    def _pool(self, x: Array, count: int) -> Array:
        return self._conv(_layers.avg_pool(x, 3, 1, 1), "branch_pool", count)

    def _a(self, x: Array) -> list[Array]:
        return [
            self._conv(x, "branch1x1", 64),
            self._chain(x, "branch5x5", (48, 1), (64, 5)),
            self._chain(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3)),
            self._pool(x, self.size),
        ]

    def _b(self, x: Array) -> list[Array]:
        double = self._chain(x, "branch3x3dbl", (64, 1), (96, 3))
        return [
            self._conv(x, "branch3x3", 384, 3, 2),
            self._conv(double, "branch3x3dbl_3", 96, 3, 2),
            _ops.max_pool(x, (3, 3), (2, 2)),
        ]

    def _c(self, x: Array) -> list[Array]:
        row, column, size = (1, 7), (7, 1), self.size
        double = ((size, 1), (size, column), (size, row), (size, column), (192, row))
        return [
            self._conv(x, "branch1x1", 192),
            self._chain(x, "branch7x7", (size, 1), (size, row), (192, column)),
            self._chain(x, "branch7x7dbl", *double),
            self._pool(x, 192),
        ]

    def _d(self, x: Array) -> list[Array]:
        first = self._chain(x, "branch3x3", (192, 1))
        second = self._chain(x, "branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)))
        return [
            self._conv(first, "branch3x3_2", 320, 3, 2),
            self._conv(second, "branch7x7x3_4", 192, 3, 2),
            _ops.max_pool(x, (3, 3), (2, 2)),
        ]

    def _e(self, x: Array) -> list[Array]:
        single = self._chain(x, "branch3x3", (384, 1))
        double = self._chain(x, "branch3x3dbl", (448, 1), (384, 3))
        return [
            self._conv(x, "branch1x1", 320),
            self._conv(single, "branch3x3_2a", 384, (1, 3)),
            self._conv(single, "branch3x3_2b", 384, (3, 1)),
            self._conv(double, "branch3x3dbl_3a", 384, (1, 3)),
            self._conv(double, "branch3x3dbl_3b", 384, (3, 1)),
            self._pool(x, 192),
        ]


class AuxHead(nn.Module):
    """The auxiliary classifier on the map of 17x17; smaller maps are padded with their border."""

    num_classes: int
    width: int
    norm: _layers.Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` features to `[B, num_classes]` logits."""
        x = _layers.avg_pool(_layers.grow(x, _AUX_SIZE), 5, 3)
        x = ConvNorm(max(1, 128 * self.width // 64), 1, self.norm, name="conv0")(x)
        x = ConvNorm(768 * self.width // 64, 5, self.norm, padding=0, name="conv1")(x)
        return _layers.Head(self.num_classes, name="fc")(x)


class Inception(nn.Module):
    """Stem, eleven mixed blocks, global average pooling, dense head, auxiliary head."""

    num_classes: int
    width: int
    stem: str
    aux: bool
    dropout: float
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False, with_aux: bool = False) -> Any:
        """Map `[B, H, W, C]` images in [0, 1] to logits `[B, num_classes]`, maybe two of them."""
        _base.check_images(x, "inception_v3")
        norm = _layers.batch_norm(train, self.axis_name, epsilon=1e-3)
        x = self._stem(_layers.normalise(x, self.mean, self.std), norm)
        for name, kind, size in (("5b", "a", 32), ("5c", "a", 64), ("5d", "a", 64), ("6a", "b", 0),
                                 ("6b", "c", 128), ("6c", "c", 160), ("6d", "c", 160),
                                 ("6e", "c", 192)):  # fmt: skip
            x = Mixed(kind, self.width, norm, size, name=f"Mixed_{name}")(x)
        second = None
        if self.aux and (train or self.is_initializing()):
            second = AuxHead(self.num_classes, self.width, norm, name="AuxLogits")(x)
        for name, kind in (("7a", "d"), ("7b", "e"), ("7c", "e")):
            x = Mixed(kind, self.width, norm, name=f"Mixed_{name}")(x)
        logits = _layers.Head(self.num_classes, self.dropout, name="fc")(x, train)
        return (logits, second) if with_aux else logits

    def _stem(self, x: Array, norm: _layers.Norm) -> Array:
        cifar = self.stem == "cifar"
        if cifar:
            x = _layers.grow(x, _SMALLEST_CIFAR)
        elif min(x.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"inception_v3: images of {x.shape[1]}x{x.shape[2]} are too small; it needs at "
                f"least {SMALLEST}x{SMALLEST}, so resize them, or take stem='cifar'"
            )
        for name, count, kernel, stride, padding in STEM:
            rule = (1, None) if cifar else (stride, padding)
            features = max(1, count * self.width // 64)
            x = ConvNorm(features, kernel, norm, *rule, name=name)(x)
            if name in _POOLED and not cifar:
                x = _ops.max_pool(x, (3, 3), (2, 2))
        return x


def inception_v3(
    num_classes: int,
    *,
    width: int = 64,
    stem: str = "cifar",
    aux: bool = True,
    dropout: float = 0.5,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make an Inception-v3 (Szegedy et al., 2015).

    The auxiliary head takes part in training only, as 0.3 or 0.4 times a second loss. Its logits
    come out where they are asked for, so that the model keeps the contract of all others:

        (logits, aux_logits), updates = model.apply(variables, x, train=True, aux=True, rngs=rngs)

    Args:
      num_classes: number of logits.
      width: 64 is the published network; others scale all channels, rounded down.
      stem: `"imagenet"`, as published, divides the size by 8 and needs images of 75x75 at least;
        `"cifar"` has the same kernels without strides and pools, for images of 8 to 64 pixels.
      aux: whether there is an auxiliary head.
      dropout: rate before the head, in training.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model for any number of channels and, with the cifar stem, images of any size.

    Raises:
      ValueError: an unknown stem, or a size or rate that is out of range; from the model, images
        below 75x75 for the published stem, or `aux=True` where there is no auxiliary head or
        outside of training.
    """
    _layers.check_sizes("inception_v3", num_classes=num_classes, width=width)
    _layers.check_choices("inception_v3", stem, dropout)
    moments = _layers.moments(mean, std)
    module = Inception(num_classes, width, stem, aux, dropout, *moments, axis_name)
    plain, has_aux = _layers.zoo_model("inception_v3", module), aux

    def apply(
        variables: _base.Variables,
        x: Array,
        *,
        train: bool = False,
        rngs: dict[str, Array] | None = None,
        aux: bool = False,
    ) -> Any:
        if not aux:
            return plain.apply(variables, x, train=train, rngs=rngs)
        if not (train and has_aux):
            raise ValueError(
                "inception_v3: the auxiliary head speaks in training only, and where the model "
                "was made with aux=True"
            )
        return module.apply(
            variables, x, train=True, with_aux=True, mutable=["batch_stats"], rngs=rngs
        )

    return _base.Model("inception_v3", plain.init, apply)
