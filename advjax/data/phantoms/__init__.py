"""Procedural medical images in pure JAX: the embedded data, deterministic by key.

    spec = phantoms.dermoscopy(size=32, difficulty=0.5)
    image, target, mask = phantoms.make(jax.random.key(0), spec)

They are phantoms: they have the anatomy, the nuisances and the kind of evidence of the modality,
so that a method can be tried in minutes with nothing to download, and they prove nothing about
patients.
"""

from advjax.data.phantoms._make import (
    ct,
    dermoscopy,
    endoscopy,
    fundus,
    make,
    make_batch,
    make_many,
    xray,
)
from advjax.data.phantoms._spec import ARTEFACTS, Phantom, PhantomSpec

__all__ = [
    "ARTEFACTS",
    "Phantom",
    "PhantomSpec",
    "ct",
    "dermoscopy",
    "endoscopy",
    "fundus",
    "make",
    "make_batch",
    "make_many",
    "xray",
]
