"""What a phantom is: its spec, and the image, target and mask that it yields."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

DERMOSCOPY_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
CT_CLASSES = ("negative", "positive")
XRAY_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)


class Phantom(NamedTuple):
    """One synthetic image, or a batch of them with a leading `[N]`.

    Attributes:
      image: `[H, W, C]` float32 in [0, 1].
      target: `[]` int32 class, or `[K]` int32 multi-hot.
      mask: `[H, W]` int32, 0 background and 1 lesion (x-ray: lung).
    """

    image: Any
    target: Any
    mask: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["difficulty", "signal", "texture"],
    meta_fields=["modality", "size"],
)
@dataclass(frozen=True)
class PhantomSpec:
    """What to draw: a pytree whose numbers are traced, so that one program serves all of them.

    Attributes:
      modality: `dermoscopy`, `xray` or `ct`.
      size: height and width in pixels.
      difficulty: in [0, 1]; strength of noise, artefacts, illumination and anatomical variation.
      signal: in [0, 2]; strength of the large structures that make a class (shape, layout,
        contrast). With `signal` and `texture` both 0 the images do not depend on the target.
      texture: in [0, 10]; strength of a fine pattern whose pitch depends on the class, about
        3/255 in amplitude at 1. It predicts, and a budget of that size removes it: what a
        standard network leans on and a robust one must not.
    """

    modality: str
    size: int = 32
    difficulty: float = 0.5
    signal: float = 1.0
    texture: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.modality not in ("dermoscopy", "xray", "ct"):
            raise ValueError(f"unknown phantom {self.modality!r}; known: dermoscopy, xray, ct")
        if not 16 <= self.size <= 1024:
            raise ValueError(f"size of a phantom must be in [16, 1024] pixels, got {self.size}")
        for name, high in (("difficulty", 1.0), ("signal", 2.0), ("texture", 10.0)):
            value = getattr(self, name)
            # what jit puts here instead of a number has no value to check
            if isinstance(value, (int, float)) and not 0.0 <= value <= high:
                raise ValueError(f"{name} must be in [0, {high:g}], got {value}")

    @property
    def task(self) -> str:
        """Return `single` (one class per image) or `multi` (several findings)."""
        return "multi" if self.modality == "xray" else "single"

    @property
    def channels(self) -> int:
        """Return 3 for dermoscopy, else 1."""
        return 3 if self.modality == "dermoscopy" else 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes or findings, in target order."""
        names = {"dermoscopy": DERMOSCOPY_CLASSES, "xray": XRAY_FINDINGS, "ct": CT_CLASSES}
        return names[self.modality]
