"""`advjax evaluate --torch-weights FILE`: a PyTorch checkpoint as the subject of an evaluation."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from advjax import data, models
from advjax.cli._subjects import Subject, choose_split
from advjax.config import EvaluateConfig
from advjax.data import Dataset

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_ONLY_HERE = ("model", "mean", "std")


def check_torch(config: EvaluateConfig) -> None:
    """Check what says which PyTorch model is attacked on which images.

    Raises:
      ValueError: naming the field and the remedy.
    """
    if config.torch_weights is None:
        extra = [name for name in _ONLY_HERE if getattr(config, name) is not None]
        extra += ["data.source"] if config.data.source else []
        if extra:
            raise ValueError(
                f"{extra[0]}: is for torch_weights only; runs know their model and their images"
            )
        return
    if config.runs:
        raise ValueError("torch_weights: evaluates one PyTorch model; leave runs out, or it")
    if config.model is None:
        raise ValueError("model: which architecture has these weights? such as --model resnet18")
    if models.output_of(config.model) not in ("labels", "pixels"):
        raise ValueError(f"model: {config.model} gives neither labels nor masks")
    if not config.data.source:
        raise ValueError("data.source: on which images? such as --data folder:PATH")
    if (config.mean is None) != (config.std is None):
        raise ValueError("mean, std: give both or neither")
    if config.model == "inception_v3" and config.mean is None:
        raise ValueError(
            "mean, std: an Inception with torchvision's ImageNet weights (transform_input) takes "
            "--mean 0.5 --std 0.5; give these, or what your images were normalised by"
        )
    if config.std is not None and not all(0 < value < np.inf for value in config.std):
        raise ValueError(f"std: must be positive, got {config.std}")


def torch_subject(config: EvaluateConfig) -> Subject:
    """Load the weights and the images; grey images are repeated for a model of three channels.

    Raises:
      FileNotFoundError: there is no such file of weights, or no such data.
      ValueError: weights of another architecture, or of other classes than the data have.
    """
    file, name = str(config.torch_weights), str(config.model)
    outputs, channels = models.torch_sizes(name, file)
    mean, std = _moments(config, channels)
    model, variables = models.load_torch(name, file, mean=mean, std=std)
    dataset = data.load(config.data)
    _check_fit(file, dataset, name, outputs, channels)
    told = f"{file}: {model.name}, {outputs} outputs; pixels are normalised by mean {_say(mean)}, "
    apply = model.apply
    if dataset.image_shape[-1] < channels:
        apply = _repeated(apply, channels)
        told = f"grey images are repeated for {channels} channels\n{told}"
    print(f"{told}std {_say(std)}")
    architecture = (name, file, mean, std, tuple(dataset.image_shape))
    split = choose_split(config, dataset)
    return Subject(Path(file).stem, architecture, apply, variables, dataset, split)


def _moments(config: EvaluateConfig, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std as given, or ImageNet's."""
    if config.mean is None or config.std is None:
        if channels != len(IMAGENET[0]):
            raise ValueError(
                f"mean, std: the model takes {channels} channels, so that ImageNet's do not fit; "
                "give what its images were normalised by, such as --mean 0.5 --std 0.25"
            )
        return IMAGENET
    for name in ("mean", "std"):
        count = len(getattr(config, name))
        if count not in (1, channels):
            raise ValueError(f"{name}: give 1 or {channels} numbers, got {count}")
    return config.mean, config.std


def _check_fit(file: str, dataset: Dataset, name: str, outputs: int, channels: int) -> None:
    """Refuse images or classes that the model was not made for."""
    gives = models.output_of(name)
    if dataset.task not in (("segmentation",) if gives == "pixels" else ("single", "multi")):
        raise ValueError(
            f"data.task: {name} gives {gives}, but {dataset.name} is data for the task "
            f"{dataset.task}; --data.task segmentation is for networks that make masks"
        )
    if outputs != dataset.num_classes:
        raise ValueError(
            f"{file}: gives {outputs} outputs, but {dataset.name} has {dataset.num_classes} "
            "classes; evaluate on data with the classes it was trained on, in the same order"
        )
    has = dataset.image_shape[-1]
    if has not in (1, channels):
        raise ValueError(f"{file}: takes {channels} channels, but {dataset.name} has {has}")


def _repeated(apply: Any, channels: int) -> Any:
    """Show one channel to a model of several; the attack sees one."""

    def repeated(variables: Any, x: Any, **options: Any) -> Any:
        return apply(variables, jnp.concatenate([x] * channels, axis=-1), **options)

    return repeated


def _say(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
