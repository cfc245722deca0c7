"""Drawing tools of the phantoms: random draws, smooth fields, soft shapes, blending.

Coordinates are in [-1, 1] from edge to edge, so that a phantom looks the same at every size.
All functions draw ONE image and are mapped over keys by the caller.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Draws:
    """Hands out slices of one pool of uniforms.

    A phantom needs hundreds of random numbers; one call of the generator for all of them compiles
    and runs far faster than hundreds of calls, and normals would double the compile time.
    """

    def __init__(self, key: Array, size: int) -> None:
        self._pool = jax.random.uniform(key, (size,))
        self._used = 0

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> Array:
        """Return uniforms in [low, high) of the given shape."""
        start, self._used = self._used, self._used + math.prod(shape)
        if self._used > self._pool.size:
            raise RuntimeError(f"the pool of {self._pool.size} uniforms is used up")
        return low + (high - low) * self._pool[start : self._used].reshape(shape)

    def noise(self, *shape: int) -> Array:
        """Return uniforms of mean 0 and variance 1."""
        return self.uniform(-math.sqrt(3.0), math.sqrt(3.0), shape)


def grid(size: int) -> tuple[Array, Array]:
    """Return y and x of the pixel centres, each `[size, size]` in (-1, 1)."""
    line = (jnp.arange(size) + 0.5) * (2.0 / size) - 1.0
    return jnp.broadcast_to(line[:, None], (size, size)), jnp.broadcast_to(line, (size, size))


def _spline_matrix(size: int, knots: int) -> np.ndarray:
    """Cubic B-spline weights `[size, knots]`, rows scaled to unit energy."""
    place = (np.arange(size) + 0.5) / size * (knots - 3) + 1.0
    t = np.abs(place[:, None] - np.arange(knots))
    near, far = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
    weights = np.where(t < 1, near, far)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def smooth(noise: Array, size: int) -> Array:
    """Interpolate noise `[..., k, k]`, k >= 4, to fields `[..., size, size]` of unit variance."""
    matrix = jnp.asarray(_spline_matrix(size, noise.shape[-1]))
    return matrix @ noise @ matrix.T


def inside(distance: Array, edge: Array | float) -> Array:
    """Return 1 where a signed distance is negative, 0 where positive, with a soft edge."""
    return jax.nn.sigmoid(-4.0 * distance / edge)


def ellipse(
    y: Array, x: Array, centre: tuple[Array | float, Array | float], *axes: Array | float
) -> Array:
    """Return an approximate signed distance to an ellipse with semi-axes (along y, along x)."""
    along_y, along_x = axes
    dy, dx = (y - centre[0]) / along_y, (x - centre[1]) / along_x
    return (jnp.sqrt(dy**2 + dx**2 + 1e-9) - 1.0) * jnp.minimum(along_y, along_x)


def rotate(y: Array, x: Array, angle: Array | float) -> tuple[Array, Array]:
    """Return the coordinates in a frame turned by `angle` radians."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * y - sin * x, sin * y + cos * x


def spots(y: Array, x: Array, centres: Array, radii: Array, weights: Array) -> Array:
    """Return soft discs `[K, H, W]` in [0, 1].

    Args:
      y: `[H, W]` coordinates.
      x: `[H, W]` coordinates.
      centres: `[K, 2]` (y, x).
      radii: `[K]` radii at which a disc has fallen to one half.
      weights: `[K]` opacity of each disc in [0, 1].
    """
    dy = y - centres[:, 0, None, None]
    dx = x - centres[:, 1, None, None]
    ratio = (dy**2 + dx**2) / radii[:, None, None] ** 2
    # super-Gaussian: flat inside, so that a disc of several pixels is a shape and not a glow
    return weights[:, None, None] * jnp.exp2(-ratio * jnp.sqrt(ratio))


def curves(
    y: Array, x: Array, centres: Array, angles: Array, bends: Array, half_lengths: Array
) -> Array:
    """Return the distances `[K, H, W]` to K arcs `v = bend * u^2`, |u| <= half_length.

    Args:
      y: `[H, W]` coordinates.
      x: `[H, W]` coordinates.
      centres: `[K, 2]` (y, x).
      angles: `[K]` directions in radians.
      bends: `[K]` curvatures.
      half_lengths: `[K]`.
    """
    column = (slice(None), None, None)
    v, u = rotate(y - centres[:, 0][column], x - centres[:, 1][column], angles[column])
    past_the_end = jnp.maximum(jnp.abs(u) - half_lengths[column], 0.0)
    bend = bends[column]
    across = (v - bend * u**2) ** 2 / (1.0 + 4.0 * (bend * u) ** 2)
    return jnp.sqrt(across + past_the_end**2 + 1e-9)


def paint(image: Array, layers: list[tuple[Any, Array]]) -> Array:
    """Lay colours over `image` `[H, W, C]`, first layer lowest.

    Args:
      image: `[H, W, C]`.
      layers: pairs of a colour `[C]` and an opacity `[H, W]` in [0, 1].
    """
    colours = jnp.stack([jnp.asarray(colour, jnp.float32) for colour, _ in layers])
    opacities = jnp.stack([opacity for _, opacity in layers])

    def one(below: Array, layer: tuple[Array, Array]) -> tuple[Array, None]:
        colour, opacity = layer
        return below + opacity[..., None] * (colour - below), None

    # a loop and not a chain of thirteen blends: one small program to compile
    return jax.lax.scan(one, image, (colours, opacities))[0]


def polar(radius: Array, angle: Array) -> Array:
    """Return points `[K, 2]` (y, x) from radii `[K]` and angles `[K]`."""
    return jnp.stack([radius * jnp.sin(angle), radius * jnp.cos(angle)], axis=-1)
