"""The fixed networks of the golden files, in jax and in torch."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN = "ADVJAX_GOLDEN_DIR"
MEAN, SCALE = 0.5, 0.25


def folder() -> Path:
    """Return the folder of the goldens, or say what it is."""
    value = os.environ.get(GOLDEN)
    if not value or not Path(value).is_dir():
        raise SystemExit(f"{GOLDEN}: set it to the folder with traces of official implementations")
    return Path(value)


def weights(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights (`w1`, `b1`, ...) of a golden file, the last pair that of the head."""
    return {name: golden[name] for name in golden if name[0] in "wb" and name[1:].isdigit()}


def forward(params: dict[str, Any], x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """Return the logits `[B, C]` of images `[B, H, W, C]`."""
    x = (x - MEAN) / SCALE
    for i, stride in enumerate(strides, 1):
        x = jax.lax.conv_general_dilated(
            x, jnp.asarray(params[f"w{i}"]), (stride, stride), ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        x = jax.nn.relu(x + params[f"b{i}"])
    head = len(strides) + 1
    return x.mean((1, 2)) @ jnp.asarray(params[f"w{head}"]) + params[f"b{head}"]


def torch_twin(params: dict[str, np.ndarray], strides: Sequence[int]) -> Any:
    """Return the same network as a frozen torch module of images `[B, C, H, W]`."""
    import torch
    from torch import nn

    torch.set_flush_denormal(True)

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            convolutions = []
            for i, stride in enumerate(strides, 1):
                w = params[f"w{i}"]
                layer = nn.Conv2d(w.shape[2], w.shape[3], w.shape[0], stride, 1)
                layer.weight.data = torch.tensor(w.transpose(3, 2, 0, 1).copy())
                layer.bias.data = torch.tensor(params[f"b{i}"])
                convolutions += [layer, nn.ReLU()]
            self.features = nn.Sequential(*convolutions)
            head = len(strides) + 1
            w = params[f"w{head}"]
            self.head = nn.Linear(*w.shape)
            self.head.weight.data = torch.tensor(w.T.copy())
            self.head.bias.data = torch.tensor(params[f"b{head}"])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features((x - MEAN) / SCALE).mean((2, 3)))

    return Twin().eval().requires_grad_(False)


def to_torch(images: Any) -> Any:
    """Return images `[B, H, W, C]` as a torch tensor `[B, C, H, W]`."""
    import torch

    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(images), -1, 1)))


def from_torch(images: Any) -> np.ndarray:
    """Return torch images `[B, C, H, W]` as an array `[B, H, W, C]`."""
    return np.moveaxis(images.detach().cpu().numpy(), 1, -1)
