"""Endoscopy phantoms: a colon with or without a polyp, and the artefacts of the camera.

A polyp is a dome: lit on the side of the light, dark on the other and at its foot, with a
surface of its own. Folds, which are ridges with a lit and a dark side too, are what it is confused
with. Artefacts are of the kinds of EAD-2019 (Ali et al. 2020): specularity, saturation, bubbles,
instrument and low contrast; each has a box. They are the targets of detection, and nuisances
otherwise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data.phantoms import _fields as f
from advjax.data.phantoms._spec import ARTEFACTS, Phantom, PhantomSpec

Array = jax.Array

_POOL = 850
# the kind of each of the boxes that an image may have, and how likely each is
_KIND = np.array([ARTEFACTS.index(k) for k in (
    "specularity", "specularity", "specularity", "saturation", "bubbles", "bubbles", "instrument",
    "contrast",
)])  # fmt: skip
_SATURATION, _INSTRUMENT, _CONTRAST = 3, 6, 7
_BUBBLES = (4, 5)
_CHANCE = np.array([0.6, 0.5, 0.4, 0.35, 0.5, 0.35, 0.4, 0.35])
_RADII = ((0.06, 0.11), (0.28, 0.42), (0.16, 0.26), (0.10, 0.13), (0.30, 0.45))
_WHITE, _GLOW = (1.0, 1.0, 1.0), (1.0, 0.97, 0.92)
_FOAM, _STEEL, _VESSEL = (0.96, 0.90, 0.80), (0.55, 0.60, 0.66), (0.55, 0.14, 0.14)


class _Colon(NamedTuple):
    y: Array  # [H, W]
    x: Array
    light: Array  # [2] unit vector (y, x) towards the light
    lumen: Array  # [2] where the colon goes on


def _anatomy(draws: f.Draws, spec: PhantomSpec) -> _Colon:
    y, x = f.grid(spec.size)
    angle = draws.uniform(0.0, 2 * jnp.pi)
    light = jnp.stack([jnp.sin(angle), jnp.cos(angle)])
    lumen = f.polar(draws.uniform(0.3, 0.95, (1,)), draws.uniform(0.0, 2 * jnp.pi, (1,)))[0]
    return jax.lax.optimization_barrier(_Colon(y, x, light, lumen))


def _wall(draws: f.Draws, colon: _Colon, fields: Array, vary: Array | float) -> Array:
    """Mucosa `[H, W, 3]`: its tone, folds around the lumen, fine vessels, and the dark lumen."""
    pink, red = jnp.array([0.88, 0.58, 0.50]), jnp.array([0.72, 0.34, 0.28])
    tone = 0.5 + (0.1 + 0.4 * vary) * draws.uniform(-1.0, 1.0)
    uneven = (0.03 + 0.05 * vary) * fields[0]
    image = (pink + tone * (red - pink)) * (1.0 + uneven)[..., None]
    dy, dx = colon.y - colon.lumen[0], colon.x - colon.lumen[1]
    away = jnp.sqrt(dy**2 + dx**2 + 1e-4)
    # folds: arcs around the lumen, closer to each other farther down
    count = 3
    place = draws.uniform(0.0, 0.16) + jnp.array([0.45, 0.80, 1.20])
    across = away + 0.07 * fields[1] - place[:, None, None]
    middle = draws.uniform(0.0, 2 * jnp.pi, (count, 1, 1))
    shown = jax.nn.sigmoid(4.0 * (jnp.cos(jnp.arctan2(dy, dx) - middle) + 0.2))
    shown = shown * draws.uniform(0.4, 1.0, (count, 1, 1)) * (0.4 + 0.8 * vary)
    lit = jnp.exp(-((across / 0.07) ** 2)) - 1.3 * jnp.exp(-(((across + 0.11) / 0.07) ** 2))
    image = image * (1.0 + 0.22 * (shown * lit).sum(axis=0))[..., None]
    veins = f.curves(
        colon.y,
        colon.x,
        draws.uniform(-0.9, 0.9, (6, 2)),
        draws.uniform(0.0, jnp.pi, (6,)),
        draws.uniform(-1.5, 1.5, (6,)),
        draws.uniform(0.15, 0.4, (6,)),
    )
    wide = max(0.014, 1.0 / colon.y.shape[0])
    image = f.paint(image, [(_VESSEL, 0.35 * jnp.exp(-((veins / wide) ** 2)).max(axis=0))])
    depth = jnp.exp(-((away / draws.uniform(0.28, 0.5)) ** 2))
    return image * (1.0 - 0.85 * depth)[..., None]


def _polyp(
    draws: f.Draws, colon: _Colon, image: Array, ill: Array, warp: Array, vary: Array | float
) -> tuple[Array, Array]:
    """Raise a polyp from the wall; return the image and the polyp's signed distance `[H, W]`."""
    # never in the lumen
    opposite = -colon.lumen / jnp.sqrt(jnp.sum(colon.lumen**2))
    centre = opposite * draws.uniform(0.0, 0.45) + draws.uniform(-0.25, 0.25, (2,))
    radius = draws.uniform(0.26, 0.46)
    aspect = jnp.sqrt(draws.uniform(0.6, 1.0))
    v, u = f.rotate(colon.y - centre[0], colon.x - centre[1], draws.uniform(0.0, jnp.pi))
    v, u = v / (radius * aspect), u / (radius / aspect)
    rho = jnp.sqrt(v**2 + u**2 + 1e-6) + 0.06 * warp
    depth = (rho - 1.0) * radius
    body = f.inside(depth, 0.07)
    # the dome's normal leans outwards; the light comes from one side
    dy, dx = (colon.y - centre[0]) / radius, (colon.x - centre[1]) / radius
    lean = (dy * colon.light[0] + dx * colon.light[1]) * jnp.clip(rho, 0.0, 1.0)
    dome = body * (0.42 * lean + 0.22 * (1.0 - jnp.clip(rho, 0.0, 1.0) ** 2) - 0.06)
    foot = jnp.exp(-((depth - 0.05) ** 2) / 0.003) * (1.0 - body)
    shadow = foot * jax.nn.sigmoid(-3.0 * (dy * colon.light[0] + dx * colon.light[1]))
    pits = 0.06 * body * f.smooth(draws.noise(22, 22), colon.y.shape[0])
    tint = 1.0 + body[..., None] * ill * (
        jnp.array([0.02, -0.10, -0.08]) + 0.05 * vary * draws.uniform(-1.0, 1.0, (3,))
    )
    relief = 1.0 + ill * (dome - 0.55 * shadow - 0.12 * foot + pits)
    return image * tint * relief[..., None], depth


class _Marks(NamedTuple):
    opacity: Array  # [8, H, W] in [0, 1], before `shown`
    shown: Array  # [8] bool
    shade: Array  # [H, W] grey value of the instrument
    rings: Array  # [H, W] walls of the bubbles


def _artefacts(draws: f.Draws, colon: _Colon, spec: PhantomSpec) -> _Marks:
    """Draw where each artefact is."""
    slots = len(_KIND)
    always = jnp.arange(slots) == jnp.floor(draws.uniform() * slots)
    chance = jnp.asarray(_CHANCE, jnp.float32)
    if spec.task == "detection":
        shown = (draws.uniform(shape=(slots,)) < chance) | always
    else:
        shown = draws.uniform(shape=(slots,)) < 0.6 * chance * spec.difficulty
    low, high = jnp.asarray(np.array(_RADII)[_KIND], jnp.float32).T
    radius = low + (high - low) * draws.uniform(shape=(slots,))
    centres = draws.uniform(-0.72, 0.72, (slots, 2))
    long = draws.uniform(0.65, 1.0, (slots,))
    v, u = f.rotate(
        colon.y - centres[:, 0, None, None],
        colon.x - centres[:, 1, None, None],
        draws.uniform(0.0, jnp.pi, (slots, 1, 1)),
    )
    square = (v / long[:, None, None]) ** 2 + u**2
    size = jnp.maximum(radius, 2.0 / spec.size)[:, None, None]
    edge = jnp.array([0.05, 0.30, 0.03, 0.04, 0.12])[_KIND][:, None, None]
    discs = f.inside(jnp.sqrt(square + 1e-9) - size, jnp.maximum(edge, 1.5 / spec.size))
    # bubbles: five rings inside their disc
    bubbles = [_foam(draws, colon, centres[k], radius[k], spec.size) for k in _BUBBLES]
    # an instrument: a rod from the border to its tip
    tip, half = 0.6 * centres[_INSTRUMENT], radius[_INSTRUMENT]
    angle = jnp.arctan2(tip[0], tip[1]) + draws.uniform(-0.7, 0.7)
    v, u = f.rotate(colon.y - tip[0], colon.x - tip[1], angle)
    rod = f.inside(jnp.maximum(jnp.abs(v) - half, -u), max(0.04, 1.5 / spec.size))
    opacity = discs.at[_INSTRUMENT].set(rod)
    for k, (extent, _) in zip(_BUBBLES, bubbles, strict=True):
        opacity = opacity.at[k].set(extent)
    rings = jnp.maximum(*(ring * shown[k] for k, (_, ring) in zip(_BUBBLES, bubbles, strict=True)))
    return _Marks(opacity, shown, 0.5 + 0.5 * jnp.cos(1.5 * v / half), rings)


def _foam(
    draws: f.Draws, colon: _Colon, centre: Array, radius: Array, size: int
) -> tuple[Array, Array]:
    """Extent and walls `[H, W]` of five bubbles around a centre."""
    turn = draws.uniform(0.0, 2 * jnp.pi) + jnp.arange(5) * 1.4 + draws.uniform(-0.5, 0.5, (5,))
    reach = draws.uniform(0.35, 0.75, (5,)) * radius
    places = centre + f.polar(reach, turn)
    own = jnp.maximum(radius * draws.uniform(0.22, 0.55, (5,)), 2.0 / size)[:, None, None]
    dy, dx = colon.y - places[:, 0, None, None], colon.x - places[:, 1, None, None]
    away = jnp.sqrt(dy**2 + dx**2 + 1e-9)
    wall = max(0.018, 0.9 / size)
    rings = jnp.exp(-(((away - own) / wall) ** 2))
    # a reflex on the side of the light
    glint = jnp.exp(-((dy - 0.4 * own) ** 2 + (dx + 0.3 * own) ** 2) / (0.25 * own) ** 2)
    return f.inside((away - own).min(axis=0), 1.5 / size), jnp.maximum(rings, glint).max(axis=0)


def _paint_artefacts(image: Array, marks: _Marks, strength: Array) -> Array:
    """Lay the artefacts over the image."""
    weight = (marks.shown * jnp.clip(strength, 0.0, 1.0))[:, None, None] * marks.opacity
    dark = weight[_CONTRAST][..., None]
    image = image * (1.0 - dark) + (0.10 + 0.25 * image) * dark
    steel = jnp.array(_STEEL) * (0.45 + 0.8 * marks.shade[..., None])
    image = image + weight[_INSTRUMENT][..., None] * (jnp.clip(steel, 0.0, 1.0) - image)
    foam = jnp.clip(strength, 0.0, 1.0) * marks.rings
    inside = weight[jnp.array(_BUBBLES)].max(axis=0)
    return f.paint(
        image,
        [(_FOAM, 0.18 * inside), (_FOAM, 0.85 * foam), (_GLOW, 0.92 * weight[_SATURATION]),
         (_WHITE, 0.97 * weight[:_SATURATION].max(axis=0))],
    )  # fmt: skip


def _boxes(marks: _Marks, strength: Array) -> Array:
    """Return `[8, 5]` float32 (class, y0, x0, y1, x1), those that are there first, then -1."""
    inside = marks.opacity > 0.5
    rows, columns = inside.any(axis=2), inside.any(axis=1)
    size = rows.shape[1]
    sides = [rows.argmax(1), columns.argmax(1)]
    sides += [size - side[:, ::-1].argmax(1) for side in (rows, columns)]
    boxes = jnp.stack([jnp.asarray(_KIND), *sides], axis=-1).astype(jnp.float32)
    # what a glow covers cannot be seen
    glow = marks.shown[_SATURATION] & inside[_SATURATION]
    covered = (inside & glow).sum(axis=(1, 2)) * 2 > inside.sum(axis=(1, 2))
    covered = covered.at[_SATURATION].set(False)
    there = marks.shown & rows.any(axis=1) & ~covered & (strength > 0)
    order = jnp.argsort(~there, stable=True)
    return jnp.where(there[:, None], boxes, -1.0)[order]


def _fine_texture(draws: f.Draws, target: Array, y: Array, x: Array) -> Array:
    """Weak waves `[H, W]` of unit amplitude; their pitch belongs to the class, not their phase."""
    cycles = 8.0 + 4.0 * target.astype(jnp.float32)
    v, u = f.rotate(y, x, draws.uniform(0.0, 2 * jnp.pi))
    phase = draws.uniform(0.0, 2 * jnp.pi, (2,))
    return 0.5 * (jnp.cos(jnp.pi * cycles * u + phase[0]) + jnp.cos(jnp.pi * cycles * v + phase[1]))


def draw(key: Array, spec: PhantomSpec, target: Array) -> Phantom:
    """Draw one view of the class `target` `[]`, 1 being a polyp.

    For detection `signal` is the strength of the artefacts, else of the polyp.
    """
    shapes, noise_key = jax.random.split(key)
    draws, vary = f.Draws(shapes, _POOL), spec.difficulty
    colon = _anatomy(draws, spec)
    fields = f.smooth(draws.noise(3, 8, 8), spec.size)
    image = _wall(draws, colon, fields, vary)
    finding = spec.task == "detection"
    strength = jnp.minimum(jnp.asarray(spec.signal, jnp.float32), 1.4)
    weakened = 1.0 - 0.4 * vary * draws.uniform()
    ill = target.astype(jnp.float32) * weakened * (1.0 if finding else strength)
    image, depth = _polyp(draws, colon, image, ill, fields[2], vary)
    y, x = colon.y, colon.x
    toward = y * colon.light[0] + x * colon.light[1]
    light = 1.0 + vary * (draws.uniform(-0.25, 0.15) + 0.2 * toward)
    light = light * (1.0 - (0.15 + 0.2 * vary * draws.uniform()) * (y**2 + x**2))
    cast = 1.0 + 0.10 * vary * draws.uniform(-1.0, 1.0, (3,))
    image = image * light[..., None] * cast
    marks = _artefacts(draws, colon, spec)
    over = strength if finding else jnp.ones(())
    image = _paint_artefacts(image, marks, over)
    weave = spec.texture * 0.012 * _fine_texture(draws, target, y, x)
    # the picture of an endoscope is an octagon
    corner = jnp.abs(y) + jnp.abs(x) - draws.uniform(1.55, 1.9)
    window = f.inside(corner, 0.04)[..., None]
    grain = f.Draws(noise_key, image.size).noise(*image.shape) * (0.004 + 0.018 * vary)
    image = jnp.clip((image + weave[..., None]) * window + grain, 0.0, 1.0)
    seen = (target > 0) & (depth < 0.0) & (corner < 0.0)
    label = _boxes(marks, over) if finding else target
    return Phantom(image, label, seen.astype(jnp.int32))
