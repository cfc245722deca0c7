"""Fundus phantoms: a retina with its disc, macula and vessels, and five grades of retinopathy.

The grades are those of the international clinical scale (Wilkinson et al. 2003), which APTOS-2019
has too: none; mild (microaneurysms only); moderate (some haemorrhages and hard exudates besides);
severe (many haemorrhages in all quadrants, cotton-wool spots); proliferative (new vessels on the
disc, a preretinal haemorrhage). Each grade shows more of every lesion, so that they are ordered.
Drusen and specks of pigment, which mean no retinopathy, come in every grade.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data.phantoms import _fields as f
from advjax.data.phantoms._spec import Phantom, PhantomSpec

Array = jax.Array

_POOL = 900

# kinds of lesion: (slots, ring in radii of the retina, radius, how many at each of the five grades)
_LESIONS = (
    (10, (0.15, 0.80), (0.018, 0.028), (0, 5, 7, 9, 8)),  # microaneurysms
    (10, (0.25, 0.85), (0.050, 0.095), (0, 0, 3, 9, 7)),  # blot haemorrhages
    (14, (0.10, 0.42), (0.022, 0.045), (0, 0, 7, 10, 10)),  # hard exudates, around the macula
    (4, (0.30, 0.70), (0.080, 0.130), (0, 0, 0, 3, 2)),  # cotton-wool spots
    (1, (0.35, 0.60), (0.220, 0.300), (0, 0, 0, 0, 1)),  # preretinal haemorrhage
)
_SLOTS = np.array([slots for slots, *_ in _LESIONS])
_RED, _DARK_RED = (0.50, 0.07, 0.06), (0.38, 0.05, 0.05)
_EXUDATE, _COTTON = (0.97, 0.88, 0.50), (0.95, 0.86, 0.72)
_VESSEL, _DISC, _CUP = (0.52, 0.12, 0.10), (0.96, 0.76, 0.46), (1.00, 0.92, 0.74)
_DRUSEN, _PIGMENT = (0.90, 0.66, 0.36), (0.40, 0.18, 0.10)


class _Eye(NamedTuple):
    y: Array  # [H, W] turned and bent a little; the macula is near (0, 0)
    x: Array  # grows towards the disc, in a left eye as in a right one
    retina: Array  # [H, W] soft indicator of the round window
    disc: Array  # [2] centre (y, x)
    spare: Array  # [] in [0, 1], share of the lesions of its grade that this eye is spared


def _anatomy(draws: f.Draws, spec: PhantomSpec) -> _Eye:
    vary = spec.difficulty
    y, x = f.grid(spec.size)
    reach = jnp.sqrt(y**2 + x**2 + 1e-9)
    retina = f.inside(reach - 0.95 - vary * draws.uniform(-0.06, 0.06), 0.04)
    # many cameras cut the circle above and below
    retina = retina * f.inside(jnp.abs(y) - draws.uniform(0.80, 1.4), 0.03)
    side = jnp.where(draws.uniform() < 0.5, -1.0, 1.0)
    shift = vary * draws.uniform(-0.14, 0.14, (2,))
    y, x = f.rotate(y + shift[0], side * x + shift[1], vary * draws.uniform(-0.3, 0.3))
    bend = f.smooth(draws.noise(2, 8, 8), spec.size) * 0.012
    disc = jnp.stack([draws.uniform(-0.06, 0.06), draws.uniform(0.46, 0.58)])
    eye = _Eye(y + bend[0], x + bend[1], retina, disc, vary * draws.uniform())
    # computed once: without the barrier XLA repeats (and compiles) it inside every consumer
    return jax.lax.optimization_barrier(eye)


def _vessels(draws: f.Draws, eye: _Eye, pixel: float) -> Array:
    """Opacity `[H, W]` of the vessels: arcades around the macula, nasal branches, and twigs."""
    y, x = eye.y - eye.disc[0], eye.disc[1] - eye.x
    # an arcade is a parabola with its vertex on the disc, open towards the macula
    bends = jnp.array([0.62, 0.95, 1.7]) * draws.uniform(0.85, 1.15, (3,))
    zeros = jnp.zeros((3, 2)).at[:, 1].set(jnp.array([0.02, -0.02, 0.05]))
    arcades = f.curves(x, y, zeros[:, ::-1], jnp.zeros(3), bends, draws.uniform(0.62, 0.85, (3,)))
    turn = jnp.array([2.0, 2.7, 3.4, 4.2]) + draws.uniform(-0.2, 0.2, (4,))
    nasal = f.curves(
        y,
        x,
        f.polar(jnp.full(4, 0.28), turn),
        turn,
        draws.uniform(-0.8, 0.8, (4,)),
        jnp.full(4, 0.26),
    )
    # twigs leave an arcade at (u, bend u^2) at an angle to its tangent
    count = 12
    bend = jnp.tile(bends, 4)
    along = jnp.where(jnp.arange(count) % 2 == 0, 1.0, -1.0) * draws.uniform(0.15, 0.7, (count,))
    start = jnp.stack([along, bend * along**2], axis=-1)
    tangent = jnp.arctan2(2 * bend * along, 1.0) + jnp.where(along < 0, jnp.pi, 0.0)
    fork = tangent + jnp.where(draws.uniform(shape=(count,)) < 0.5, -1.0, 1.0) * draws.uniform(
        0.35, 0.8, (count,)
    )
    half = draws.uniform(0.10, 0.20, (count,))
    middle = start + half[:, None] * jnp.stack([jnp.cos(fork), jnp.sin(fork)], axis=-1)
    twigs = f.curves(
        y, x, middle, jnp.pi / 2 - fork + jnp.pi, draws.uniform(-1.0, 1.0, (count,)), half
    )
    distance = jnp.concatenate([arcades, nasal, twigs])
    widths = jnp.concatenate(
        [
            jnp.array([0.030, 0.023, 0.018]),
            jnp.full(4, 0.019),
            draws.uniform(0.012, 0.018, (count,)),
        ]
    )[:, None, None]
    # thinner than a pixel: as wide as one, and fainter
    wide = jnp.maximum(widths, 0.55 * pixel)
    thinner_away = 1.0 - 0.45 * jnp.clip(jnp.sqrt(y**2 + x**2 + 1e-9), 0.0, 1.0)
    return (jnp.exp(-((distance / (wide * thinner_away)) ** 2)) * jnp.sqrt(widths / wide)).max(0)


def _lesions(draws: f.Draws, eye: _Eye, ill: Array, grade: Array, warp: Array) -> list[Array]:
    """Opacities `[H, W]` of the five kinds of `_LESIONS` and, last, of new vessels."""
    total = int(_SLOTS.sum())

    def between(limits: list[tuple[float, float]]) -> Array:
        low, high = jnp.asarray(np.repeat(np.array(limits), _SLOTS, axis=0), jnp.float32).T
        return low + (high - low) * draws.uniform(shape=(total,))

    reach, radius = (
        between([ring for _, ring, *_ in _LESIONS]),
        between([radii for _, _, radii, _ in _LESIONS]),
    )
    number = jnp.asarray(np.repeat([n for *_, n in _LESIONS], _SLOTS, axis=0))[:, grade]
    place = jnp.asarray(np.concatenate([np.arange(n) for n in _SLOTS]))
    # an eye has most of what its grade may have, hardly ever all
    number = number * (1.0 - 0.8 * eye.spare)
    shown = (place < number) * jnp.clip(ill * draws.uniform(0.6, 1.2, (total,)), 0.0, 1.0)
    # spread around the macula, group by group, then jittered
    turn = place * 2.4 + jnp.repeat(
        draws.uniform(0.0, 2 * np.pi, (len(_SLOTS),)), _SLOTS, total_repeat_length=total
    )
    centres = f.polar(reach, turn + draws.uniform(-0.5, 0.5, (total,)))
    radius = jnp.maximum(radius, 1.5 / eye.y.shape[0])
    rough = 1.0 + jnp.where(radius > 0.04, 0.35, 0.0)[:, None, None] * warp
    dy = eye.y - centres[:, 0, None, None]
    dx = eye.x - centres[:, 1, None, None]
    ratio = (dy**2 + dx**2) / (radius[:, None, None] * jnp.clip(rough, 0.6, 1.4)) ** 2
    discs = shown[:, None, None] * jnp.exp2(-ratio * jnp.sqrt(ratio + 1e-9))
    # blood in front of the retina sinks: a boat with a level surface
    boat = discs[-1] * f.inside(centres[-1, 0] - eye.y, 0.06)
    ends = np.cumsum(_SLOTS)
    kinds = [discs[i:j].max(axis=0) for i, j in zip(ends - _SLOTS, ends, strict=True)]
    count = 6
    tangle = f.curves(
        eye.y,
        eye.x,
        eye.disc + draws.uniform(-0.13, 0.13, (count, 2)),
        draws.uniform(0.0, jnp.pi, (count,)),
        draws.uniform(-6.0, 6.0, (count,)),
        draws.uniform(0.08, 0.16, (count,)),
    )
    fine = max(0.014, 1.1 / eye.y.shape[0])
    grown = jnp.exp(-((tangle / fine) ** 2)).max(axis=0) * jnp.where(grade == 4, ill, 0.0)
    return [*kinds[:-1], boat, jnp.clip(grown, 0.0, 1.0)]


def _background(draws: f.Draws, eye: _Eye, blotches: Array, vary: Array | float) -> Array:
    """Retina `[H, W, 3]` with choroid, macula and disc."""
    light, dark = jnp.array([0.86, 0.45, 0.22]), jnp.array([0.58, 0.24, 0.11])
    tone = 0.5 + (0.1 + 0.4 * vary) * draws.uniform(-1.0, 1.0)
    base = light + tone * (dark - light)
    image = base * (1.0 + (0.03 + 0.06 * vary) * blotches[..., None])
    rho2 = eye.y**2 + eye.x**2
    macula = jnp.exp(-rho2 / 0.035) * 0.45 + jnp.exp(-rho2 / 0.004) * 0.2
    axes = draws.uniform(0.13, 0.16), draws.uniform(0.11, 0.14)
    centre = (eye.disc[0], eye.disc[1])
    disc = f.inside(f.ellipse(eye.y, eye.x, centre, *axes), 0.05)
    share = draws.uniform(0.3, 0.6)
    cup = f.inside(f.ellipse(eye.y, eye.x, centre, share * axes[0], share * axes[1]), 0.06)
    return f.paint(image, [((0.36, 0.12, 0.06), macula), (_DISC, 0.9 * disc), (_CUP, 0.8 * cup)])


def _fine_texture(draws: f.Draws, target: Array, y: Array, x: Array) -> Array:
    """Weak waves `[H, W]` of unit amplitude; their pitch belongs to the class, not their phase."""
    cycles = 5.5 + 1.6 * target.astype(jnp.float32)
    v, u = f.rotate(y, x, draws.uniform(0.0, 2 * jnp.pi))
    phase = draws.uniform(0.0, 2 * jnp.pi, (2,))
    return 0.5 * (jnp.cos(jnp.pi * cycles * u + phase[0]) + jnp.cos(jnp.pi * cycles * v + phase[1]))


def _harmless(draws: f.Draws, eye: _Eye, vary: Array | float) -> list[tuple[tuple, Array]]:
    """Layers of drusen near the macula and of specks of pigment: no retinopathy."""
    layers = []
    for colour, ring, low, high in (
        (_DRUSEN, (0.05, 0.40), 0.02, 0.05),
        (_PIGMENT, (0.30, 0.85), 0.03, 0.07),
    ):
        centres = f.polar(draws.uniform(*ring, (6,)), draws.uniform(0.0, 2 * jnp.pi, (6,)))
        weights = (draws.uniform(shape=(6,)) < vary * draws.uniform(0.3, 1.6)) * draws.uniform(
            0.3, 0.9, (6,)
        )
        spots = f.spots(eye.y, eye.x, centres, draws.uniform(low, high, (6,)), weights)
        layers.append((colour, spots.max(axis=0)))
    return layers


def draw(key: Array, spec: PhantomSpec, target: Array) -> Phantom:
    """Draw one fundus of the grade `target` `[]`, 0 to 4."""
    shapes, noise_key = jax.random.split(key)
    draws, vary = f.Draws(shapes, _POOL), spec.difficulty
    eye = _anatomy(draws, spec)
    blotches, warp, haze = f.smooth(draws.noise(3, 10, 10), spec.size)
    image = _background(draws, eye, blotches, vary)
    vessels = _vessels(draws, eye, 2.0 / spec.size) * eye.retina
    weakened = 1.0 - 0.35 * vary * draws.uniform()
    ill = jnp.minimum(spec.signal, 1.6) * weakened
    found = [layer * eye.retina for layer in _lesions(draws, eye, ill, target, warp)]
    dots, blots, exudates, cotton, boat, grown = found
    image = f.paint(
        image,
        [
            *_harmless(draws, eye, vary),
            (_VESSEL, 0.85 * vessels),
            (_COTTON, 0.8 * cotton),
            (_EXUDATE, 0.95 * exudates),
            (_DARK_RED, 0.85 * blots),
            (_RED, 0.85 * dots),
            (_VESSEL, 0.8 * grown),
            (_DARK_RED, 0.9 * boat),
        ],
    )
    y, x = f.grid(spec.size)
    slope = draws.uniform(-0.25, 0.25, (2,)) * vary
    light = 1.0 + slope[0] * y + slope[1] * x + vary * draws.uniform(-0.35, 0.15)
    light = light * (1.0 - (0.12 + 0.2 * vary * draws.uniform()) * (y**2 + x**2))
    cast = 1.0 + 0.10 * vary * draws.uniform(-1.0, 1.0, (3,))
    image = image * light[..., None] * cast + 0.05 * vary * jax.nn.relu(haze)[..., None]
    weave = spec.texture * 0.012 * _fine_texture(draws, target, y, x)
    image = (image + weave[..., None]) * eye.retina[..., None]
    grain = f.Draws(noise_key, image.size).noise(*image.shape) * (0.004 + 0.016 * vary)
    lesion = jnp.stack(found).max(axis=0) > 0.4
    mask = jnp.where(lesion, 2, (vessels > 0.5).astype(jnp.int32))
    return Phantom(jnp.clip(image + grain, 0.0, 1.0), target, mask)
