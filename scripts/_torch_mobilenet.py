"""The same MobileNetV2 in PyTorch under our names, for timings against PyTorch libraries."""

import torch
from torch import nn

from advjax.models import _mobilenet


class Inverted(nn.Module):
    """The block of `advjax.models.mobilenet_v2`, of either kind."""

    def __init__(self, inputs: int, features: int, stride: int, expansion: int, cifar: bool):
        super().__init__()
        inner = expansion * inputs
        self.act = nn.ReLU() if cifar else nn.ReLU6()
        self.widens, self.stride = expansion > 1 or cifar, stride
        if self.widens:
            self.expand = nn.Conv2d(inputs, inner, 1, bias=False)
            self.norm_expand = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.norm_depthwise = nn.BatchNorm2d(inner)
        self.project = nn.Conv2d(inner, features, 1, bias=False)
        self.norm_project = nn.BatchNorm2d(features)
        self.same, self.around = inputs == features, cifar and inputs != features and stride == 1
        if self.around:
            self.shortcut = nn.Conv2d(inputs, features, 1, bias=False)
            self.norm_shortcut = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.norm_expand(self.expand(x))) if self.widens else x
        y = self.act(self.norm_depthwise(self.depthwise(y)))
        y = self.norm_project(self.project(y))
        if self.around:
            return y + self.norm_shortcut(self.shortcut(x))
        return x + y if self.same and self.stride == 1 else y


class MobileNetV2(nn.Module):
    """The MobileNetV2 of `advjax.models` with either stem, normalisation inside."""

    def __init__(self, num_classes: int, width: int, channels: int, stem: str = "cifar") -> None:
        super().__init__()
        cifar, inputs = stem == "cifar", _mobilenet.channels(32, width)
        self.act = nn.ReLU() if cifar else nn.ReLU6()
        self.stem = nn.Conv2d(channels, inputs, 3, 1 if cifar else 2, 1, bias=False)
        self.norm_stem = nn.BatchNorm2d(inputs)
        self.blocks = []
        for stage, (expansion, count, depth, stride) in enumerate(_mobilenet.STAGES, 1):
            features = _mobilenet.channels(count, width)
            for index in range(depth):
                step = 1 if index or (cifar and stage < 3) else stride
                self.blocks.append(f"stage{stage}_block{index + 1}")
                block = Inverted(inputs, features, step, expansion, cifar)
                self.add_module(self.blocks[-1], block)
                inputs = features
        last = _mobilenet.channels(1280, max(width, 64))
        self.last = nn.Conv2d(inputs, last, 1, bias=False)
        self.norm_last = nn.BatchNorm2d(last)
        self.head = nn.Linear(last, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm_stem(self.stem((x - 0.5) / 0.25)))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.head(self.act(self.norm_last(self.last(x))).mean((2, 3)))
