"""How PyTorch implementations name and arrange the layers of the zoo."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from advjax.models import _mobilenet, _vgg

Weights = dict[str, np.ndarray]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


class Layout(NamedTuple):
    """One implementation of one architecture.

    Attributes:
      name: for messages.
      stem: name of the first convolution, and
      head: of the last layer; by these two the layout is recognised.
      rules: substitutions that turn a path of ours into the name of a module.
      options: `(weights) -> options` of our factory, as the shapes tell them.
      renames: substitutions that turn names of older versions into those of today.
      convert: `(weights) -> weights`, where numbers are arranged in another way.
    """

    name: str
    stem: str
    head: str
    rules: tuple[Rule, ...]
    options: Callable[[Weights], dict[str, Any]]
    renames: tuple[Rule, ...] = ()
    convert: Callable[[Weights], Weights] = lambda weights: weights


def _before(pattern: str, start: int = 1) -> Callable[[re.Match[str]], str]:
    """Fill `{0}` with a group and `{1}` with the next one, counted from 0 instead of `start`."""
    return lambda m: pattern.format(m[1], int(m[2]) - start)


def _width(name: str, factor: int = 1) -> Callable[[Weights], int]:
    return lambda weights: factor * weights[f"{name}.weight"].shape[0]


# --- residual networks


def _resnet_options(weights: Weights) -> dict[str, Any]:
    kernel = weights["conv1.weight"]
    return {"width": kernel.shape[0], "stem": "imagenet" if kernel.shape[-1] == 7 else "cifar"}


def _resnet(name: str, head: str, shortcut: str) -> Layout:
    rules: tuple[Rule, ...] = (
        (r"^stem$", "conv1"), (r"^norm_stem$", "bn1"), (r"^head$", head),
        (r"^stage(\d)_block(\d+)/", _before("layer{0}.{1}.")),
        (r"norm_shortcut$", f"{shortcut}.1"), (r"\.shortcut$", f".{shortcut}.0"),
        (r"norm(\d)$", r"bn\1"),
    )  # fmt: skip
    return Layout(name, "conv1", head, rules, _resnet_options)


RESNET = (_resnet("torchvision", "fc", "downsample"), _resnet("CIFAR", "linear", "shortcut"))


def _wide_options(weights: Weights) -> dict[str, Any]:
    base = weights["conv1.weight"].shape[0]
    blocks = {name.split(".")[2] for name in weights if name.startswith("block1.layer.")}
    first = weights.get("block1.layer.0.conv1.weight")
    widen = 1 if first is None else max(1, first.shape[0] // base)
    return {"depth": 6 * max(1, len(blocks)) + 4, "widen": widen, "width": 4 * base}


def _without_unused(weights: Weights) -> Weights:
    # one widely copied file builds a block that its forward pass never reaches
    return {k: v for k, v in weights.items() if not k.startswith("sub_block1.")}


WIDE = (
    Layout(
        "CIFAR", "conv1", "fc",
        (
            (r"^stem$", "conv1"), (r"^norm_last$", "bn1"), (r"^head$", "fc"),
            (r"^stage(\d)_block(\d+)/", _before("block{0}.layer.{1}.")),
            (r"norm(\d)$", r"bn\1"), (r"\.shortcut$", ".convShortcut"),
        ),
        _wide_options, convert=_without_unused,
    ),
)  # fmt: skip

# --- MobileNetV2


def _block_number(match: re.Match[str]) -> int:
    before = _mobilenet.STAGES[: int(match[1]) - 1]
    return sum(depth for _, _, depth, _ in before) + int(match[2])


def _mobile_width(first: str, project: str) -> Callable[[Weights], int]:
    """Return what finds the width that gives the channels of the stem and of the last block."""

    def find(weights: Weights) -> int:
        last = weights.get(f"{project}.weight", weights[f"{first}.weight"]).shape[0]
        stem = weights[f"{first}.weight"].shape[0]
        for width in sorted(range(1, 513), key=lambda w: (w % 16, w % 8, w % 4, abs(w - 64))):
            counts = _mobilenet.channels(32, width), _mobilenet.channels(320, width)
            if counts == (stem, last):
                return width
        return 64

    return find


_TORCHVISION_MOBILE = _mobile_width("features.0.0", "features.17.conv.2")
_CIFAR_MOBILE = _mobile_width("conv1", "layers.16.conv3")

MOBILENET = (
    Layout(
        "torchvision", "features.0.0", "classifier.1",
        (
            (r"^stem$", "features.0.0"), (r"^norm_stem$", "features.0.1"),
            (r"^last$", "features.18.0"), (r"^norm_last$", "features.18.1"),
            (r"^head$", "classifier.1"),
            (r"^stage1_block1/depthwise$", "features.1.conv.0.0"),
            (r"^stage1_block1/norm_depthwise$", "features.1.conv.0.1"),
            (r"^stage1_block1/project$", "features.1.conv.1"),
            (r"^stage1_block1/norm_project$", "features.1.conv.2"),
            (r"^stage(\d)_block(\d)/", lambda m: f"features.{_block_number(m)}.conv."),
            (r"\.norm_expand$", ".0.1"), (r"\.expand$", ".0.0"),
            (r"\.norm_depthwise$", ".1.1"), (r"\.depthwise$", ".1.0"),
            (r"\.norm_project$", ".3"), (r"\.project$", ".2"),
        ),
        lambda weights: {"width": _TORCHVISION_MOBILE(weights), "stem": "imagenet"},
    ),
    Layout(
        "CIFAR", "conv1", "linear",
        (
            (r"^stem$", "conv1"), (r"^norm_stem$", "bn1"), (r"^last$", "conv2"),
            (r"^norm_last$", "bn2"), (r"^head$", "linear"),
            (r"^stage(\d)_block(\d)/", lambda m: f"layers.{_block_number(m) - 1}."),
            (r"\.norm_expand$", ".bn1"), (r"\.expand$", ".conv1"),
            (r"\.norm_depthwise$", ".bn2"), (r"\.depthwise$", ".conv2"),
            (r"\.norm_project$", ".bn3"), (r"\.project$", ".conv3"),
            (r"\.norm_shortcut$", ".shortcut.1"), (r"\.shortcut$", ".shortcut.0"),
        ),
        lambda weights: {"width": _CIFAR_MOBILE(weights), "stem": "cifar"},
    ),
)  # fmt: skip

# --- DenseNet

# The first versions of the library named layers `norm.1`; CheXNet wraps the head with a sigmoid.
_OLD_DENSENET: tuple[Rule, ...] = (
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"classifier\.0\.(weight|bias)$", r"classifier.\1"),
)

DENSENET = (
    Layout(
        "torchvision", "features.conv0", "classifier",
        (
            (r"^stem$", "features.conv0"), (r"^norm_stem$", "features.norm0"),
            (r"^norm_last$", "features.norm5"), (r"^head$", "classifier"),
            (r"^block(\d)_layer(\d+)/", r"features.denseblock\1.denselayer\2."),
            (r"^transition(\d)$", r"features.transition\1.conv"),
            (r"^norm_transition(\d)$", r"features.transition\1.norm"),
        ),
        lambda weights: {"width": _width("features.conv0")(weights), "stem": "imagenet"},
        renames=_OLD_DENSENET,
    ),
    Layout(
        "CIFAR", "conv1", "linear",
        (
            (r"^stem$", "conv1"), (r"^norm_last$", "bn"), (r"^head$", "linear"),
            (r"^block(\d)_layer(\d+)/", _before("dense{0}.{1}.")), (r"norm(\d)$", r"bn\1"),
            (r"^transition(\d)$", r"trans\1.conv"), (r"^norm_transition(\d)$", r"trans\1.bn"),
        ),
        lambda weights: {"width": _width("conv1")(weights), "stem": "cifar"},
    ),
)  # fmt: skip

# --- VGG


def _vgg_number(match: re.Match[str]) -> str:
    before = sum(3 * depth + 1 for _, depth in _vgg.LEVELS[: int(match[1]) - 1])
    return f"features.{before + 3 * (int(match[3]) - 1) + (match[2] == 'norm')}"


def _pixels_first(weights: Weights) -> Weights:
    """Arrange the first dense layer for `[H, W, C]` instead of `[C, H, W]`."""
    name, bins = "classifier.0.weight", 49
    if name in weights and weights[name].ndim == 2 and weights[name].shape[1] % bins == 0:
        kernel = weights[name]
        kernel = kernel.reshape(len(kernel), -1, bins).swapaxes(1, 2).reshape(kernel.shape)
        weights = weights | {name: kernel}
    return weights


_VGG: tuple[Rule, ...] = (
    (r"^level(\d)_(conv|norm)(\d)$", _vgg_number), (r"^dense1$", "classifier.0"),
    (r"^dense2$", "classifier.3"),
)  # fmt: skip
VGG = (
    Layout(
        "torchvision", "features.0", "classifier.6", (*_VGG, (r"^head$", "classifier.6")),
        lambda weights: {"width": _width("features.0")(weights), "stem": "imagenet"},
        convert=_pixels_first,
    ),
    Layout(
        "CIFAR", "features.0", "classifier", (*_VGG, (r"^head$", "classifier")),
        lambda weights: {"width": _width("features.0")(weights), "stem": "cifar"},
    ),
)  # fmt: skip

# --- Inception-v3


def _inception_options(weights: Weights) -> dict[str, Any]:
    aux = any(name.startswith("AuxLogits.") for name in weights)
    return {"width": _width("Conv2d_1a_3x3.conv", 2)(weights), "stem": "imagenet", "aux": aux}


INCEPTION = (
    Layout(
        "torchvision", "Conv2d_1a_3x3.conv", "fc", ((r"/norm$", "/bn"), (r"/", ".")),
        _inception_options,
    ),
)  # fmt: skip

# --- U-Net


def _fold_biases(weights: Weights) -> Weights:
    """Take the biases of convolutions before a batch-norm off its mean: the same function."""
    weights = dict(weights)
    for name in [n for n in weights if re.search(r"double_conv\.[03]\.bias$", n)]:
        *path, number, _ = name.split(".")
        mean = ".".join([*path, str(int(number) + 1), "running_mean"])
        if mean in weights and weights[mean].shape == weights[name].shape:
            weights[mean] = weights[mean] - weights.pop(name)
    return weights


UNET = (
    Layout(
        "milesial", "inc.double_conv.0", "outc.conv",
        (
            (r"^down0/", "inc.double_conv."), (r"^head$", "outc.conv"),
            (r"^down(\d)/", r"down\1.maxpool_conv.1.double_conv."),
            (r"^up(\d)$", lambda m: f"up{4 - int(m[1])}.up"),
            (r"^join(\d)/", lambda m: f"up{4 - int(m[1])}.conv.double_conv."),
            (r"\.conv1$", ".0"), (r"\.norm1$", ".1"), (r"\.conv2$", ".3"), (r"\.norm2$", ".4"),
        ),
        lambda weights: {"width": _width("inc.double_conv.0")(weights)},
        convert=_fold_biases,
    ),
)  # fmt: skip

LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "densenet121": DENSENET, "inception_v3": INCEPTION, "mobilenet_v2": MOBILENET,
    "resnet18": RESNET, "resnet34": RESNET, "resnet50": RESNET, "unet": UNET, "vgg16_bn": VGG,
    "wrn28_10": WIDE,
}  # fmt: skip


def translate(path: str, rules: tuple[Rule, ...]) -> str:
    """Apply all substitutions, one after the other."""
    for pattern, new in rules:
        path = re.sub(pattern, new, path)
    return path
