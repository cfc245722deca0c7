"""Find an architecture by its name."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from advjax.config import ModelConfig
from advjax.models import (
    _attn_vgg,
    _centernet,
    _densenet,
    _gap,
    _inception,
    _mobilenet,
    _resnet,
    _segnet,
    _small_cnn,
    _unet,
    _vgg,
    _wide_resnet,
)
from advjax.models._base import Model

ZOO: dict[str, Callable[..., Model]] = {
    "attn_vgg": _attn_vgg.attn_vgg,
    "centernet": _centernet.centernet,
    "densenet121": _densenet.densenet121,
    "gap_resnet": _gap.gap_resnet,
    "gap_unet": _gap.gap_unet,
    "inception_v3": _inception.inception_v3,
    "mobilenet_v2": _mobilenet.mobilenet_v2,
    "resnet18": _resnet.resnet18,
    "resnet34": _resnet.resnet34,
    "resnet50": _resnet.resnet50,
    "segnet": _segnet.segnet,
    "small_cnn": _small_cnn.small_cnn,
    "unet": _unet.unet,
    "vgg16_bn": _vgg.vgg16_bn,
    "wrn28_10": _wide_resnet.wide_resnet,
}

# What comes out: "pixels" `[B, H, W, K]` logits, "image" `[B, H, W, C]` in [-1, 1], "boxes" a dict
# of maps; all others give "labels", `[B, K]` logits.
_OUTPUTS = {
    "centernet": "boxes", "gap_resnet": "image", "gap_unet": "image", "segnet": "pixels",
    "unet": "pixels",
}  # fmt: skip


def output_of(name: str) -> str:
    """Return what an architecture of the zoo gives: `labels`, `pixels`, `image` or `boxes`.

    Raises:
      ValueError: an unknown name.
    """
    check_name(name)
    return _OUTPUTS.get(name, "labels")


def check_name(name: str) -> None:
    """Check that the zoo has an architecture.

    Raises:
      ValueError: it has not; with what was probably meant.
    """
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=1, cutoff=0.5)
        raise ValueError(
            f"model {name!r} is unknown"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + f" Known: {', '.join(sorted(ZOO))}"
        )


def build(config: ModelConfig, num_classes: int, axis_name: str | None = None) -> Model:
    """Make the model that a config describes.

    Args:
      config: name and sizes; `stem` is for the architectures that have a choice.
      num_classes: number of logits; of the generators, of channels.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      The model.

    Raises:
      ValueError: an unknown name or stem, or a size that is not positive.
    """
    check_name(config.name)
    make = ZOO[config.name]
    options: dict[str, Any] = {"mean": config.mean, "std": config.std}
    if "stem" in inspect.signature(make).parameters:
        options["stem"] = config.stem
    return make(num_classes, width=config.width, axis_name=axis_name, **options)
