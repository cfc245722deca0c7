"""Lung CT phantoms: one axial slice in the lung window, negative or with pneumonia.

Positive slices have ground-glass patches with a noisy border, mostly peripheral and posterior, some
with a consolidated core or a fine mesh (Salehi et al. 2020 on COVID-19). Negative slices, and
positive ones too, have what a mean-brightness rule would fall for: nodules, thick vessels, gravity
gradients, shallow breath. The slice is seen from the feet: the image's left is the patient's right.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.data.phantoms import _fields as f
from advjax.data.phantoms._spec import Phantom, PhantomSpec

Array = jax.Array

_POOL = 760
_PATCHES = 4


class _Slice(NamedTuple):
    y: Array  # [H, W] coordinates in the frame of the patient
    x: Array
    body: Array  # [H, W] soft indicator
    skin: Array  # [H, W] signed distance to the skin, negative inside
    pleura: Array  # [H, W] signed distance to the edge of the nearer lung, negative inside
    lungs: Array  # [H, W] soft indicator
    shape: Array  # [4] centre (y, |x|) and semi-axes (y, x) of the lungs


def _anatomy(draws: f.Draws, spec: PhantomSpec) -> _Slice:
    vary = spec.difficulty

    def jitter(amount: float) -> Array:
        return vary * amount * draws.uniform(-1.0, 1.0)

    y, x = f.grid(spec.size)
    y, x = f.rotate(y + jitter(0.24), x + jitter(0.24), jitter(0.24))
    y, x = y * (1.04 + jitter(0.16)), x * (1.0 + jitter(0.16))
    skin = f.ellipse(y, x, (0.0, 0.0), 0.76, 0.94)
    shape = jnp.stack([0.02 + jitter(0.04), 0.43 + jitter(0.04)])
    axes = jnp.stack([0.50 + jitter(0.10), 0.31 + jitter(0.06)])
    tilt = 0.20 + jitter(0.10)
    sides = []
    for sign in (-1.0, 1.0):
        v, u = f.rotate(y - shape[0], x - sign * shape[1], -sign * tilt)
        # the lungs are wider behind than in front
        sides.append(f.ellipse(v, u, (0.0, 0.0), axes[0], axes[1] * (1.0 + 0.25 * v)))
    heart = f.ellipse(y, x, (-0.16 + jitter(0.06), 0.13), 0.30 + jitter(0.06), 0.27 + jitter(0.06))
    vertebra = f.ellipse(y, x, (0.50, 0.0), 0.20, 0.20)
    pleura = jnp.maximum(jnp.minimum(*sides), -jnp.minimum(heart, vertebra))
    body, lungs = f.inside(skin, 0.05), f.inside(pleura, 0.05)
    made = _Slice(y, x, body, skin, pleura, lungs, jnp.concatenate([shape, axes]))
    # computed once: without the barrier XLA repeats (and compiles) it inside every consumer
    return jax.lax.optimization_barrier(made)


def _in_lungs(
    draws: f.Draws, cut: _Slice, count: int, ring: tuple[float, float], behind: float
) -> Array:
    """Points `[count, 2]` in the lungs, `ring` of the way out; `behind` favours the back."""
    sign = jnp.where(draws.uniform(shape=(count,)) < 0.5, -1.0, 1.0)
    # angle 0 points to the chest wall, +pi/2 to the back
    angle = draws.uniform(-1.5, 1.5, (count,)) + behind
    reach = draws.uniform(*ring, (count,))
    along_y = cut.shape[0] + cut.shape[2] * reach * jnp.sin(angle)
    along_x = cut.shape[1] + cut.shape[3] * reach * jnp.cos(angle)
    return jnp.stack([along_y, sign * along_x], axis=-1)


def _vessels(draws: f.Draws, cut: _Slice, vary: Array | float) -> Array:
    """Opacity `[H, W]` of vessels: branches from the hila, and dots where they cross the slice."""
    count = 10
    sign = jnp.where(jnp.arange(count) % 2 == 0, -1.0, 1.0)
    fan = draws.uniform(-1.3, 1.3, (count,))
    length = draws.uniform(0.12, 0.24, (count,))
    out = jnp.stack([jnp.sin(fan), sign * jnp.cos(fan)], axis=-1)
    start = jnp.stack([jnp.full(count, 0.02), 0.20 * sign], axis=-1)
    centres = start + out * (length + draws.uniform(0.0, 0.12, (count,)))[:, None]
    angles = -jnp.arctan2(out[:, 0], out[:, 1])
    bends = draws.uniform(-0.8, 0.8, (count,))
    lines = f.curves(cut.y, cut.x, centres, angles, bends, length)
    thick = draws.uniform(0.014, 0.028, (count,))[:, None, None]
    hilum2 = (cut.y - 0.02) ** 2 + (jnp.abs(cut.x) - 0.20) ** 2
    branches = jnp.exp(-((lines / thick) ** 2)).max(axis=0) * jnp.exp(-3.0 * jnp.sqrt(hilum2))
    dots = f.spots(
        cut.y,
        cut.x,
        _in_lungs(draws, cut, 14, (0.0, 0.85), 0.0),
        draws.uniform(0.016, 0.036, (14,)),
        draws.uniform(0.4, 0.9, (14,)),
    ).max(axis=0)
    nodules = f.spots(
        cut.y,
        cut.x,
        _in_lungs(draws, cut, 3, (0.1, 0.8), 0.0),
        draws.uniform(0.05, 0.095, (3,)),
        (draws.uniform(shape=(3,)) < 0.6 * vary) * draws.uniform(0.5, 1.0, (3,)),
    ).max(axis=0)
    return jnp.maximum(jnp.maximum(0.9 * branches, dots), nodules)


def _lesions(draws: f.Draws, cut: _Slice, warp: Array, mesh: Array) -> tuple[Array, Array]:
    """Opacity and extent, each `[H, W]` in [0, 1], of the patches of a positive slice."""
    present = jnp.arange(_PATCHES) < 1 + 2.6 * draws.uniform()
    centres = _in_lungs(draws, cut, _PATCHES, (0.35, 0.95), 0.15)
    radii = draws.uniform(0.14, 0.24, (_PATCHES,))
    dy = cut.y - centres[:, 0, None, None]
    dx = (cut.x - centres[:, 1, None, None]) * draws.uniform(0.9, 1.4, (_PATCHES, 1, 1))
    ratio = jnp.sqrt(dy**2 + dx**2) / radii[:, None, None] + 0.28 * warp
    extent = jax.nn.sigmoid(7.0 * (1.0 - ratio)) * present[:, None, None]
    core = jax.nn.sigmoid(8.0 * (0.6 - ratio)) * present[:, None, None]
    solid = (draws.uniform(shape=(_PATCHES, 1, 1)) < 0.5) * draws.uniform(0.4, 0.9)
    glass = draws.uniform(0.30, 0.50, (_PATCHES, 1, 1))
    paving = 1.0 + 0.25 * mesh
    opacity = (extent * glass * paving + core * solid * (1.0 - glass)).max(axis=0)
    return jnp.clip(opacity, 0.0, 1.0), extent.max(axis=0)


def _frame(draws: f.Draws, cut: _Slice, lung: Array) -> Array:
    """Put lungs into the chest: fat, muscle, bones, great vessels, airway, table."""
    y, x = cut.y, cut.x
    wall = 0.74 + 0.10 * f.inside(cut.skin + 0.09, 0.06)
    density = cut.body * wall
    density = density + cut.lungs * (lung - density)
    vertebra = f.inside(f.ellipse(y, x, (0.47, 0.0), 0.12, 0.14), 0.05)
    arch = f.inside(f.ellipse(y, x, (0.62, 0.0), 0.10, 0.05), 0.05)
    canal = f.inside(f.ellipse(y, x, (0.585, 0.0), 0.04, 0.05), 0.04)
    sternum = f.inside(f.ellipse(y, x, (-0.66, 0.0), 0.04, 0.12), 0.04)
    turn = draws.uniform(0.0, 0.4) + jnp.arange(12.0) * (2 * jnp.pi / 12)
    places = jnp.stack([0.655 * jnp.sin(turn), 0.815 * jnp.cos(turn)], axis=-1)
    ribs = f.spots(y, x, places, draws.uniform(0.03, 0.055, (12,)), jnp.full(12, 0.9)).max(axis=0)
    bone = jnp.maximum(jnp.maximum(vertebra, arch), jnp.maximum(sternum, ribs)) * (1.0 - canal)
    density = density + bone * (0.98 - density)
    tubes = jnp.array([[0.16, -0.04], [0.17, 0.06]])
    airway = f.spots(y, x, tubes, jnp.array([0.05, 0.045]), jnp.ones(2)).max(axis=0)
    density = density * (1.0 - 0.9 * airway)
    table = jnp.abs(y + 0.10 * x**2 - 0.90)
    return density + 0.35 * jnp.exp(-((table / 0.025) ** 2)) * (1.0 - cut.body)


def _fine_texture(draws: f.Draws, target: Array, y: Array, x: Array) -> Array:
    """Weak waves `[H, W]` whose pitch belongs to the class, not their phase: a kernel's grain."""
    cycles = 8.0 + 4.0 * target.astype(jnp.float32)
    v, u = f.rotate(y, x, draws.uniform(0.0, 2 * jnp.pi))
    phase = draws.uniform(0.0, 2 * jnp.pi, (2,))
    return 0.5 * (jnp.cos(jnp.pi * cycles * u + phase[0]) + jnp.cos(jnp.pi * cycles * v + phase[1]))


def draw(key: Array, spec: PhantomSpec, target: Array) -> Phantom:
    """Draw one slice of the class `target` `[]`, 1 being positive."""
    shapes, noise_key = jax.random.split(key)
    draws, vary = f.Draws(shapes, _POOL), spec.difficulty
    cut = _anatomy(draws, spec)
    warp, mesh, haze = f.smooth(draws.noise(3, 12, 12), spec.size)
    opacity, extent = _lesions(draws, cut, warp, mesh)
    ill = target.astype(jnp.float32) * jnp.minimum(spec.signal, 1.6)
    gravity = vary * draws.uniform(-0.15, 0.65) * cut.y
    outward = vary * draws.uniform(-0.9, 1.2) * (cut.pleura + 0.12)
    lung = 0.18 + gravity + outward + 0.05 * vary * haze
    vessels = _vessels(draws, cut, vary)
    lung = lung + jnp.clip(ill * opacity, 0.0, 1.0) * (0.82 - lung)
    lung = lung + vessels * jnp.maximum(0.80 - lung, 0.0)
    # depth of breath sets the mean density, well or ill: what tells is where the lung is denser
    mean = jnp.sum(lung * cut.lungs) / jnp.sum(cut.lungs)
    breath = draws.uniform(0.22, 0.22 + 0.36 * vary)
    lung = lung + jnp.minimum(2.0 * vary, 0.9) * (breath - mean)
    density = _frame(draws, cut, lung)
    density = density * (1.0 + vary * draws.uniform(-0.3, 0.2)) + vary * draws.uniform(-0.05, 0.12)
    image = jnp.clip(density, 1e-3, 1.0) ** (1.0 + vary * draws.uniform(-0.4, 0.4))
    y, x = f.grid(spec.size)
    image = image + spec.texture * 0.012 * _fine_texture(draws, target, y, x)
    image = image + f.Draws(noise_key, image.size).noise(*image.shape) * (0.004 + 0.03 * vary)
    mask = (target > 0) & (extent > 0.5) & (cut.pleura < 0.0)
    return Phantom(jnp.clip(image, 0.0, 1.0)[..., None], target, mask.astype(jnp.int32))
