"""Bring a PyTorch checkpoint: its weights under the names of ours."""

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.models import _torch_layouts
from advjax.models._base import Model, Variables
from advjax.models._build import ZOO, check_name
from advjax.models._safetensors import read_safetensors
from advjax.models._torch_layouts import Layout, Weights

# what training scripts put around the weights
_WRAPPERS = ("state_dict", "model_state_dict", "net", "model", "weights")
_SHOWN = 5
_SIZE = 96  # of the images that give the shapes, which do not depend on it
_LEAVES = {
    "kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
    "var": "running_var",
}  # fmt: skip


def load_torch(
    name: str,
    weights: Any,
    *,
    num_classes: int | None = None,
    channels: int | None = None,
    mean: Any = 0.0,
    std: Any = 1.0,
    **options: Any,
) -> tuple[Model, Variables]:
    """Make a model of the zoo with the weights of a PyTorch checkpoint.

        model, variables = models.load_torch(
            "resnet18", "net.safetensors", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )

    Known are the names of torchvision and those that are common for CIFAR (ResNet, DenseNet,
    MobileNetV2, VGG), Inception-v3 of torchvision, CheXNet's DenseNet-121, WideResNets
    (`block1.layer.0.conv1`) and U-Nets with transposed convolutions (`inc.double_conv.0`). Width,
    stem, depth of a WideResNet, classes and channels follow from the shapes. What a wrapper adds
    in front of all names (`module.`, `model.`) is left out.

    Weights do not say how pixels were normalised. By default the model is the PyTorch module as it
    is; give mean and std where the module was fed normalised images. torchvision's Inception with
    ImageNet weights does it inside: 0.5 and 0.5.

    Args:
      name: `densenet121`, `inception_v3`, `mobilenet_v2`, `resnet18`, `resnet34`, `resnet50`,
        `unet`, `vgg16_bn` or `wrn28_10` (of any depth and width).
      weights: a mapping of names to arrays or tensors, maybe inside another one under
        `state_dict`, `model_state_dict`, `net`, `model` or `weights`; or a file: `.safetensors`,
        or with PyTorch installed `.pt`, `.pth`, `.ckpt`, `.bin` or `.tar`, of which only weights
        are read.
      num_classes: how many outputs there must be; None: as many as there are.
      channels: how many channels the images must have; None: as many as they have.
      mean: subtracted from the pixels inside the model; scalar or `[C]`.
      std: divided by inside the model; scalar or `[C]`.
      **options: of the factory, such as `axis_name`; they win over what the shapes tell.

    Returns:
      `(model, variables)`, float32.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: an unknown name or kind of file, a file that is damaged or needs PyTorch where
        there is none, or weights of another network: the message says which names are missing,
        unexpected or of another shape.
    """
    layout, found = _recognise(name, read_weights(weights))
    found = layout.convert(found)
    outputs, inputs = _sizes(layout, found)
    told = (
        (f"{layout.head}.weight gives", "outputs", outputs, num_classes),
        (f"{layout.stem}.weight sees", "channels", inputs, channels),
    )
    for key, things, there, wanted in told:
        if wanted not in (None, there):
            raise ValueError(f"load_torch: {key} {there} {things}, expected {wanted}")
    options = layout.options(found) | options
    model = ZOO[name](outputs, mean=mean, std=std, **options)
    x = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, inputs), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    names = torch_names(layout, shapes)
    said = ", ".join(f"{k} {v}" for k, v in options.items() if k != "axis_name")
    what = f"{name} ({layout.name} names, {outputs} outputs, {inputs} channels, {said})"
    _check(what, dict(names.values()), found)

    def fill(path: Any, leaf: Any) -> jax.Array:
        value = found[names[_parts(path)][0]]
        return jnp.asarray(_as_ours(value, leaf.shape, _is_spread(path)), jnp.float32)

    return model, jax.tree_util.tree_map_with_path(fill, shapes)


def torch_sizes(name: str, weights: Any) -> tuple[int, int]:
    """Return how many outputs and how many channels of images the weights are for.

    Args:
      name: as of `load_torch`.
      weights: as of `load_torch`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: as `load_torch`, but only the first and the last layer are looked at.
    """
    return _sizes(*_recognise(name, read_weights(weights)))


def torch_stem(name: str, weights: Any) -> str | None:
    """Return the stem of the network that `load_torch` makes of weights; None: it has no choice.

    Args:
      name: as of `load_torch`.
      weights: as of `load_torch`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: as `load_torch`.
    """
    layout, found = _recognise(name, read_weights(weights))
    choice = inspect.signature(ZOO[name]).parameters.get("stem")
    if choice is None:
        return None
    return str(layout.options(layout.convert(found)).get("stem", choice.default))


def read_weights(source: Any) -> Weights:
    """Return arrays by their names, whatever they came in.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: no mapping of names to arrays, one that is not finite, or a file that cannot be
        read.
    """
    if isinstance(source, str | os.PathLike):
        source = _read_file(Path(source))
    while isinstance(source, Mapping):
        inner = [source[key] for key in _WRAPPERS if isinstance(source.get(key), Mapping)]
        if not inner:
            break
        source = inner[0]
    if not isinstance(source, Mapping) or not source:
        raise ValueError(
            f"load_torch: expected a mapping of names to arrays, got {type(source).__name__}; "
            "give model.state_dict(), or a file of one"
        )
    arrays = {str(key): _to_numpy(str(key), value) for key, value in source.items()}
    found = {k: v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    broken = [key for key, value in found.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"load_torch: {_list(broken)} hold numbers that are not finite")
    return found


def _read_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of weights")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix not in (".pt", ".pth", ".ckpt", ".bin", ".tar"):
        raise ValueError(f"{path}: expected .safetensors, .pt, .pth, .ckpt, .bin or .tar")
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"{path}: to read it takes PyTorch, which is not installed; install it, or save the "
            "weights where it is: safetensors.torch.save_file(model.state_dict(), 'x.safetensors')"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle may fail in any way
        first = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"{path}: holds more than weights, or is damaged ({first[0][:200]}); save "
            "model.state_dict() instead of the model"
        ) from None


def _to_numpy(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor; NumPy knows no bfloat16
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    try:
        array = np.asarray(value)
        return array.astype(np.float32) if array.dtype != np.float32 else array
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise ValueError(f"load_torch: {name!r} is no array but a {kind}") from None


def _recognise(name: str, weights: Weights) -> tuple[Layout, Weights]:
    """Return the layout whose stem and head are there, and the weights below their prefix."""
    check_name(name)
    if name not in _torch_layouts.LAYOUTS:
        known = ", ".join(_torch_layouts.LAYOUTS)
        raise ValueError(f"load_torch: no PyTorch names are known for {name!r}; known: {known}")
    layouts = _torch_layouts.LAYOUTS[name]
    for layout in layouts:
        named = {_torch_layouts.translate(k, layout.renames): v for k, v in weights.items()}
        stem, head = f"{layout.stem}.weight", f"{layout.head}.weight"
        prefixes = [
            key.removesuffix(stem)
            for key in named
            if key == stem or key.endswith(f".{stem}")
        ]  # fmt: skip
        prefixes = [p for p in sorted(prefixes, key=len) if p + head in named]
        if prefixes:
            return layout, {key.removeprefix(prefixes[0]): v for key, v in named.items()}
    wanted = "; ".join(f"{la.stem}.weight and {la.head}.weight ({la.name})" for la in layouts)
    raise ValueError(
        f"load_torch: these are no weights of {name}: it has {wanted}; there are {_list(weights)}"
    )


def _sizes(layout: Layout, weights: Weights) -> tuple[int, int]:
    """Return the number of outputs and of channels."""
    head, stem = f"{layout.head}.weight", f"{layout.stem}.weight"
    for key in (head, stem):
        if weights[key].ndim not in (2, 4):
            raise ValueError(f"load_torch: {key} is {_text(weights[key].shape)}, no kernel")
    return weights[head].shape[0], weights[stem].shape[1]


def _parts(path: Any) -> tuple[str, ...]:
    return tuple(entry.key for entry in path)


def _is_spread(path: Any) -> bool:
    """Whether a leaf is the kernel of a 2x2 transposed convolution."""
    return re.fullmatch(r"up\d", _parts(path)[-2]) is not None


def torch_names(
    layout: Layout, shapes: Variables
) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """Return, for each leaf of ours, its name in PyTorch and its shape there."""
    names = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        _, *module, kind = _parts(path)
        name = _torch_layouts.translate("/".join(module), layout.rules)
        shape = leaf.shape
        if kind == "kernel":
            shape = shape[::-1] if len(shape) == 2 else (shape[3], shape[2], *shape[:2])
            if _is_spread(path):
                shape = (leaf.shape[2], leaf.shape[3], *leaf.shape[:2])
        names[_parts(path)] = (f"{name}.{_LEAVES[kind]}", tuple(shape))
    return names


def _as_ours(value: np.ndarray, shape: tuple[int, ...], spread: bool) -> np.ndarray:
    if len(shape) == 4:
        return value.transpose((2, 3, 0, 1) if spread else (2, 3, 1, 0))
    return value.T if len(shape) == 2 else value


def _check(what: str, wanted: dict[str, tuple[int, ...]], found: Weights) -> None:
    """Compare names and shapes.

    Raises:
      ValueError: saying all that differs.
    """
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    wrong = [
        f"{key} is {_text(found[key].shape)}, expected {_text(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key].shape != shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    parts = [f"{label} {len(keys)}: {_list(keys)}" for label, keys in lists.items() if keys]
    if parts:
        raise ValueError(f"load_torch: the weights are no {what}; {'; '.join(parts)}")


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _list(keys: Any) -> str:
    keys = list(keys)
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
