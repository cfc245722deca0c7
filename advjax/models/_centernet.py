"""A small detector without anchors (Zhou et al., "Objects as Points", 2019)."""

from typing import Any

import flax.linen as nn
import jax

from advjax.models import _base, _layers, _resnet

Array = jax.Array

STRIDE = 4
# the heatmap starts at a probability of 0.1, or the many empty places drown the few objects
_START = -2.19


class CenterNet(nn.Module):
    """Residual blocks down to 1/16, nearest-neighbour steps back to 1/4, three heads."""

    num_classes: int
    width: int
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
        """Map `[B, H, W, C]` images in [0, 1] to heatmap, size and offset."""
        _base.check_images(x, "centernet")
        norm = _layers.batch_norm(train, self.axis_name)
        x = _layers.normalise(x, self.mean, self.std)
        x = nn.relu(norm(name="norm_stem")(_layers.conv(self.width, 3, 2, name="stem")(x)))
        maps = []
        for level in range(3):
            features = self.width * 2**level
            x = _resnet.BasicBlock(features, 2, norm, name=f"down{level + 1}")(x)
            maps.append(x)
        for level in (1, 0):
            skip = maps[level]
            x = _layers.conv(skip.shape[3], 1, name=f"lateral{level + 1}")(x)
            x = _layers.double(x)[:, : skip.shape[1], : skip.shape[2]]
            x = _layers.conv(skip.shape[3], 3, name=f"up{level + 1}")(x + skip)
            x = nn.relu(norm(name=f"up{level + 1}_norm")(x))
        return {
            name: self._head(x, name, count)
            for name, count in (("heatmap", self.num_classes), ("size", 2), ("offset", 2))
        }

    def _head(self, x: Array, name: str, count: int) -> Array:
        x = nn.relu(_layers.conv(4 * self.width, 3, name=f"{name}_hidden", bias=True)(x))
        x = _layers.conv(count, 1, name=f"{name}_head")(x)
        start = _START if name == "heatmap" else 0.0
        return x + self.param(f"{name}_bias", nn.initializers.constant(start), (count,))


def centernet(
    num_classes: int,
    *,
    width: int = 64,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a small detector in the manner of CenterNet (Zhou et al., 2019).

    Args:
      num_classes: kinds of objects.
      width: channels of the map of stride 4; deeper maps have 2 and 4 times as many.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model of images of any size and any number of channels. Its output is a dict of maps with
      `h = ceil(H / 4)` and `w = ceil(W / 4)`: `"heatmap"` `[B, h, w, num_classes]`, logits of an
      object's centre; `"size"` `[B, h, w, 2]`, height and width of the object centred there;
      `"offset"` `[B, h, w, 2]`, row and column of the centre beyond the place's own. The unit of
      the last two is what the loss trains them to.

    Raises:
      ValueError: a size is not positive.
    """
    _layers.check_sizes("centernet", num_classes=num_classes, width=width)
    module = CenterNet(num_classes, width, *_layers.moments(mean, std), axis_name)
    return _layers.zoo_model("centernet", module)
