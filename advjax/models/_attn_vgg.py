"""VGG-16 with two attention blocks (Yan et al., "Melanoma Recognition via Visual Attention",
IPMI 2019).
"""  # noqa: D205  # a title of two lines

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from advjax.models import _base, _layers, _rows, _vgg

Array = jax.Array


def resize(x: Array, sizes: tuple[int, ...]) -> Array:
    """Interpolate `[B, H, W, C]` bilinearly to `sizes`; borders repeat, pixels are centred."""
    for axis, wanted in zip((1, 2), sizes, strict=True):
        size = x.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, size - 1)
        share = (at - low).astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


class Attention(nn.Module):
    """Weigh the pixels of a map by how they go with the last map of the network."""

    features: int
    normalise: bool

    @nn.compact
    def __call__(self, x: Array, last: Array) -> tuple[Array, Array]:
        """Return the map `[B, H, W]` and the features `[B, C]` of `x` `[B, H, W, C]`."""
        guide = _layers.conv(self.features, 1, name="global")(last)
        y = _layers.conv(self.features, 1, name="local")(x) + resize(guide, x.shape[1:3])
        scores = _layers.conv(1, 1, name="score", bias=True)(nn.relu(y))
        batch, high, wide, channels = x.shape
        scores, flat = scores.reshape(batch, high * wide, 1), x.reshape(batch, -1, channels)
        if self.normalise:
            exp = jnp.exp(scores - jax.lax.stop_gradient(scores.max(1, keepdims=True)))
            weights = exp / _rows.tree_sum(exp, 1)[:, None]
            found = _rows.tree_sum(weights * flat, 1)
        else:
            weights = nn.sigmoid(scores)
            found = _rows.tree_sum(weights * flat, 1) / (high * wide)
        return weights.reshape(batch, high, wide), found


class AttnVGG(nn.Module):
    """VGG-16, attention on the third and fourth pool, a head on both and the last pool."""

    num_classes: int
    width: int
    normalise: bool
    dropout: float
    mean: Any
    std: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool = False, with_maps: bool = False) -> Any:
        """Map `[B, H, W, C]` images in [0, 1] to logits `[B, num_classes]`, maybe with maps."""
        _base.check_images(x, "attn_vgg")
        norm = _layers.batch_norm(train, self.axis_name)
        x = _layers.grow(_layers.normalise(x, self.mean, self.std), _vgg.SMALLEST)
        *_, third, fourth, last = _vgg.features(x, self.width, norm)
        common = 4 * self.width
        map3, found3 = Attention(common, self.normalise, name="attention3")(third, last)
        map4, found4 = Attention(common, self.normalise, name="attention4")(fourth, last)
        x = jnp.concatenate([_rows.global_mean(last), found3, found4], axis=-1)
        x = _layers.dropout(self, x, self.dropout, train)
        logits = _layers.Dense(self.num_classes, name="head")(x)
        return (logits, (map3, map4)) if with_maps else logits


def attn_vgg(
    num_classes: int,
    *,
    width: int = 64,
    normalise: bool = True,
    dropout: float = 0.5,
    mean: Any = 0.5,
    std: Any = 0.25,
    axis_name: str | None = None,
) -> _base.Model:
    """Make a VGG-16 with attention (Yan et al., IPMI 2019).

    `model.apply(variables, x, maps=True)` returns `(logits, (map3, map4))`, where the attention
    maps `[B, H / 8, W / 8]` and `[B, H / 16, W / 16]` say which pixels of the third and fourth
    pool counted; `attention_maps` returns them in the size of the images.

    Args:
      num_classes: number of logits.
      width: channels of the first level; the head sees 8 (last pool), 4 (third) and 8 (fourth)
        times as many.
      normalise: weights of the pixels by a softmax over the map, as published; False: by a
        sigmoid each.
      dropout: rate before the head, in training.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      A model for images of any size (those below 32x32 are padded with their border) and any
      number of channels.

    Raises:
      ValueError: a size or rate that is out of range.
    """
    _layers.check_sizes("attn_vgg", num_classes=num_classes, width=width)
    _layers.check_choices("attn_vgg", dropout=dropout)
    module = AttnVGG(num_classes, width, normalise, dropout, *_layers.moments(mean, std), axis_name)
    plain = _layers.zoo_model("attn_vgg", module)

    def apply(
        variables: _base.Variables,
        x: Array,
        *,
        train: bool = False,
        rngs: dict[str, Array] | None = None,
        maps: bool = False,
    ) -> Any:
        if not maps:
            return plain.apply(variables, x, train=train, rngs=rngs)
        if train:
            raise ValueError("attn_vgg: maps are for evaluation; leave train at False")
        return module.apply(variables, x, with_maps=True)

    return _base.Model("attn_vgg", plain.init, apply)


def attention_maps(model: _base.Model, variables: _base.Variables, x: Array) -> tuple[Array, Array]:
    """Return where an `attn_vgg` looks, for analysis.

    Args:
      model: made by `attn_vgg`.
      variables: its variables.
      x: `[B, H, W, C]` images in [0, 1].

    Returns:
      Two maps `[B, H, W]`, of the third and of the fourth pool, interpolated to the size of the
      images; with `normalise`, each sums to about `64` and `256` over an image.

    Raises:
      ValueError: another architecture.
    """
    if model.name != "attn_vgg":
        raise ValueError(f"attention_maps: {model.name} has none; make the model by attn_vgg")
    _, maps = model.apply(variables, x, maps=True)
    third, fourth = (resize(m[..., None], x.shape[1:3])[..., 0] for m in maps)
    return third, fourth
