"""Example images of an evaluation, one `.npz` per (model, attack, budget)."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advjax.store._files import file_name, remove_stale, write_atomic

_MASKS = ("clean_mask", "adv_mask")
_BOXES = ("true_boxes", "clean_boxes", "adv_boxes")
_ARRAYS = ("clean", "adv", "target", "clean_probabilities", "adv_probabilities", "example_id")


class Panel(NamedTuple):
    """Images of one model under one attack at one budget.

    Attributes:
      model: name.
      attack: name.
      eps: budget in pixel units.
      clean: `[k, H, W, C]` float32 in [0, 1].
      adv: `[k, H, W, C]` float32.
      target: `[k]` classes, or `[k, K]` multi-hot (negative: unknown); of a detector the number of
        true boxes of each class.
      clean_probabilities: `[k, C]`.
      adv_probabilities: `[k, C]`.
      example_id: `[k]` int64.
      class_names: `[C]`.
      clean_mask: `[k, H, W]`, what a segmenter says of the clean images; None for other tasks,
        whose targets are not masks. `probabilities` are pixels by class then, see the rows.
      adv_mask: `[k, H, W]`, of the attacked images.
      true_boxes: `[k, M, 5]`, each `(class, y0, x0, y1, x1)` in pixels, class -1 being none; None
        but for detectors, whose `probabilities` are those of the rows.
      clean_boxes: `[k, n, 5]`, what a detector finds in the clean images.
      adv_boxes: `[k, n, 5]`, in the attacked images.
    """

    model: str
    attack: str
    eps: float
    clean: np.ndarray
    adv: np.ndarray
    target: np.ndarray
    clean_probabilities: np.ndarray
    adv_probabilities: np.ndarray
    example_id: np.ndarray
    class_names: tuple[str, ...]
    clean_mask: np.ndarray | None = None
    adv_mask: np.ndarray | None = None
    true_boxes: np.ndarray | None = None
    clean_boxes: np.ndarray | None = None
    adv_boxes: np.ndarray | None = None


def write_panel(
    folder: str | Path,
    *,
    model: str,
    attack: str,
    eps: float,
    clean: Any,
    adv: Any,
    target: Any,
    clean_probabilities: Any,
    adv_probabilities: Any,
    example_id: Any,
    class_names: Sequence[str],
    clean_mask: Any = None,
    adv_mask: Any = None,
    true_boxes: Any = None,
    clean_boxes: Any = None,
    adv_boxes: Any = None,
) -> Path:
    """Write `FOLDER/panels/*.npz` atomically; the arguments are the fields of `Panel`.

    Args:
      folder: of the evaluation.
      model: any text, as in the rows.
      attack: any text, as in the rows.
      eps: budget in pixel units.
      clean: `[k, H, W, C]` in [0, 1].
      adv: `[k, H, W, C]`.
      target: `[k]`, `[k, K]`, or masks `[k, H, W]`.
      clean_probabilities: `[k, C]`; with masks `[k, 3 C]`; with boxes `[k, P]` as in the rows.
      adv_probabilities: as clean_probabilities.
      example_id: `[k]`, as in the rows.
      class_names: `[C]`.
      clean_mask: `[k, H, W]` with masks; adv_mask: too.
      true_boxes: `[k, M, 5]` with boxes; clean_boxes and adv_boxes: `[k, n, 5]`.

    Returns:
      The path. A panel of the same (model, attack, eps) is replaced.

    Raises:
      ValueError: shapes that do not fit together.
      OSError: the disk is full; earlier files are intact.
    """
    arrays: dict[str, np.ndarray] = {
        "clean": np.asarray(clean, np.float32),
        "adv": np.asarray(adv, np.float32),
        "target": np.asarray(target, np.int64),
        "clean_probabilities": np.asarray(clean_probabilities, np.float32),
        "adv_probabilities": np.asarray(adv_probabilities, np.float32),
        "example_id": np.asarray(example_id, np.int64),
    }
    if clean_mask is not None:
        arrays["clean_mask"] = np.asarray(clean_mask, np.uint8)
        arrays["adv_mask"] = np.asarray(adv_mask, np.uint8)
    if true_boxes is not None:
        given = (true_boxes, clean_boxes, adv_boxes)
        arrays |= {n: np.asarray(b, np.float32) for n, b in zip(_BOXES, given, strict=True)}
    _check(arrays, len(class_names))
    buffer = io.BytesIO()
    named: dict[str, np.ndarray] = {
        "model": np.array(model),
        "attack": np.array(attack),
        "eps": np.array(float(eps)),
        "class_names": np.array([str(name) for name in class_names]),
    }
    np.savez_compressed(buffer, allow_pickle=False, **arrays, **named)
    place = Path(folder) / "panels"
    remove_stale(place)
    path = place / f"{file_name(f'{model} {attack} {float(eps)!r}')}.npz"
    write_atomic(path, buffer.getvalue())
    return path


def read_panels(folder: str | Path) -> list[Panel]:
    """Read all panels of an evaluation, ordered by attack, budget and model; none is no error.

    Raises:
      ValueError: a file is damaged, with the remedy.
    """
    panels = [_read(path) for path in sorted((Path(folder) / "panels").glob("*.npz"))]
    return sorted(panels, key=lambda panel: (panel.attack, panel.eps, panel.model))


def _read(path: Path) -> Panel:
    """Read one panel."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return Panel(
                model=str(found["model"]),
                attack=str(found["attack"]),
                eps=float(found["eps"]),
                class_names=tuple(str(name) for name in found["class_names"]),
                **{name: found[name] for name in (*_ARRAYS, *_MASKS, *_BOXES) if name in found},
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile):
        raise ValueError(
            f"{path}: damaged panel; delete this file, the report works without it"
        ) from None


def _check(arrays: dict[str, np.ndarray], num_classes: int) -> None:
    """Raise unless all arrays describe the same examples and classes."""
    shape = arrays["clean"].shape
    if len(shape) != 4 or arrays["adv"].shape != shape:
        raise ValueError(
            f"panel: clean and adv must both be [k, H, W, C], got {shape} and {arrays['adv'].shape}"
        )
    masks = "clean_mask" in arrays
    for name in _MASKS if masks else ():
        if arrays[name].shape != shape[:3]:
            raise ValueError(f"panel: {name} must be [k, H, W], got {arrays[name].shape}")
    boxes = "true_boxes" in arrays
    for name in _BOXES if boxes else ():
        found = arrays[name].shape
        if len(found) != 3 or (found[0], found[2]) != (shape[0], 5):
            raise ValueError(f"panel: {name} must be [{shape[0]}, n, 5], got {found}")
    width = 3 * num_classes if masks else num_classes
    width = arrays["clean_probabilities"].shape[-1] if boxes else width
    for name in ("clean_probabilities", "adv_probabilities"):
        if arrays[name].shape != (shape[0], width):
            raise ValueError(
                f"panel: {name} must be [{shape[0]}, {width}] (one column per class name), "
                f"got {arrays[name].shape}"
            )
    known = (shape[:3],) if masks else ((shape[0],), (shape[0], num_classes))
    if arrays["target"].shape not in known:
        raise ValueError(
            f"panel: target must be [k], [k, K] or masks [k, H, W], got {arrays['target'].shape}"
        )
    if arrays["example_id"].shape != shape[:1]:
        raise ValueError(f"panel: example_id must be [k], got {arrays['example_id'].shape}")
