"""Phantoms by key: one, a batch, and as many as wanted in chunks of one compiled program."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from advjax import random
from advjax.data.phantoms import _ct, _dermoscopy, _endoscopy, _fundus, _xray
from advjax.data.phantoms._spec import Phantom, PhantomSpec

Array = jax.Array
Progress = Callable[[range], Iterable[int]]

_DRAW = {
    "ct": _ct.draw,
    "dermoscopy": _dermoscopy.draw,
    "endoscopy": _endoscopy.draw,
    "fundus": _fundus.draw,
    "xray": _xray.draw,
}
_CHUNK = 128
# of each finding, alone: on average two per image, and one image in ten without any
_PREVALENCE = 0.15
# modalities of which one class has nothing to segment
_LESION_OR_NOT = ("ct", "endoscopy")


def dermoscopy(
    size: int = 32,
    difficulty: float = 0.5,
    signal: float = 1.0,
    texture: float = 1.0,
    task: str = "",
) -> PhantomSpec:
    """Describe RGB skin lesions: akiec, bcc, bkl, df, mel, nv, vasc, with a lesion mask.

    The mean colour of a lesion says little; border, symmetry, and what is darker or whiter where,
    say much. See `PhantomSpec` for the arguments.

    Returns:
      A spec whose images are `[size, size, 3]` and whose target is one class, equally likely.
    """
    return PhantomSpec("dermoscopy", size, difficulty, signal, texture, task)


def xray(
    size: int = 32,
    difficulty: float = 0.5,
    signal: float = 1.0,
    texture: float = 1.0,
    task: str = "",
) -> PhantomSpec:
    """Describe frontal chest x-rays with the 14 findings of ChestX-ray14 and a lung mask.

    Findings are independent, each present with probability 0.15: several per image. See
    `PhantomSpec` for the arguments.

    Returns:
      A spec whose images are `[size, size, 1]` and whose target is `[14]` multi-hot.
    """
    return PhantomSpec("xray", size, difficulty, signal, texture, task)


def ct(
    size: int = 32,
    difficulty: float = 0.5,
    signal: float = 1.0,
    texture: float = 1.0,
    task: str = "",
) -> PhantomSpec:
    """Describe lung CT slices, negative or with ground glass and consolidation, with their mask.

    See `PhantomSpec` for the arguments.

    Returns:
      A spec whose images are `[size, size, 1]` and whose target is 0 or 1, equally likely; the
      mask of a negative slice is empty. For segmentation every slice is positive.
    """
    return PhantomSpec("ct", size, difficulty, signal, texture, task)


def fundus(
    size: int = 32,
    difficulty: float = 0.5,
    signal: float = 1.0,
    texture: float = 1.0,
    task: str = "",
) -> PhantomSpec:
    """Describe colour fundus photographs with the five ordered grades of diabetic retinopathy.

    Small vessels and microaneurysms want 64 pixels or more. See `PhantomSpec` for the arguments.

    Returns:
      A spec whose images are `[size, size, 3]` and whose target is the grade 0 to 4, equally
      likely; the mask is 1 on vessels and 2 on lesions.
    """
    return PhantomSpec("fundus", size, difficulty, signal, texture, task)


def endoscopy(
    size: int = 32,
    difficulty: float = 0.5,
    signal: float = 1.0,
    texture: float = 1.0,
    task: str = "",
) -> PhantomSpec:
    """Describe views into the colon: with or without a polyp, its mask, or boxes of artefacts.

    Boxes want 64 pixels or more. See `PhantomSpec` for the arguments; for detection `signal` is the
    strength of the artefacts.

    Returns:
      A spec whose images are `[size, size, 3]` and whose target is, by task, 0 or 1, equally
      likely; the mask, every image having a polyp; or 1 to 8 boxes of five kinds of artefact.
    """
    return PhantomSpec("endoscopy", size, difficulty, signal, texture, task)


def make(key: Array, spec: PhantomSpec, *, target: Array | int | None = None) -> Phantom:
    """Make one phantom; pure, so that jit and vmap (over keys) apply.

    Args:
      key: one key, typed or raw. The same key and spec give the same picture; with another size,
        the same anatomy at another resolution.
      spec: what to draw.
      target: the class `[]` or the findings `[14]` to draw, whatever the task; None draws them
        from the key.

    Returns:
      Phantom(image `[H, W, C]` float32 in [0, 1], target, mask `[H, W]` int32).
    """
    target_key, image_key = jax.random.split(random.typed(key))
    if target is not None:
        chosen = jnp.asarray(target, jnp.int32)
    elif spec.modality == "xray":
        shape = (len(spec.drawn),)
        chosen = jax.random.bernoulli(target_key, _PREVALENCE, shape).astype(jnp.int32)
    elif spec.task == "segmentation" and spec.modality in _LESION_OR_NOT:
        chosen = jnp.ones((), jnp.int32)
    else:
        chosen = jax.random.randint(target_key, (), 0, len(spec.drawn), jnp.int32)
    made: Phantom = _DRAW[spec.modality](image_key, spec, chosen)
    return made._replace(target=made.mask) if spec.task == "segmentation" else made


def make_batch(key: Array, spec: PhantomSpec, n: int) -> Phantom:
    """Make `n` phantoms; number i comes from `fold_in(key, i)` and does not depend on `n`.

    Returns:
      A Phantom whose leaves have a leading `[n]`.
    """
    return _from_indices(random.typed(key), spec, jnp.arange(n))


@jax.jit
def _from_indices(key: Array, spec: PhantomSpec, indices: Array) -> Phantom:
    return jax.vmap(lambda i: make(jax.random.fold_in(key, i), spec))(indices)


@jax.jit
def _chunk(key: Array, spec: PhantomSpec, first: Array) -> Phantom:
    made = _from_indices(key, spec, first + jnp.arange(_CHUNK))
    eight_bits = jnp.round(made.image * 255.0).astype(jnp.uint8)
    return Phantom(eight_bits, made.target, made.mask.astype(jnp.uint8))


def make_many(
    key: Array, spec: PhantomSpec, n: int, *, progress: Progress | None = None
) -> Phantom:
    """Make `n` phantoms on the host in chunks of one compiled program.

    Args:
      key: one key; image i equals number i of `make_batch(key, spec, n)`, rounded to 8 bits.
      spec: what to draw.
      n: how many, at least 1.
      progress: wraps the range of chunks, such as `tqdm.tqdm`.

    Returns:
      A Phantom of numpy arrays: images `[n, H, W, C]` uint8, targets as `make` has them,
      masks `[n, H, W]` uint8.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    starts: Iterable[int] = range(0, n, _CHUNK)
    if progress is not None:
        starts = progress(range(0, n, _CHUNK))
    base = random.typed(key)
    chunks = [jax.tree.map(np.asarray, _chunk(base, spec, np.int32(start))) for start in starts]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *chunks)
