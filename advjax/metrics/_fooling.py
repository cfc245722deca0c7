"""How often predictions change: under one perturbation, or along the frames of a video."""

import numpy as np
from numpy.typing import ArrayLike

from advjax.metrics._types import examples

REFERENCES = ("previous", "first")


def fooling_rate(clean: ArrayLike, attacked: ArrayLike) -> float:
    """Share of predictions that an attack changes, right or wrong (Xu et al. 2021: FR; UAPs: Rf).

    Args:
      clean: `[N]` classes; or `[N, ...]` decisions (findings, pixels), each of which counts.
      attacked: the same for the attacked images.

    Raises:
      ValueError: there is no example, or the shapes differ.
    """
    before, after = examples("fooling_rate", clean, attacked)
    if before.shape != after.shape:
        raise ValueError(
            f"fooling_rate: predictions differ in shape, {before.shape} and {after.shape}"
        )
    return float(np.mean(before != after))


def target_rate(attacked: ArrayLike, target: ArrayLike) -> float:
    """Share of attacked images that are predicted as wanted (targeted UAPs: Rs).

    Images count that were so before any attack; `fooling_rate` leaves them out.

    Args:
      attacked: `[N]` classes, or `[N, ...]` decisions, all of which have to be as wanted.
      target: what broadcasts to it: the wanted class, `[K]` wanted findings, or one for each image.

    Raises:
      ValueError: there is no example, or the target does not broadcast.
    """
    (found,) = examples("target_rate", attacked)
    wanted = np.asarray(target)
    try:
        fits = np.broadcast_shapes(found.shape, wanted.shape) == found.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"target_rate: a target {wanted.shape} for predictions {found.shape}")
    return float(np.mean((found == wanted).reshape(len(found), -1).all(1)))


def flip_probability(frames: ArrayLike, *, reference: str = "previous") -> float:
    """How often the class changes along a video of one image (Xu et al. 2021, single label).

    The mean over videos and frames from the second on of whether the class is another than in the
    frame before. For noise, whose frames have no order, the first frame is what they are compared
    with (`analysis.perturbations.NOISES`).

    Args:
      frames: `[N, F]` classes, N videos of F frames.
      reference: `"previous"` or `"first"`.

    Raises:
      ValueError: an unknown reference, no video, another shape, or a single frame.
    """
    found = _videos("flip_probability", frames, 2)
    if reference not in REFERENCES:
        raise ValueError(f"reference: {reference!r} is unknown; use {' or '.join(REFERENCES)}")
    before = found[:, :-1] if reference == "previous" else found[:, :1]
    return float(np.mean(found[:, 1:] != before))


def label_flip_probability(frames: ArrayLike, *, per_frame: bool = False) -> float:
    """How often findings change along a video of one image (Xu et al. 2021, multi-label).

    For each video the changes against its first frame are added up over the other frames and
    divided by the number of findings, not by that of frames: up to F - 1.

    Args:
      frames: `[N, F, K]` decisions on K findings.
      per_frame: divide by F - 1 too, which makes it a probability.

    Raises:
      ValueError: no video, another shape, or a single frame.
    """
    found = _videos("label_flip_probability", frames, 3)
    changes = np.mean(found[:, 1:] != found[:, :1], axis=2)
    return float(np.mean(changes) if per_frame else np.mean(changes.sum(1)))


def _videos(name: str, frames: ArrayLike, rank: int) -> np.ndarray:
    (found,) = examples(name, frames)
    shape = "[N, F]" if rank == 2 else "[N, F, K]"
    if found.ndim != rank or found.shape[1] < 2:
        raise ValueError(f"{name}: expected {shape} with two frames at least, got {found.shape}")
    return found
