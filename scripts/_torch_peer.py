"""The same ResNet-18 in PyTorch with the same weights, for timings against PyTorch libraries."""

from typing import Any

import numpy as np
import torch
from torch import nn


class Block(nn.Module):
    """The basic block of `advjax.models.resnet18`."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        self.shortcut = None
        if stride != 1 or inputs != features:
            self.shortcut = nn.Conv2d(inputs, features, 1, stride, bias=False)
            self.norm_shortcut = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        short = x if self.shortcut is None else self.norm_shortcut(self.shortcut(x))
        return torch.relu(short + y)


class ResNet18(nn.Module):
    """The ResNet-18 of `advjax.models` with either stem, normalisation inside."""

    def __init__(self, num_classes: int, width: int, channels: int, stem: str = "cifar") -> None:
        super().__init__()
        size, stride = {"cifar": (3, 1), "imagenet": (7, 2)}[stem]
        self.stem = nn.Conv2d(channels, width, size, stride, size // 2, bias=False)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.norm_stem = nn.BatchNorm2d(width)
        inputs = width
        for stage in range(4):
            for index in range(2):
                features = width * 2**stage
                block = Block(inputs, features, 2 if stage and not index else 1)
                self.add_module(f"stage{stage + 1}_block{index + 1}", block)
                inputs = features
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.norm_stem(self.stem((x - 0.5) / 0.25))))
        for stage in range(4):
            for index in range(2):
                x = getattr(self, f"stage{stage + 1}_block{index + 1}")(x)
        return self.head(x.mean((2, 3)))


def from_variables(
    variables: dict[str, Any], num_classes: int, width: int, channels: int, stem: str = "cifar"
) -> Any:
    """Return the torch module in evaluation mode, frozen, with our weights."""
    return with_weights(ResNet18(num_classes, width, channels, stem), variables)


def with_weights(net: Any, variables: dict[str, Any]) -> Any:
    """Fill a module whose layers have our names; return it in evaluation mode, frozen."""
    torch.set_flush_denormal(True)
    net = net.eval()
    params, stats = variables["params"], variables["batch_stats"]
    state = {}
    for name in net.state_dict():
        *path, kind = name.split(".")
        if kind == "num_batches_tracked":
            continue
        norm = path[-1].startswith("norm")
        leaf = {
            "weight": "scale" if norm else "kernel", "bias": "bias",
            "running_mean": "mean", "running_var": "var",
        }[kind]  # fmt: skip
        node: Any = stats if kind.startswith("running") else params
        for part in path:
            node = node[part]
        value = np.asarray(node[leaf])
        if leaf == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        state[name] = torch.tensor(value)
    net.load_state_dict(state, strict=False)
    return net.requires_grad_(False)
