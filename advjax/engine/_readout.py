"""A linear read-out that separates few points from many, fitted in NumPy and float64."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from advjax.types import Array, Output

RIDGE = 1e-6
MOST_ROUNDS = 50


class Readout(NamedTuple):
    """A linear function of the features of one image: `weight @ (features - centre) - 1`.

    Its scale is such that the inner points have -1 on average, whatever the scale of the features.

    Attributes:
      weight: `[D]`, or `[B, D]` for a batch.
      centre: `[D]`, or `[B, D]`, the mean of the inner points.
    """

    weight: Array | np.ndarray
    centre: Array | np.ndarray


class Wanted(NamedTuple):
    """What the points of an image are, in their order.

    Attributes:
      inner: how many come first, all of class 0.
      outer: how many candidates for class 1 follow; the rest are random points.
      boundary: how many of the candidates are class 1.
      closeness: of the threshold to class 1, between 0 and 1.
    """

    inner: int
    outer: int
    boundary: int
    closeness: float


class Fit(NamedTuple):
    """The read-out of one image.

    Attributes:
      readout: zeros where nothing separates.
      separable: whether it separates the classes.
      place: the number of the point of class 1 with the highest score.
      random_solves: whether a random point is of class 1.
    """

    readout: Readout
    separable: bool
    place: int
    random_solves: bool


def score(output: Output, readout: Readout) -> Array:
    """Return `[]`, positive for class 1, of the features of one example."""
    flat = jnp.ravel(output)
    return jnp.sum(readout.weight * (flat - readout.centre)) - 1


def fit(features: np.ndarray, wanted: Wanted) -> Fit:
    """Fit the read-out of one image to the features `[points, D]` of its points."""
    nothing = Fit(Readout(*np.zeros((2, features.shape[1]))), False, 0, False)
    if not np.isfinite(features).all():
        return nothing
    centre = features[: wanted.inner].mean(0)
    inner, outer, random = np.split(features - centre, [wanted.inner, wanted.inner + wanted.outer])
    # what differs by less than float32 resolves is no difference
    noise = 1e-6 * np.abs(features).max() * np.sqrt(len(features))
    chosen = np.argsort(-_unlikeness(inner, outer, noise), kind="stable")[: wanted.boundary]
    weight = _separate(inner, outer[chosen], noise)
    scores = outer[chosen] @ weight
    highest, lowest = (inner @ weight).max(), scores.min()
    if not lowest > highest:
        return nothing
    # positive, since the scores of the inner points have mean zero
    threshold = highest + wanted.closeness * (lowest - highest)
    place = wanted.inner + int(chosen[np.argmax(scores)])
    random_solves = bool((random @ weight > threshold).any())
    return Fit(Readout(weight / threshold, centre), True, place, random_solves)


def _unlikeness(inner: np.ndarray, outer: np.ndarray, noise: float) -> np.ndarray:
    """Return how far `outer` is from the centred `inner`, in units of its spread: `[outer]`.

    The spread of the features is regularised, since there may be more of them than points.
    """
    _, size, axes = np.linalg.svd(inner, full_matrices=False)
    variance = size**2 / len(inner)
    least = 0.1 * variance.mean() + noise**2 + np.finfo(np.float64).tiny
    along = outer @ axes.T
    across = np.maximum((outer**2).sum(1) - (along**2).sum(1), 0)
    return (along**2 / (variance + least)).sum(1) + across / least


def _separate(inner: np.ndarray, boundary: np.ndarray, noise: float) -> np.ndarray:
    """Return the weights `[D]` of a logistic regression in which both classes weigh the same.

    Newton's method with halved steps, in the span of the points.
    """
    points = np.concatenate([inner, boundary])
    left, size, axes = np.linalg.svd(points, full_matrices=False)
    real = size > noise
    if not real.any():
        return np.zeros(points.shape[1])
    scale = np.sqrt(len(points)) / size[0]
    design = np.column_stack([left[:, real] * size[real] * scale, np.ones(len(points))])
    sign = np.repeat([-1.0, 1.0], [len(inner), len(boundary)])
    mass = np.repeat([0.5 / len(inner), 0.5 / len(boundary)], [len(inner), len(boundary)])

    def loss(theta: np.ndarray) -> float:
        ridge = RIDGE / 2 * theta @ theta
        return float(mass @ np.logaddexp(0, -sign * (design @ theta)) + ridge)

    theta = np.zeros(design.shape[1])
    for _ in range(MOST_ROUNDS):
        mistake = np.exp(-np.logaddexp(0, sign * (design @ theta)))
        gradient = RIDGE * theta - design.T @ (mass * sign * mistake)
        curvature = (design.T * (mass * mistake * (1 - mistake))) @ design
        step = np.linalg.solve(curvature + RIDGE * np.eye(len(theta)), gradient)
        rate, now = 1.0, loss(theta)
        while rate > 1e-3 and loss(theta - rate * step) >= now:
            rate /= 2
        if rate <= 1e-3 or np.abs(step).max() < 1e-6 * np.abs(theta).max():
            break
        theta = theta - rate * step
    return axes[real].T @ theta[:-1] * scale
