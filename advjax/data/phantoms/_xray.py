"""Frontal chest x-ray phantoms: 14 findings, several per image, with a lung mask.

The names and their order are those of ChestX-ray14 (Wang et al. 2017). Each finding is drawn where
a radiologist looks for it: a wide heart, blunted costophrenic angle with a meniscus, bat-wing haze,
a lung edge with black air beyond it, and so on. The image's left is the patient's right.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax.data.phantoms import _fields as f
from advjax.data.phantoms._spec import XRAY_FINDINGS, Phantom, PhantomSpec

Array = jax.Array

_POOL = 800
_INDEX = {name: k for k, name in enumerate(XRAY_FINDINGS)}


class _Chest(NamedTuple):
    y: Array  # [H, W] coordinates in the frame of the patient
    x: Array
    lungs: Array  # [H, W] soft indicator, heart and diaphragm cut out
    left: Array  # [H, W] soft indicator of x > 0
    wall: Array  # [H, W] signed distance to the chest wall, negative inside
    heart: Array  # [H, W] soft indicator
    abdomen: Array  # [H, W] soft indicator of what lies below the diaphragm


def _sides(draws: f.Draws, chest: _Chest, count: int) -> tuple[Array, Array]:
    """Pick sides: their signs `[count]` (-1 or 1) and soft indicators `[count, H, W]`."""
    signs = jnp.where(draws.uniform(shape=(count,)) < 0.5, -1.0, 1.0)
    column = signs[:, None, None] > 0
    return signs, jnp.where(column, chest.left, 1.0 - chest.left)


def _anatomy(draws: f.Draws, spec: PhantomSpec, shown: Array) -> _Chest:
    """Lay out lungs, heart and diaphragm; some findings change their shape."""
    vary = spec.difficulty

    def jitter(amount: float) -> Array:
        return vary * amount * draws.uniform(-1.0, 1.0)

    y, x = f.grid(spec.size)
    y, x = f.rotate(y + jitter(0.28), x + jitter(0.28), jitter(0.20))
    y, x = y * (1.0 + jitter(0.26)), x * (1.0 + jitter(0.26))
    swollen, collapsed = shown[_INDEX["Emphysema"]], shown[_INDEX["Atelectasis"]]
    width = 0.30 + jitter(0.04) + 0.03 * swollen
    right = f.ellipse(y, x, (-0.06, -0.40 + jitter(0.03)), 0.74, width)
    left = f.ellipse(y, x, (-0.06, 0.40 + jitter(0.03)), 0.74, width)
    wall = jnp.minimum(right, left)
    side = jnp.where(draws.uniform() < 0.5, -1.0, 1.0)
    raised = 0.20 * collapsed * jax.nn.sigmoid(12.0 * side * x) + 0.05 * jax.nn.sigmoid(-12.0 * x)
    level = 0.42 + jitter(0.24) + 0.14 * swollen - raised
    dome = level + (1.3 - 0.9 * swollen) * (jnp.abs(x) - 0.36) ** 2
    half = 0.25 + jitter(0.10) + 0.15 * shown[_INDEX["Cardiomegaly"]] - 0.06 * swollen
    turned_y, turned_x = f.rotate(y - 0.22 - jitter(0.05), x - 0.10 - 0.25 * (half - 0.25), 0.45)
    heart = f.inside(
        f.ellipse(turned_y, turned_x, (0.0, 0.0), 0.82 * half + 0.05, 1.12 * half), 0.06
    )
    abdomen = f.inside(dome - y, 0.06)
    lungs = f.inside(wall, 0.06) * (1.0 - abdomen) * (1.0 - 0.85 * heart)
    chest = _Chest(y, x, lungs, jax.nn.sigmoid(40.0 * x), wall, heart, abdomen)
    # computed once: without the barrier XLA repeats (and compiles) it inside every consumer
    return jax.lax.optimization_barrier(chest)


def _air(draws: f.Draws, chest: _Chest, shown: Array, field: Array, vary: Array | float) -> Array:
    """Density of the aerated lung `[H, W]`: vessels fan out from the hila; darker when swollen."""
    away = jnp.abs(chest.x)
    vessels = jax.nn.relu(field) * jnp.exp(-(away - 0.16) / 0.22)
    hila = jnp.exp(-((away - 0.20) ** 2 + (chest.y + 0.02) ** 2) / 0.012)
    base = 0.20 + vary * draws.uniform(-0.12, 0.12) - 0.08 * shown[_INDEX["Emphysema"]]
    return base + 0.05 * vessels + 0.12 * hila + 0.04 * chest.y


def _lobar(draws: f.Draws, chest: _Chest, shown: Array) -> Array:
    """Opacity `[H, W]` of what has a place in the lung: edema, pneumonia, consolidation, plates."""
    y, x, away = chest.y, chest.x, jnp.abs(chest.x)
    signs, here = _sides(draws, chest, 3)
    batwing = jnp.exp(-((away - 0.30) ** 2 / 0.035 + (y + 0.02) ** 2 / 0.07))
    low = (y - draws.uniform(0.12, 0.3)) / 0.2
    base = jnp.exp(-(((x - 0.42 * signs[0]) / 0.22) ** 2 + low**2))
    up = jnp.where(draws.uniform() < 0.5, 1.0, -1.0)
    fissure = up * (y - draws.uniform(-0.20, 0.0) - 0.15 * (away - 0.3))
    bronchi = jax.nn.sigmoid(5.0 * (jnp.cos(17.0 * (y + 0.9 * x * signs[1])) - 0.7))
    lobe = here[1] * f.inside(fissure, 0.04) * f.inside(-0.62 - y, 0.10) * (1.0 - 0.35 * bronchi)
    tilt = (draws.uniform(-0.25, 0.25, (2,)) + 0.25 * signs[2])[:, None, None]
    height = (draws.uniform(0.02, 0.12, (2,)) + jnp.array([0.0, 0.16]))[:, None, None]
    plates = jnp.exp(-(((y - height - tilt * (away - 0.4)) / 0.04) ** 2)).max(axis=0)
    return jnp.stack(
        [
            0.62 * shown[_INDEX["Edema"]] * batwing,
            0.75 * shown[_INDEX["Pneumonia"]] * base,
            0.85 * shown[_INDEX["Consolidation"]] * lobe,
            0.85 * shown[_INDEX["Atelectasis"]] * plates * here[2],
        ]
    ).max(axis=0)


def _patchy(draws: f.Draws, chest: _Chest, shown: Array, patches: Array, net: Array) -> Array:
    """Opacity `[H, W]` of infiltration, fibrosis, masses and nodules."""
    y = chest.y
    _, here = _sides(draws, chest, 1)
    zone = jnp.maximum(here[0], 0.35) * jnp.exp(-(((y - draws.uniform(-0.3, 0.2)) / 0.42) ** 2))
    rim = jnp.clip(jnp.exp(chest.wall / 0.14) + f.inside(0.12 - y, 0.3), 0.0, 1.0)
    # one mass, one nodule, and a second nodule that is often absent
    low, high = jnp.array([0.17, 0.075, 0.075]), jnp.array([0.24, 0.10, 0.10])
    signs, _ = _sides(draws, chest, 3)
    centres = [draws.uniform(-0.52, 0.25, (3,)), signs * draws.uniform(0.32, 0.52, (3,))]
    weights = jnp.array([1.0, 1.0, 0.0]).at[2].set(draws.uniform() < 0.4)
    weights = weights * 0.92 * shown[jnp.array([_INDEX[k] for k in ("Mass", "Nodule", "Nodule")])]
    radii = low + (high - low) * draws.uniform(shape=(3,))
    discs = f.spots(y, chest.x, jnp.stack(centres, axis=-1), radii, weights).max(axis=0)
    worms = jnp.exp(-((net / 0.25) ** 2)) * rim
    infiltrate = jax.nn.sigmoid(6.0 * (patches - 0.3)) * zone
    opacity = jnp.maximum(
        0.60 * shown[_INDEX["Infiltration"]] * infiltrate, 0.75 * shown[_INDEX["Fibrosis"]] * worms
    )
    return jnp.maximum(opacity, discs)


def _pleura(draws: f.Draws, chest: _Chest, density: Array, shown: Array) -> Array:
    """Change the density `[H, W]` by air, fluid and thickening between lung and wall."""
    y, away = chest.y, jnp.abs(chest.x)
    _, here = _sides(draws, chest, 3)
    gap = chest.wall + draws.uniform(0.12, 0.18) * jax.nn.sigmoid(4.0 * (0.35 - y))
    lateral = f.inside(0.42 - away, 0.10)
    outer = here[0] * chest.lungs * jnp.maximum(lateral, f.inside(y + 0.50, 0.10))
    air = shown[_INDEX["Pneumothorax"]] * outer
    density = density + air * f.inside(-gap, 0.03) * (0.05 - density)
    density = density + air * jnp.exp(-((gap / 0.03) ** 2)) * 0.35
    level = draws.uniform(0.10, 0.42) - 1.1 * jnp.clip(away - 0.40, 0.0, 1.0)
    fluid = here[1] * f.inside(chest.wall, 0.06) * f.inside(level - y, 0.08)
    density = density + shown[_INDEX["Effusion"]] * fluid * jnp.maximum(0.72 - density, 0.0)
    rind = here[2] * chest.lungs * f.inside(-0.085 - chest.wall, 0.05) * lateral
    rind = rind * f.inside(jnp.abs(y - draws.uniform(-0.4, 0.1)) - 0.30, 0.15)
    return density + shown[_INDEX["Pleural_Thickening"]] * rind * 0.42


def _bones(draws: f.Draws, chest: _Chest) -> Array:
    """Extra density `[H, W]` of ribs, clavicles and spine."""
    y, x = chest.y, jnp.abs(chest.x)
    cage = f.inside(chest.wall - 0.05, 0.08)
    shift = draws.uniform(0.0, 1.0)
    back = jnp.cos(2 * jnp.pi * ((y - 0.9 * (x - 0.25) ** 2 - 0.18 * x) / 0.185 + shift))
    front = jnp.cos(2 * jnp.pi * ((y + 0.55 * x) / 0.26 + shift))
    ribs = 0.09 * jax.nn.sigmoid(6.0 * (back - 0.5)) + 0.05 * jax.nn.sigmoid(6.0 * (front - 0.6))
    line = y + 0.60 + 0.12 * jnp.sin(3.5 * (x - 0.1)) - 0.05 * x
    clavicle = 0.16 * jnp.exp(-((line / 0.035) ** 2)) * f.inside(jnp.abs(x - 0.42) - 0.36, 0.08)
    spine = 0.05 * jnp.exp(-((x / 0.07) ** 2)) * (1.0 + 0.5 * jnp.cos(2 * jnp.pi * y / 0.16))
    return ribs * cage * f.inside(y - 0.62, 0.2) + clavicle + spine


def _body(draws: f.Draws, chest: _Chest, shown: Array, lung: Array) -> Array:
    """Put lungs into the trunk: soft tissue, mediastinum, heart, abdomen, hernia."""
    y, x = chest.y, chest.x
    shoulder = -0.98 + 0.55 * jax.nn.relu(jnp.abs(x) - 0.22) ** 1.2
    trunk = f.inside(jnp.maximum(shoulder - y, jnp.abs(x) - 0.93), 0.06)
    density = 0.54 + 0.06 * y
    density = density + chest.lungs * (lung - density)
    middle = f.inside(jnp.abs(x) - 0.13 - 0.03 * y, 0.07)
    density = jnp.maximum(density, 0.68 * middle)
    knob = jnp.exp(-(((x - 0.14) / 0.07) ** 2 + ((y + 0.26) / 0.08) ** 2))
    density = jnp.maximum(density, 0.68 * knob)
    trachea = f.inside(jnp.abs(x) - 0.035, 0.04) * f.inside(y + 0.32, 0.1)
    density = density - 0.20 * trachea
    density = density + chest.heart * jnp.maximum(0.70 - density, 0.0)
    density = density + chest.abdomen * jnp.maximum(0.68 + 0.06 * y - density, 0.0)
    bubble = f.spots(y, x, jnp.array([[0.72, 0.34]]), draws.uniform(0.06, 0.11, (1,)), jnp.ones(1))[
        0
    ]
    density = density - 0.28 * bubble * draws.uniform() * chest.abdomen
    centre = (draws.uniform(0.08, 0.36), draws.uniform(-0.18, 0.22))
    sac = f.ellipse(y, x, centre, 0.17, 0.20)
    density = density + shown[_INDEX["Hernia"]] * f.inside(sac, 0.04) * (0.80 - density)
    gas = f.ellipse(y + 0.05, x, centre, 0.10, 0.14)
    density = density - shown[_INDEX["Hernia"]] * f.inside(gas, 0.04) * 0.5
    return density * trunk


def _overlying(draws: f.Draws, chest: _Chest, vary: Array | float) -> Array:
    """Extra density `[H, W]` of what lies before and behind the lung: breast, muscle, scapula."""
    column = (4, 1, 1)
    centre = (draws.uniform(-0.7, 0.6, column), draws.uniform(-0.75, 0.75, column))
    along_y, along_x = draws.uniform(0.16, 0.42, (2, *column))
    shadows = f.inside(f.ellipse(chest.y, chest.x, centre, along_y, along_x), 0.25)
    return vary * (draws.uniform(-0.05, 0.26, column) * shadows).sum(axis=0)


def _fine_texture(draws: f.Draws, target: Array, y: Array, x: Array) -> Array:
    """Weak waves `[H, W]`, one pitch for each finding that is present."""
    cycles = 5.0 + 0.65 * jnp.arange(len(XRAY_FINDINGS))
    angle = draws.uniform(0.0, 2 * jnp.pi, cycles.shape)[:, None, None]
    phase = draws.uniform(0.0, 2 * jnp.pi, cycles.shape)[:, None, None]
    along = jnp.cos(angle) * y + jnp.sin(angle) * x
    waves = jnp.cos(jnp.pi * cycles[:, None, None] * along + phase)
    return jnp.tensordot(target.astype(jnp.float32), waves, axes=1)


def draw(key: Array, spec: PhantomSpec, target: Array) -> Phantom:
    """Draw one image with the findings `target` `[14]` multi-hot."""
    shapes, noise_key = jax.random.split(key)
    draws = f.Draws(shapes, _POOL)
    strength = 1.0 - 0.6 * spec.difficulty * draws.uniform(shape=target.shape)
    shown = jnp.clip(spec.signal * strength, 0.0, 1.2) * target
    chest = _anatomy(draws, spec, shown)
    markings, patches = f.smooth(draws.noise(2, 12, 12), spec.size)
    net = f.smooth(draws.noise(18, 18), spec.size)
    lung = _air(draws, chest, shown, markings, spec.difficulty)
    opacity = jnp.maximum(_lobar(draws, chest, shown), _patchy(draws, chest, shown, patches, net))
    lung = lung + opacity * chest.lungs * jnp.maximum(0.70 - lung, 0.0)
    lung = _pleura(draws, chest, lung, shown)
    density = _body(draws, chest, shown, lung) + _bones(draws, chest)
    vary = spec.difficulty
    density = density + _overlying(draws, chest, vary)
    slope = draws.uniform(-0.2, 0.2, (2,)) * vary
    density = density * (1.0 + slope[0] * chest.y + slope[1] * chest.x)
    density = density * (1.0 + vary * draws.uniform(-0.3, 0.3)) + vary * draws.uniform(-0.12, 0.12)
    image = jnp.clip(density, 1e-3, 1.0) ** (1.0 + vary * draws.uniform(-0.35, 0.35))
    y, x = f.grid(spec.size)
    image = image + spec.texture * 0.012 * _fine_texture(draws, target, y, x)
    image = image + f.Draws(noise_key, image.size).noise(*image.shape) * (0.004 + 0.024 * vary)
    mask = (chest.lungs > 0.5).astype(jnp.int32)
    return Phantom(jnp.clip(image, 0.0, 1.0)[..., None], target, mask)
