"""Noise; videos of ONE image `[H, W, C]` whose first frame is the image itself."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax.types import Array


def gaussian_noise(key: Array, image: Array, num_frames: int, unit: float) -> Array:
    """Add normal noise of 0.03, drawn anew for every frame."""
    del unit
    return _frames(key, image, num_frames, lambda k: image + 0.03 * _normal(k, image))


def shot_noise(key: Array, image: Array, num_frames: int, unit: float) -> Array:
    """Count 300 photons for white: `Poisson(300 x) / 300`."""
    del unit

    def one(key: Array) -> Array:
        return jax.random.poisson(key, 300 * image).astype(image.dtype) / 300

    return _frames(key, image, num_frames, one)


def speckle_noise(key: Array, image: Array, num_frames: int, unit: float) -> Array:
    """Add normal noise of 0.05 times the pixel."""
    del unit
    return _frames(key, image, num_frames, lambda k: image + 0.05 * image * _normal(k, image))


def _normal(key: Array, image: Array) -> Array:
    return jax.random.normal(key, image.shape, image.dtype)


def _frames(key: Array, image: Array, num_frames: int, one: Callable[[Array], Array]) -> Array:
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(1, num_frames))
    return jnp.concatenate([image[None], jnp.clip(jax.vmap(one)(keys), 0, 1)])
