"""What a phantom is: its spec, and the image, target and mask that it yields."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

DERMOSCOPY_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
CT_CLASSES = ("negative", "positive")
FUNDUS_GRADES = ("none", "mild", "moderate", "severe", "proliferative")
ENDOSCOPY_CLASSES = ("normal", "polyp")
ARTEFACTS = ("specularity", "saturation", "bubbles", "instrument", "contrast")
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
      target: by the task of the spec: `[]` int32 class, `[K]` int32 multi-hot, the mask, or
        `[8, 5]` float32 boxes (class, y0, x0, y1, x1) in pixels, filled up with rows of -1.
      mask: `[H, W]` int32, 0 background and 1 lesion (x-ray: lung; fundus: 1 vessel, 2 lesion).
    """

    image: Any
    target: Any
    mask: Any


class _Kind(NamedTuple):
    """What a modality has.

    Attributes:
      channels: 1 or 3.
      classes: names of what an image is drawn as, by task; the first task is the default.
    """

    channels: int
    classes: dict[str, tuple[str, ...]]


_KINDS = {
    "ct": _Kind(1, {"single": CT_CLASSES, "segmentation": ("background", "lesion")}),
    "dermoscopy": _Kind(
        3, {"single": DERMOSCOPY_CLASSES, "segmentation": ("background", "lesion")}
    ),
    "endoscopy": _Kind(
        3,
        {
            "single": ENDOSCOPY_CLASSES,
            "segmentation": ("background", "polyp"),
            "detection": ARTEFACTS,
        },
    ),
    "fundus": _Kind(
        3, {"single": FUNDUS_GRADES, "segmentation": ("background", "vessel", "lesion")}
    ),
    "xray": _Kind(1, {"multi": XRAY_FINDINGS, "segmentation": ("background", "lung")}),
}
MODALITIES = tuple(_KINDS)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["difficulty", "signal", "texture"],
    meta_fields=["modality", "size", "task"],
)
@dataclass(frozen=True)
class PhantomSpec:
    """What to draw: a pytree whose numbers are traced, so that one program serves all of them.

    Attributes:
      modality: `ct`, `dermoscopy`, `endoscopy`, `fundus` or `xray`.
      size: height and width in pixels.
      difficulty: in [0, 1]; strength of noise, artefacts, illumination and anatomical variation.
      signal: in [0, 2]; strength of the large structures that make a class (shape, layout,
        contrast). With `signal` and `texture` both 0 the images do not depend on the target.
      texture: in [0, 10]; strength of a fine pattern whose pitch depends on the class, about
        3/255 in amplitude at 1. It predicts, and a budget of that size removes it: what a
        standard network leans on and a robust one must not.
      task: what the target is: `single` (one class per image; x-ray: `multi`, several findings),
        `segmentation` (the mask) or, of endoscopy, `detection` (boxes of artefacts). Empty: the
        first of these.
    """

    modality: str
    size: int = 32
    difficulty: float = 0.5
    signal: float = 1.0
    texture: float = 1.0
    task: str = ""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.modality not in _KINDS:
            known = ", ".join(MODALITIES)
            raise ValueError(f"unknown phantom {self.modality!r}; known: {known}")
        tasks = _KINDS[self.modality].classes
        object.__setattr__(self, "task", self.task or next(iter(tasks)))
        if self.task not in tasks:
            raise ValueError(
                f"phantom:{self.modality} has no targets for the task {self.task!r}; it has "
                f"{', '.join(tasks)}"
            )
        if not 16 <= self.size <= 1024:
            raise ValueError(f"size of a phantom must be in [16, 1024] pixels, got {self.size}")
        for name, high in (("difficulty", 1.0), ("signal", 2.0), ("texture", 10.0)):
            value = getattr(self, name)
            # what jit puts here instead of a number has no value to check
            if isinstance(value, (int, float)) and not 0.0 <= value <= high:
                raise ValueError(f"{name} must be in [0, {high:g}], got {value}")

    @property
    def channels(self) -> int:
        """Return 3 (RGB), or 1 for x-ray and CT."""
        return _KINDS[self.modality].channels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, findings, classes of pixels or kinds of boxes."""
        return _KINDS[self.modality].classes[self.task]

    @property
    def drawn(self) -> tuple[str, ...]:
        """Return the names of the classes or findings of an image as a whole, whatever the task."""
        return next(iter(_KINDS[self.modality].classes.values()))
