"""How well the features of a layer tell classes apart, clean and attacked."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from advjax.models import Model, with_tap
from advjax.types import PyTree


def features(
    model: Model, variables: PyTree, x: ArrayLike, layer: str, *, batch_size: int = 128
) -> np.ndarray:
    """Return what a layer says of images, maps averaged over their pixels.

    Args:
      model: of the zoo, or from `models.from_linen`; in evaluation mode.
      variables: of the model.
      x: `[N, H, W, C]` floats.
      layer: a path of `models.layer_shapes`.
      batch_size: images at a time.

    Returns:
      `[N, D]`.

    Raises:
      ValueError: there is no such layer.
    """
    tapped = with_tap(model, layer)

    @jax.jit
    def pooled(variables: PyTree, x: jax.Array) -> jax.Array:
        activation = tapped(variables, x, jnp.zeros(()))[1]
        return jnp.mean(activation, axis=(1, 2)) if activation.ndim == 4 else activation

    images = np.asarray(x)
    size = min(batch_size, len(images))
    parts = []
    for start in range(0, len(images), size):
        rows = np.minimum(np.arange(start, start + size), len(images) - 1)
        parts.append(np.asarray(pooled(variables, jnp.asarray(images[rows]))))
    return np.concatenate(parts)[: len(images)]


def fisher_ratio(points: ArrayLike, labels: ArrayLike) -> float:
    """Scatter of the class means over scatter inside of the classes (Fisher 1936; trace form).

    `tr(S_between) / tr(S_within)`, both sums over the examples; larger is easier to tell apart,
    whatever the scale of the features. Infinite where no class has any spread.

    Args:
      points: `[N, D]`.
      labels: `[N]` classes; two at least.

    Raises:
      ValueError: sizes do not fit, or there is one class only.
    """
    p, y = _classes("fisher_ratio", points, labels)
    mean = p.mean(0)
    between = within = 0.0
    for label in np.unique(y):
        own = p[y == label]
        between += len(own) * float(np.sum((own.mean(0) - mean) ** 2))
        within += float(np.sum((own - own.mean(0)) ** 2))
    return between / within if within > 0 else float("inf")


def silhouette(points: ArrayLike, labels: ArrayLike) -> float:
    """Mean silhouette (Rousseeuw 1987), Euclidean, in [-1, 1]: 1 where classes lie far apart.

    An example that is alone in its class has 0.

    Args:
      points: `[N, D]`; the time grows with N squared.
      labels: `[N]` classes; two at least.

    Raises:
      ValueError: sizes do not fit, or there is one class only.
    """
    p, y = _classes("silhouette", points, labels)
    kinds, at = np.unique(y, return_inverse=True)
    hot = np.eye(len(kinds))[at]
    counts = hot.sum(0)
    values = np.zeros(len(p))
    for i in range(len(p)):
        sums = np.linalg.norm(p - p[i], axis=1) @ hot
        own = at[i]
        if counts[own] < 2:
            continue
        inside = sums[own] / (counts[own] - 1)
        nearest = np.min(np.delete(sums / counts, own))
        largest = max(inside, nearest)
        values[i] = (nearest - inside) / largest if largest > 0 else 0.0
    return float(values.mean())


def principal_axes(points: ArrayLike, num: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Project points on their directions of largest variance, to draw them.

    Args:
      points: `[N, D]`.
      num: directions.

    Returns:
      `[N, num]`, and `[num]` shares of the variance. Signs are such that the largest weight of a
      direction is positive.

    Raises:
      ValueError: fewer directions than asked for.
    """
    p = np.asarray(points, np.float64)
    if p.ndim != 2 or not 1 <= num <= min(p.shape):
        raise ValueError(f"points: expected [N, D] with {num} directions, got shape {p.shape}")
    centred = p - p.mean(0)
    left, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    total = max(float(np.sum(lengths**2)), np.finfo(np.float64).tiny)
    return (left * lengths * signs)[:, :num], (lengths**2 / total)[:num]


def _classes(name: str, points: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = np.asarray(points, np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1]:
        raise ValueError(f"{name}: expected points [N, D] and labels [N], got {p.shape}, {y.shape}")
    if len(np.unique(y)) < 2:
        raise ValueError(f"{name}: needs two classes at least")
    return p, y
