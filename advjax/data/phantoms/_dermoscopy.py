"""Dermoscopy phantoms: a pigmented, vascular or keratinising lesion on skin, 7 classes.

Every class is a row of `_TRAITS`; the drawing code is the same for all. Which structures go with
which diagnosis follows the dictionary of dermoscopy (Kittler et al. 2016, third consensus
conference of the International Society of Dermoscopy): white centre in a delicate network for
dermatofibroma, lacunae for vascular lesions, milia-like cysts and a sharp lobed border for benign
keratosis, blue-grey nests and branching vessels for basal cell carcinoma, scale on pink for
actinic keratosis, asymmetry in shape and colour for melanoma, a symmetric network for a naevus.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data.phantoms import _fields as f
from advjax.data.phantoms._spec import Phantom, PhantomSpec

Array = jax.Array

_POOL = 840
_CUE = 0.12  # share of the mean colour that belongs to the class


class _Traits(NamedTuple):
    """What a class looks like; scalars but for the colour. See `_TRAITS`."""

    colour: Array  # [3] of the body of the lesion
    cover: Array  # opacity of the body
    edge: Array  # width over which the border fades
    lobes: Array  # amplitude of the coarse border harmonics
    jags: Array  # amplitude of the fine ones
    eccentric: Array  # dark part off centre
    centred: Array  # dark part in the middle
    white_centre: Array
    veil: Array  # blue-white veil
    nests: Array  # blue-grey ovoid nests near the rim
    lacunae: Array  # purple-red round lagoons
    cysts: Array  # white dots and dark plugs
    globules: Array  # dark dots at the rim
    network: Array  # contrast of the pigment network
    scale: Array  # yellow-white patches
    halo: Array  # redness around the lesion
    vessels: Array  # bright red branching lines


_COLOURS = (
    (0.80, 0.50, 0.45),
    (0.82, 0.54, 0.50),
    (0.56, 0.39, 0.26),
    (0.60, 0.42, 0.31),
    (0.46, 0.31, 0.23),
    (0.52, 0.35, 0.24),
    (0.72, 0.34, 0.35),
)
_TRAITS = {
    #                akiec  bcc   bkl   df    mel   nv    vasc
    "cover":        (0.62, 0.60, 0.84, 0.62, 0.86, 0.80, 0.72),
    "edge":         (0.30, 0.14, 0.05, 0.26, 0.08, 0.16, 0.10),
    "lobes":        (0.14, 0.09, 0.07, 0.03, 0.22, 0.03, 0.05),
    "jags":         (0.06, 0.04, 0.06, 0.01, 0.07, 0.01, 0.03),
    "eccentric":    (0.05, 0.05, 0.05, 0.00, 0.72, 0.05, 0.05),
    "centred":      (0.00, 0.00, 0.05, 0.00, 0.00, 0.55, 0.00),
    "white_centre": (0.00, 0.00, 0.00, 0.78, 0.00, 0.00, 0.00),
    "veil":         (0.00, 0.00, 0.00, 0.00, 0.60, 0.00, 0.00),
    "nests":        (0.00, 0.92, 0.00, 0.00, 0.00, 0.00, 0.00),
    "lacunae":      (0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.88),
    "cysts":        (0.00, 0.05, 0.95, 0.00, 0.00, 0.00, 0.00),
    "globules":     (0.00, 0.00, 0.00, 0.00, 0.60, 0.10, 0.00),
    "network":      (0.00, 0.00, 0.05, 0.16, 0.14, 0.24, 0.00),
    "scale":        (0.92, 0.05, 0.10, 0.00, 0.00, 0.00, 0.00),
    "halo":         (0.45, 0.15, 0.00, 0.05, 0.10, 0.00, 0.10),
    "vessels":      (0.05, 0.75, 0.00, 0.00, 0.05, 0.00, 0.00),
}  # fmt: skip
_ROWS = np.column_stack([_COLOURS, *(_TRAITS[name] for name in _Traits._fields[1:])]).astype("f4")

# colours of what is painted, (r, g, b)
_RED_SKIN, _SCAR, _VEIL = (0.82, 0.54, 0.49), (0.95, 0.86, 0.80), (0.58, 0.62, 0.70)
_NEST, _SEPTUM, _LAGOON = (0.30, 0.32, 0.44), (0.80, 0.52, 0.56), (0.48, 0.07, 0.17)
_PLUG, _CYST, _KERATIN = (0.22, 0.14, 0.09), (0.97, 0.92, 0.80), (0.96, 0.90, 0.74)
_VESSEL, _HAIR = (0.72, 0.16, 0.19), (0.16, 0.11, 0.08)
_DARK, _BROWN = (0.17, 0.11, 0.10), (0.27, 0.18, 0.16)

# (count, ring in radii, radius in radii): nests, lagoons (two rings), plugs, cysts, globules
_DOTS = (
    (3, (0.45, 0.70), (0.26, 0.36)),
    (7, (0.50, 0.74), (0.20, 0.29)),
    (3, (0.00, 0.25), (0.20, 0.26)),
    (5, (0.20, 0.80), (0.11, 0.17)),
    (5, (0.15, 0.72), (0.12, 0.18)),
    (8, (0.75, 1.05), (0.07, 0.14)),
)


class _Lesion(NamedTuple):
    y: Array  # [H, W] in units of the radius, turned into the frame of the lesion
    x: Array
    depth: Array  # [H, W] signed distance to the border in image units, negative inside
    body: Array  # [H, W] soft indicator


def _skin(draws: f.Draws, blotches: Array, size: int, difficulty: Array | float) -> Array:
    """Skin `[H, W, 3]`: tone between light and tan, blotches, fine grain."""
    light, tan = jnp.array([0.91, 0.74, 0.66]), jnp.array([0.74, 0.55, 0.44])
    tone = draws.uniform() * (0.3 + 0.7 * difficulty)
    furrows = f.smooth(draws.noise(15, 15), size)[..., None] * 0.012
    uneven = blotches[..., None] * jnp.array([0.010, 0.022, 0.020]) + furrows
    return light + tone * (tan - light) + (0.5 + difficulty) * uneven


def _place(
    draws: f.Draws, traits: _Traits, y: Array, x: Array, difficulty: Array | float
) -> _Lesion:
    radius = 0.58 + (0.04 + 0.22 * difficulty) * draws.uniform(-1.0, 1.0)
    offset = draws.uniform(-1.0, 1.0, (2,)) * (0.06 + 0.5 * difficulty)
    aspect = jnp.sqrt(draws.uniform(0.72, 1.0))
    turned_y, turned_x = f.rotate(y - offset[0], x - offset[1], draws.uniform(0.0, 2 * jnp.pi))
    u, v = turned_y / (radius * aspect), turned_x / (radius / aspect)
    rho, theta = jnp.sqrt(u**2 + v**2 + 1e-6), jnp.arctan2(u, v)
    order = jnp.arange(2.0, 10.0)
    phase = draws.uniform(0.0, 2 * jnp.pi, (8,))
    gain = draws.uniform(0.2, 1.0, (8,)) * jnp.where(order < 4, traits.lobes, traits.jags)
    waves = gain[:, None, None] * jnp.cos(order[:, None, None] * theta + phase[:, None, None])
    depth = (rho - 1.0 - jnp.sum(waves, axis=0)) * radius
    lesion = _Lesion(u, v, depth, f.inside(depth, traits.edge))
    # computed once: without the barrier XLA repeats (and compiles) it inside every consumer
    return jax.lax.optimization_barrier(lesion)


_Layers = list[tuple[Any, Array]]  # colour [3], opacity [H, W]


def _body_layers(draws: f.Draws, lesion: _Lesion, traits: _Traits) -> _Layers:
    """Halo, body with its pigment, and the large light and dark parts."""
    halo = f.inside(lesion.depth - 0.22, 0.5) * traits.halo * 0.6
    pigment = 1.0 + draws.uniform(-0.2, 0.2) + draws.uniform(-0.03, 0.03, (3,))
    shift = f.polar(draws.uniform(0.35, 0.6, (1,)), draws.uniform(0.0, 2 * jnp.pi, (1,)))[0]
    rho2, along = lesion.y**2 + lesion.x**2, shift[0] * lesion.y + shift[1] * lesion.x
    offset2 = jnp.sum(shift**2)
    near = jnp.exp(-(rho2 - 2.0 * along + offset2) / 0.30)
    away = jnp.exp(-(rho2 + 2.0 * along + offset2) / 0.22)
    middle = jnp.exp(-((rho2 / 0.32) ** 2))
    return [
        (_RED_SKIN, halo),
        (traits.colour * pigment, lesion.body * traits.cover),
        (_DARK, lesion.body * near * traits.eccentric),
        (_BROWN, lesion.body * middle * traits.centred),
        (_SCAR, middle * traits.white_centre),
        (_VEIL, lesion.body * away * traits.veil),
    ]


def _dots(draws: f.Draws, lesion: _Lesion) -> list[Array]:
    """Opacities `[H, W]` of nests, two rings of lagoons, plugs, cysts and globules: `_DOTS`."""
    counts = np.array([count for count, _, _ in _DOTS])
    total, starts = int(counts.sum()), np.cumsum([0, *counts])

    def between(limits: list[tuple[float, float]]) -> Array:
        low, high = jnp.repeat(jnp.array(limits), counts, axis=0, total_repeat_length=total).T
        return low + (high - low) * draws.uniform(shape=(total,))

    reach = between([ring for _, ring, _ in _DOTS])
    radius = between([radii for _, _, radii in _DOTS])
    # evenly spread around the centre, group by group, then jittered
    turn = jnp.array(np.concatenate([np.arange(n) / n for n in counts]) * 2 * np.pi)
    begin = jnp.repeat(draws.uniform(0.0, 2 * np.pi, (len(counts),)), counts)
    jitter = draws.uniform(-0.7, 0.7, (total,)) * jnp.array(np.repeat(np.pi / counts, counts))
    shown = jnp.clip(draws.uniform(0.5, 1.4, (total,)), 0.0, 1.0)
    centres = f.polar(reach, begin + turn + jitter)
    spots = f.spots(lesion.y, lesion.x, centres, radius, shown)
    return [spots[i:j].max(axis=0) for i, j in itertools.pairwise(starts)]


def _vessels(draws: f.Draws, lesion: _Lesion) -> Array:
    """Opacity `[H, W]` of three branching vessels."""
    turn = draws.uniform(0.0, 2 * jnp.pi) + jnp.arange(3) * 2.1
    centres = f.polar(draws.uniform(0.25, 0.75, (3,)), turn)
    angles, bends = draws.uniform(0.0, jnp.pi, (3,)), draws.uniform(-0.9, 0.9, (3,))
    reach, fork = draws.uniform(0.3, 0.6, (3,)), draws.uniform(0.5, 0.9, (3,))
    lines = f.curves(
        lesion.y,
        lesion.x,
        jnp.concatenate([centres, centres]),
        jnp.concatenate([angles, angles + fork]),
        jnp.concatenate([bends, -bends]),
        jnp.concatenate([reach, 0.6 * reach]),
    )
    return jnp.exp(-((lines.min(axis=0) / 0.055) ** 2))


def _structure_layers(draws: f.Draws, lesion: _Lesion, traits: _Traits, patchy: Array) -> _Layers:
    """Round things, scale and vessels inside the lesion."""
    body = lesion.body
    nests, lagoons, middle, plugs, cysts, globules = _dots(draws, lesion)
    patches = jax.nn.sigmoid(5.0 * (patchy - 0.45))
    rim = f.inside(lesion.depth - 0.1, 0.1)
    return [
        (_NEST, nests * body * traits.nests),
        (_SEPTUM, body * traits.lacunae * 0.5),
        (_LAGOON, jnp.maximum(lagoons, middle) * body * traits.lacunae),
        (_PLUG, plugs * body * traits.cysts),
        (_CYST, cysts * body * traits.cysts),
        (_DARK, globules * rim * traits.globules),
        (_KERATIN, patches * body * traits.scale),
        (_VESSEL, _vessels(draws, lesion) * body * traits.vessels),
    ]


def _network(draws: f.Draws, lesion: _Lesion, traits: _Traits, warp: Array) -> Array:
    """Relative darkening `[H, W]` by the pigment network: round holes in a darker honeycomb."""
    pitch = 2 * jnp.pi / draws.uniform(0.24, 0.32)
    turns = (jnp.arange(3) * jnp.pi / 3)[:, None, None]
    waves = jnp.cos(pitch * f.rotate(lesion.y + 0.16 * warp, lesion.x - 0.16 * warp, turns)[0])
    rim = jnp.clip(lesion.y**2 + lesion.x**2, 0.0, 1.0)
    mesh = 0.3 - waves.sum(axis=0) / 1.5
    return mesh * (0.4 + 0.6 * rim) * lesion.body * traits.network


def _recolour(draws: f.Draws, image: Array, lesion: _Lesion, traits: _Traits) -> Array:
    """Shift the lesion to a mean colour that says little about the class.

    Without this step a linear model reads the class off the average colour; with it, what is left
    is structure: which parts are darker, redder or whiter than the rest, and where.
    """
    palette = jnp.array(
        [(0.70, 0.52, 0.41), (0.40, 0.28, 0.23), (0.80, 0.54, 0.50), (0.60, 0.33, 0.36)]
    )
    share = draws.uniform(0.0, 1.0, (4,)) ** 2
    colour = _CUE * traits.colour + (1.0 - _CUE) * (share / share.sum()) @ palette
    weight = lesion.body[..., None]
    mean = jnp.sum(weight * image, axis=(0, 1)) / jnp.sum(weight, axis=(0, 1))
    return image + weight * 0.9 * (colour - mean)


def _fine_texture(draws: f.Draws, target: Array, y: Array, x: Array) -> Array:
    """Weak waves `[H, W]` of unit amplitude; their pitch belongs to the class, not their phase."""
    cycles = 5.5 + 1.25 * target.astype(jnp.float32)
    v, u = f.rotate(y, x, draws.uniform(0.0, 2 * jnp.pi))
    phase = draws.uniform(0.0, 2 * jnp.pi, (2,))
    return 0.5 * (jnp.cos(jnp.pi * cycles * u + phase[0]) + jnp.cos(jnp.pi * cycles * v + phase[1]))


def _artefacts(
    draws: f.Draws, image: Array, y: Array, x: Array, difficulty: Array | float
) -> Array:
    """Hairs, illumination, colour cast, vignette and the dark corners of a contact plate."""
    shown = (draws.uniform(shape=(4,)) < 0.55 * difficulty) * draws.uniform(0.5, 0.85, (4,))
    lines = f.curves(
        y,
        x,
        draws.uniform(-0.9, 0.9, (4, 2)),
        draws.uniform(0.0, jnp.pi, (4,)),
        draws.uniform(-0.35, 0.35, (4,)),
        draws.uniform(0.5, 1.2, (4,)),
    )
    hairs = (jnp.exp(-((lines / 0.03) ** 2)) * shown[:, None, None]).max(axis=0)
    image = image + hairs[..., None] * (jnp.array(_HAIR) - image)
    slope = draws.uniform(-0.16, 0.16, (2,))
    light = 1.0 + difficulty * (draws.uniform(-0.22, 0.12) + slope[0] * y + slope[1] * x)
    cast = 1.0 + 0.12 * difficulty * draws.uniform(-1.0, 1.0, (3,))
    rho2 = y**2 + x**2
    light = light * (1.0 - difficulty * draws.uniform(0.0, 0.22) * rho2)
    plate = 1.0 - f.inside(jnp.sqrt(rho2) - draws.uniform(1.05, 1.3), 0.08)
    light = light * (1.0 - plate * (draws.uniform() < 0.35 * difficulty))
    return image * light[..., None] * cast


def _traits_of(draws: f.Draws, spec: PhantomSpec, target: Array) -> _Traits:
    """The row of the class, moved away from the mean of all rows by `signal`."""
    mean = _ROWS.mean(axis=0)
    row = jnp.clip(mean + spec.signal * (jnp.asarray(_ROWS)[target] - mean), 0.0, 1.0)
    # no patient shows every sign of the textbook: each is weakened at random
    weakened = row[3:] * (1.0 - 0.6 * spec.difficulty * draws.uniform(shape=row[3:].shape))
    traits = _Traits(row[:3], *weakened)
    traits = traits._replace(edge=jnp.maximum(traits.edge, 3.0 / spec.size))
    return jax.lax.optimization_barrier(traits)


def draw(key: Array, spec: PhantomSpec, target: Array) -> Phantom:
    """Draw one image of the class `target` `[]`."""
    shapes, noise_key = jax.random.split(key)
    draws = f.Draws(shapes, _POOL)
    y, x = f.grid(spec.size)
    traits = _traits_of(draws, spec, target)
    blotches, mottled, patchy, warp = f.smooth(draws.noise(4, 8, 8), spec.size)
    skin = _skin(draws, blotches, spec.size, spec.difficulty)
    lesion = _place(draws, traits, y, x, spec.difficulty)
    layers = _body_layers(draws, lesion, traits)
    image = f.paint(skin, layers + _structure_layers(draws, lesion, traits, patchy))
    relief = 1.0 + 0.08 * mottled * lesion.body - _network(draws, lesion, traits, warp)
    image = _recolour(draws, image * relief[..., None], lesion, traits)
    weave = spec.texture * 0.012 * _fine_texture(draws, target, y, x)
    image = _artefacts(draws, image + weave[..., None], y, x, spec.difficulty)
    grain = f.Draws(noise_key, image.size).noise(*image.shape) * (0.004 + 0.020 * spec.difficulty)
    mask = (lesion.depth < 0.0).astype(jnp.int32)
    return Phantom(jnp.clip(image + grain, 0.0, 1.0), target, mask)
