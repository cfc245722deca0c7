"""The other model that some methods look at: HAT's helper, the teacher of distillation."""

import dataclasses
from pathlib import Path

from advjax.config import TrainConfig
from advjax.data import Dataset
from advjax.training import _run
from advjax.training._restore import restore_model
from advjax.training.methods import HELPED, Context, Helper

_FOLDER = "helper"
_TEACHER = 20.0


def needs_training(config: TrainConfig) -> bool:
    """Whether the other model has to be trained first."""
    return config.method in HELPED and config.helper is None


def helper_config(config: TrainConfig) -> TrainConfig:
    """Return the config of the other model: standard training of the same network, in OUT/helper.

    The teacher of distillation is trained at the temperature of the student.
    """
    temperature = None
    if config.method == "distillation":
        temperature = _TEACHER if config.temperature is None else config.temperature
    return dataclasses.replace(
        config, out=str(Path(config.out) / _FOLDER), method="standard", temperature=temperature,
        awp=0.0, select_by="clean", val_examples=0,
    )  # fmt: skip


def make_context(config: TrainConfig, dataset: Dataset) -> Context:
    """Return what the method of a config may have to know.

    Raises:
      FileNotFoundError: `config.helper` is no run, or has no checkpoint yet.
      ValueError: it was trained on images or classes of another kind.
    """
    shape = tuple(int(n) for n in dataset.image_shape)
    if config.method not in HELPED:
        return Context(shape)
    folder = config.helper or helper_config(config).out
    info = _run.read_header(folder)["dataset"]
    wanted = {"task": dataset.task, "num_classes": int(dataset.num_classes),
              "image_shape": list(shape)}  # fmt: skip
    for name, value in wanted.items():
        if info[name] != value:
            raise ValueError(
                f"helper: {folder} was trained on data with {name} {info[name]}, not {value}; name "
                "a run on the same kind of data, or leave helper out to train one"
            )
    model, variables, _, _ = restore_model(folder)
    return Context(shape, Helper(model.apply, variables))
