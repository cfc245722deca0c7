"""The perturbations by name."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from advjax import metrics
from advjax.analysis.perturbations import _geometry, _noise, _weather
from advjax.analysis.perturbations._read import gaussian, motion, warp
from advjax.random import row_keys
from advjax.types import Array

NUM_FRAMES = 10
REFERENCE_SIZE = 224
"""The width at which the lengths of the paper are meant."""

# (key, image [H, W, C], num_frames, unit) -> [F, H, W, C]; unit: pixels here for one of the paper
VideoFn = Callable[[Array, Array, int, float], Array]


def _moved(place: Callable[[int, int, int, float], np.ndarray]) -> VideoFn:
    """Make a video of an image that moves as a whole."""

    def make(key: Array, image: Array, num_frames: int, unit: float) -> Array:
        del key
        height, width = image.shape[:2]
        return warp(image, np.stack([place(i, height, width, unit) for i in range(num_frames)]))

    return make


def _motion_blur(key: Array, image: Array, num_frames: int, unit: float) -> Array:
    """Radius 10, sigma 3, in a direction of -120 to -84 degrees."""
    del key
    return motion(image, 10 * unit, 3 * unit, 4.0 * (np.arange(num_frames) - 30))


def _gaussian_blur(key: Array, image: Array, num_frames: int, unit: float) -> Array:
    """A sigma of 0.25 to 0.565 pixels, whatever their size: of less, nothing would remain."""
    del key, unit
    sigmas = 0.25 + 0.035 * np.arange(num_frames)
    return jnp.stack([gaussian(image, float(sigma)) for sigma in sigmas])


def _zoom_blur(key: Array, image: Array, num_frames: int, unit: float) -> Array:
    """The running mean of the image enlarged by 0, 0.4, 0.8, ... per cent."""
    del key, unit
    height, width = image.shape[:2]
    places = [_geometry.zoom(1 + 0.004 * i, height, width) for i in range(num_frames)]
    frames = warp(image, np.stack(places), "edge")
    counts = jnp.arange(1, num_frames + 1, dtype=image.dtype)
    return jnp.cumsum(frames, 0) / counts[:, None, None, None]


PERTURBATIONS: dict[str, VideoFn] = {
    "brightness": _weather.brightness,
    "gaussian_blur": _gaussian_blur,
    "gaussian_noise": _noise.gaussian_noise,
    "motion_blur": _motion_blur,
    "rotate": _moved(_geometry.rotate),
    "scale": _moved(_geometry.scale),
    "shear": _moved(_geometry.shear),
    "shot_noise": _noise.shot_noise,
    "snow": _weather.snow,
    "spatter": _weather.spatter,
    "speckle_noise": _noise.speckle_noise,
    "tilt": _moved(_geometry.tilt),
    "translate": _moved(_geometry.translate),
    "zoom_blur": _zoom_blur,
}
"""Name -> `(key, image, num_frames, unit) -> frames` of one image."""

NOISES = ("gaussian_noise", "shot_noise", "speckle_noise")
"""Those whose frames have no order: predictions are compared with the first one, the image."""


def video(
    name: str,
    keys: Array,
    x: Any,
    *,
    num_frames: int = NUM_FRAMES,
    reference_size: int | None = REFERENCE_SIZE,
) -> Array:
    """Perturb images frame by frame. Compiled once per name and shape.

    Args:
      name: of `PERTURBATIONS`.
      keys: `[B]` keys, such as `advjax.random.example_keys(key, ids)`, or one key; what is drawn
        depends on them only.
      x: `[B, H, W, C]` floats in [0, 1].
      num_frames: 10 in the paper, 31 in ImageNet-P.
      reference_size: lengths in pixels are those of images of this width, and scaled to the images
        (a shift by 20 pixels is 2.9 at 32); None: taken as they are. A Gaussian blur is less than
        a pixel, and not scaled.

    Returns:
      `[B, F, H, W, C]` in [0, 1].

    Raises:
      ValueError: an unknown name, images that are none, or fewer than 2 frames.
    """
    if name not in PERTURBATIONS:
        raise ValueError(f"perturbation {name!r} is unknown; known: {', '.join(PERTURBATIONS)}")
    x = jnp.asarray(x)
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x: expected floats [B, H, W, C] in [0, 1], got {x.dtype}{list(x.shape)}")
    if num_frames < 2:
        raise ValueError(f"num_frames: must be at least 2, got {num_frames}")
    unit = 1.0 if reference_size is None else x.shape[2] / reference_size
    return _program(name, num_frames, unit)(row_keys(keys, len(x)), x)


@functools.lru_cache(maxsize=64)
def _program(name: str, num_frames: int, unit: float) -> Callable[[Array, Array], Array]:
    @jax.jit
    def make(keys: Array, x: Array) -> Array:
        one = PERTURBATIONS[name]
        return jax.vmap(lambda k, image: one(k, image, num_frames, unit))(keys, x)

    return make


def flip_rate(name: str, predictions: ArrayLike) -> float:
    """Return the flip probability of a perturbation as Xu et al. (2021) count it.

    One class an image: against the frame before, for noise against the first frame. Findings: see
    `metrics.label_flip_probability`.

    Args:
      name: of `PERTURBATIONS`.
      predictions: `[N, F]` classes, or `[N, F, K]` decisions.

    Raises:
      ValueError: an unknown name, or another shape.
    """
    if name not in PERTURBATIONS:
        raise ValueError(f"perturbation {name!r} is unknown; known: {', '.join(PERTURBATIONS)}")
    found = np.asarray(predictions)
    if found.ndim == 3:
        return metrics.label_flip_probability(found)
    reference = "first" if name in NOISES else "previous"
    return metrics.flip_probability(found, reference=reference)
