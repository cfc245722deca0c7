"""Where a model looks: input gradients and Grad-CAM."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.models import Model, layer_shapes, with_tap
from advjax.types import Array, Output, PyTree

_PERCENTILE = 99.0  # Xu et al. 2021


def predicted_logit(output: Output) -> Array:
    """Return the largest logit of one example `[K]`."""
    return jnp.max(output)


def logit_of(index: int) -> Callable[[Output], Array]:
    """Return the function that takes one logit of one example."""
    return lambda output: output[..., index]


def saliency(
    fn: Callable[[PyTree, Array], Output],
    params: PyTree,
    x: Array,
    *,
    score: Callable[[Output], Array] = predicted_logit,
    percentile: float = _PERCENTILE,
) -> Array:
    """Input-gradient saliency (Xu et al. 2021): `|d score / d x|` summed over the channels.

    Args:
      fn: `(params, x) -> output`, such as `model.apply`.
      params: of `fn`.
      x: `[B, H, W, C]`.
      score: scalar of the output of one example; `logit_of(index)` for one class or finding.
      percentile: values beyond this percentile of the image are clipped to it; 100: none.

    Returns:
      `[B, H, W]` in [0, 1], each divided by its largest value; 0 where the gradient is zero.

    Raises:
      ValueError: a percentile outside of (0, 100], or images without channels.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile: must be in (0, 100], got {percentile}")
    _check_images(x)

    def total(x: Array) -> Array:
        return jnp.sum(jax.vmap(score)(fn(params, x)))

    size = jnp.sum(jnp.abs(jax.grad(total)(x)), axis=-1)
    limit = jnp.percentile(size.reshape(len(x), -1), percentile, axis=1)
    return _unit(jnp.minimum(size, limit[:, None, None]))


def grad_cam(
    model: Model,
    variables: PyTree,
    x: Array,
    layer: str,
    *,
    score: Callable[[Output], Array] = predicted_logit,
) -> Array:
    """Grad-CAM (Selvaraju et al. 2017): which parts of a layer raise a score.

    Channels of the layer are weighted by the mean of the gradient of the score over the map, added
    up, and what is negative is dropped; the map is enlarged to the image, bilinearly.

    Args:
      model: of the zoo, or from `models.from_linen`; in evaluation mode.
      variables: of the model.
      x: `[B, H, W, C]`.
      layer: a path of `models.layer_shapes` whose output is `[B, h, w, c]`: usually the last one
        before the pooling, `last_map(model, variables, x)`.
      score: see `saliency`.

    Returns:
      `[B, H, W]` in [0, 1], each divided by its largest value; 0 where nothing raises the score.

    Raises:
      ValueError: there is no such layer, or it returns no maps.
    """
    _check_images(x)
    tapped = with_tap(model, layer)
    like = jax.eval_shape(lambda v, x: tapped(v, x, jnp.zeros(()))[1], variables, x)
    if len(like.shape) != 4:
        raise ValueError(
            f"layer {layer!r}: returns {list(like.shape)}, Grad-CAM needs [B, h, w, c]"
        )

    def total(shift: Array) -> tuple[Array, Array]:
        output, activation = tapped(variables, x, shift)
        return jnp.sum(jax.vmap(score)(output)), activation

    slope, activation = jax.grad(total, has_aux=True)(jnp.zeros(like.shape, like.dtype))
    weights = jnp.mean(slope, axis=(1, 2), keepdims=True)
    cam = jax.nn.relu(jnp.sum(weights * activation, axis=-1))
    return _unit(jax.image.resize(cam, x.shape[:3], "linear"))


def last_map(model: Model, variables: PyTree, x: Array) -> str:
    """Return the path of the last layer that returns maps `[B, h, w, c]` larger than one pixel.

    Of layers inside of each other, the outer one.

    Raises:
      ValueError: there is none.
    """
    shapes = layer_shapes(model, variables, x)
    maps = [p for p, shape in shapes.items() if len(shape) == 4 and min(shape[1:3]) > 1]
    if not maps:
        raise ValueError(f"{model.name}: no layer returns maps [B, h, w, c]")
    # the outer layer ends after those inside of it, hence stands last
    return maps[-1]


def cam_shift(first: Any, second: Any) -> np.ndarray:
    """How far attention moved between two maps of each image, in [0, 1].

    One minus the cosine of the two maps: 0 where they are proportional, 1 where they share no
    pixel. Between the maps of a clean and of an attacked image it shows a drift with eps (Dong et
    al. 2024, Grad-CAM figure).

    Args:
      first: `[B, H, W]`, non-negative.
      second: the same.

    Returns:
      `[B]`; 1 where one map is empty and the other not, 0 where both are.

    Raises:
      ValueError: the shapes differ.
    """
    a, b = (np.asarray(m, np.float64) for m in (first, second))
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"maps: expected two of the same shape [B, H, W], got {a.shape}, {b.shape}"
        )
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.divide((a * b).sum(1), norms, out=np.zeros(len(a)), where=norms > 0)
    both_empty = ~a.any(1) & ~b.any(1)
    return np.where(both_empty, 0.0, np.clip(1 - cosine, 0, 1))


def _unit(maps: Array) -> Array:
    top = jnp.max(maps, axis=(1, 2), keepdims=True)
    return maps / jnp.where(top > 0, top, 1)


def _check_images(x: Array) -> None:
    if jnp.ndim(x) != 4:
        raise ValueError(f"x: expected images [B, H, W, C], got shape {jnp.shape(x)}")
