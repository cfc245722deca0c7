"""Snow, spatter and brightness; videos of ONE image `[H, W, C]`."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.analysis.perturbations import _geometry
from advjax.analysis.perturbations._read import gaussian, grey, motion, warp, weighted_sum
from advjax.types import Array

_WATER = (175 / 255, 238 / 255, 238 / 255)  # pale turquoise
_DRIP = np.array([0.05, 0.1, 0.15, 0.7])


def brightness(key: Array, image: Array, num_frames: int, unit: float) -> Array:
    """Add `0.02 (frame - 15)` to the value of HSV: frames of -0.30 to -0.12."""
    del key, unit
    return jnp.stack([_value_shift(image, 0.02 * (i - 15)) for i in range(num_frames)])


def snow(key: Array, image: Array, num_frames: int, unit: float) -> Array:
    """Flakes of one draw that fall in a direction that turns, over an image that pales."""
    height, width = image.shape[:2]
    flakes = 0.05 + 0.3 * jax.random.normal(key, (height, width, 1), image.dtype)
    flakes = warp(flakes, _geometry.zoom(3.0, height, width)[None], "edge")[0]
    flakes = jnp.clip(jnp.where(flakes < 0.5, 0, flakes), 0, 1)
    pale = 0.85 * image + 0.15 * jnp.maximum(image, 1.5 * grey(image) + 0.5)

    angles = 4.0 * np.arange(num_frames) - 150
    falling = motion(flakes, 14 * unit, 4 * unit, angles)
    return jnp.clip(pale + falling + falling[:, ::-1, ::-1], 0, 1)


def spatter(key: Array, image: Array, num_frames: int, unit: float) -> Array:
    """Drops of water of one draw that run down a little with every frame.

    The authors' file shades the drops by their edges (Canny, a distance transform, an equalised
    histogram); here a drop is as strong as its liquid is thick, 0.6 at most.
    """
    height, width = image.shape[:2]
    liquid = 0.65 + 0.27 * jax.random.normal(key, (height, width, 1), image.dtype)
    # what a blur leaves of the spread of white noise goes with 1 / sigma, and so do the drops
    spread = max(3.7 * unit, 0.5)
    liquid = 0.65 + (gaussian(liquid, spread, 4.0) - 0.65) * (spread / 3.7)
    liquid = jnp.where(liquid < 0.69, 0, liquid)
    colour = jnp.asarray(_WATER if image.shape[2] == 3 else [np.mean(_WATER)], image.dtype)
    frames = []
    for _ in range(num_frames):
        top = jnp.max(liquid)
        strength = 0.6 * liquid / jnp.where(top > 0, top, 1)
        frames.append(jnp.clip(image + strength * colour, 0, 1))
        liquid = _run_down(liquid)
    return jnp.stack(frames)


def _run_down(liquid: Array) -> Array:
    """Convolve columns with 0.05, 0.1, 0.15, 0.7, centred as NumPy's `same` is."""
    before = (len(_DRIP) - 1) // 2
    padded = jnp.pad(liquid, ((len(_DRIP) - 1 - before, before), (0, 0), (0, 0)))
    height = liquid.shape[0]
    last = len(_DRIP) - 1
    return weighted_sum(_DRIP, [padded[last - k : last - k + height] for k in range(len(_DRIP))])


def _value_shift(image: Array, shift: float) -> Array:
    """Move the largest channel of a pixel by `shift`, its hue and saturation as they are."""
    top = jnp.max(image, axis=2, keepdims=True)
    new = jnp.clip(top + shift, 0, 1)
    # black has no hue: it becomes grey
    return jnp.where(top > 0, image * (new / jnp.where(top > 0, top, 1)), new)
