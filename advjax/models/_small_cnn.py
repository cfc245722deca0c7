"""A small convolutional network, for tests, phantoms and quick studies."""

from typing import Any

import flax.linen as nn
import jax

from advjax.models import _base, _layers, _ops

Array = jax.Array

SMALLEST = 8


class SmallCNN(nn.Module):
    """Four convolutions with batch-norm and ReLU, three 2x2 max-pools between them, a head."""

    num_classes: int
    width: int
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[B, H, W, C]` images in [0, 1] to `[B, num_classes]` logits."""
        _base.check_images(x, "small_cnn")
        _layers.check_smallest("small_cnn", x, SMALLEST)
        norm = _layers.batch_norm(train, self.axis_name)
        x = _layers.normalise(x, self.mean, self.std)
        for layer in range(4):
            if layer:
                x = _ops.max_pool(x, (2, 2), (2, 2))
            features = self.width * (1, 2, 4, 4)[layer]
            x = _layers.conv(features, 3, name=f"conv{layer + 1}")(x)
            x = nn.relu(norm(name=f"norm{layer + 1}")(x))
        return _layers.Head(self.num_classes, name="head")(x)


def small_cnn(
    num_classes: int,
    *,
    width: int = 32,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a small convolutional network.

    Args:
      num_classes: number of logits.
      width: channels of the first layer; the others have 2, 4 and 4 times as many.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model for images of at least 8x8 and any number of channels.

    Raises:
      ValueError: a size is not positive.
    """
    _layers.check_sizes("small_cnn", num_classes=num_classes, width=width)
    module = SmallCNN(num_classes, width, *_layers.moments(mean, std), axis_name)
    return _layers.zoo_model("small_cnn", module)
