"""Find an architecture by its name."""

import difflib
from collections.abc import Callable
from typing import Any

from advjax.config import ModelConfig
from advjax.models import _resnet, _small_cnn
from advjax.models._base import Model

ZOO: dict[str, Callable[..., Model]] = {
    "resnet18": _resnet.resnet18,
    "resnet34": _resnet.resnet34,
    "resnet50": _resnet.resnet50,
    "small_cnn": _small_cnn.small_cnn,
}


def build(config: ModelConfig, num_classes: int, axis_name: str | None = None) -> Model:
    """Make the model that a config describes.

    Args:
      config: name and sizes; `stem` is for the ResNets only.
      num_classes: number of logits.
      axis_name: in training under `pmap`, the axis over which batch-norm averages.

    Returns:
      The model.

    Raises:
      ValueError: an unknown name or stem, or a size that is not positive.
    """
    if config.name not in ZOO:
        near = difflib.get_close_matches(config.name, ZOO, n=1, cutoff=0.5)
        raise ValueError(
            f"model {config.name!r} is unknown"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + f" Known: {', '.join(sorted(ZOO))}"
        )
    options: dict[str, Any] = {"mean": config.mean, "std": config.std}
    if config.name.startswith("resnet"):
        options["stem"] = config.stem
    return ZOO[config.name](num_classes, width=config.width, axis_name=axis_name, **options)
