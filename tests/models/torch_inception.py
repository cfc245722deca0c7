"""Inception-v3 in PyTorch with torchvision's layer names, of any width."""

import torch
import torch.nn.functional as F
from torch import nn


class Basic(nn.Module):
    def __init__(self, inputs, out, **options):
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, bias=False, **options)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


ROW, COLUMN = {"kernel_size": (1, 7), "padding": (0, 3)}, {"kernel_size": (7, 1), "padding": (3, 0)}
WIDE, HIGH = {"kernel_size": (1, 3), "padding": (0, 1)}, {"kernel_size": (3, 1), "padding": (1, 0)}
ONE, THREE, FIVE = {"kernel_size": 1}, {"kernel_size": 3, "padding": 1}, {"kernel_size": 5,
                                                                         "padding": 2}  # fmt: skip
HALF = {"kernel_size": 3, "stride": 2}


class Mixed(nn.Module):
    def __init__(self, inputs, scale):
        super().__init__()
        self.inputs, self.scale = inputs, scale

    def chain(self, inputs, *layers):
        for name, count, options in layers:
            self.add_module(name, Basic(inputs, self.scale(count), **options))
            inputs = self.scale(count)

    def run(self, x, *names):
        for name in names:
            x = getattr(self, name)(x)
        return x


class A(Mixed):
    def __init__(self, inputs, pool, scale):
        super().__init__(inputs, scale)
        self.chain(inputs, ("branch1x1", 64, ONE))
        self.chain(inputs, ("branch5x5_1", 48, ONE), ("branch5x5_2", 64, FIVE))
        self.chain(inputs, ("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE),
                   ("branch3x3dbl_3", 96, THREE))  # fmt: skip
        self.chain(inputs, ("branch_pool", pool, ONE))

    def forward(self, x):
        return torch.cat([
            self.branch1x1(x), self.run(x, "branch5x5_1", "branch5x5_2"),
            self.run(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            self.branch_pool(F.avg_pool2d(x, 3, 1, 1)),
        ], 1)  # fmt: skip


class B(Mixed):
    def __init__(self, inputs, scale):
        super().__init__(inputs, scale)
        self.chain(inputs, ("branch3x3", 384, HALF))
        self.chain(inputs, ("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE),
                   ("branch3x3dbl_3", 96, HALF))  # fmt: skip

    def forward(self, x):
        double = self.run(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class C(Mixed):
    def __init__(self, inputs, c7, scale):
        super().__init__(inputs, scale)
        self.chain(inputs, ("branch1x1", 192, ONE))
        self.chain(inputs, ("branch7x7_1", c7, ONE), ("branch7x7_2", c7, ROW),
                   ("branch7x7_3", 192, COLUMN))  # fmt: skip
        self.chain(inputs, ("branch7x7dbl_1", c7, ONE), ("branch7x7dbl_2", c7, COLUMN),
                   ("branch7x7dbl_3", c7, ROW), ("branch7x7dbl_4", c7, COLUMN),
                   ("branch7x7dbl_5", 192, ROW))  # fmt: skip
        self.chain(inputs, ("branch_pool", 192, ONE))

    def forward(self, x):
        return torch.cat([
            self.branch1x1(x), self.run(x, *(f"branch7x7_{i}" for i in (1, 2, 3))),
            self.run(x, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
            self.branch_pool(F.avg_pool2d(x, 3, 1, 1)),
        ], 1)  # fmt: skip


class D(Mixed):
    def __init__(self, inputs, scale):
        super().__init__(inputs, scale)
        self.chain(inputs, ("branch3x3_1", 192, ONE), ("branch3x3_2", 320, HALF))
        self.chain(inputs, ("branch7x7x3_1", 192, ONE), ("branch7x7x3_2", 192, ROW),
                   ("branch7x7x3_3", 192, COLUMN), ("branch7x7x3_4", 192, HALF))  # fmt: skip

    def forward(self, x):
        return torch.cat([
            self.run(x, "branch3x3_1", "branch3x3_2"),
            self.run(x, *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4))), F.max_pool2d(x, 3, 2),
        ], 1)  # fmt: skip


class E(Mixed):
    def __init__(self, inputs, scale):
        super().__init__(inputs, scale)
        self.chain(inputs, ("branch1x1", 320, ONE))
        self.chain(inputs, ("branch3x3_1", 384, ONE))
        self.chain(inputs, ("branch3x3dbl_1", 448, ONE), ("branch3x3dbl_2", 384, THREE))
        for name in ("branch3x3_2", "branch3x3dbl_3"):
            self.chain(scale(384), (f"{name}a", 384, WIDE))
            self.chain(scale(384), (f"{name}b", 384, HIGH))
        self.chain(inputs, ("branch_pool", 192, ONE))

    def forward(self, x):
        single, double = self.branch3x3_1(x), self.run(x, "branch3x3dbl_1", "branch3x3dbl_2")
        return torch.cat([
            self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double),
            self.branch_pool(F.avg_pool2d(x, 3, 1, 1)),
        ], 1)  # fmt: skip


class Aux(nn.Module):
    def __init__(self, inputs, classes, scale):
        super().__init__()
        self.conv0 = Basic(inputs, scale(128), kernel_size=1)
        self.conv1 = Basic(scale(128), scale(768), kernel_size=5)
        self.fc = nn.Linear(scale(768), classes)

    def forward(self, x):
        return self.fc(self.conv1(self.conv0(F.avg_pool2d(x, 5, 3))).mean((2, 3)))


class Inception(nn.Module):
    def __init__(self, width, classes, aux=True):
        super().__init__()

        def scale(count):
            return count * width // 64

        s = scale
        self.Conv2d_1a_3x3 = Basic(3, s(32), **HALF)
        self.Conv2d_2a_3x3 = Basic(s(32), s(32), kernel_size=3)
        self.Conv2d_2b_3x3 = Basic(s(32), s(64), **THREE)
        self.Conv2d_3b_1x1 = Basic(s(64), s(80), kernel_size=1)
        self.Conv2d_4a_3x3 = Basic(s(80), s(192), kernel_size=3)
        self.Mixed_5b, self.Mixed_5c = A(s(192), 32, s), A(s(256), 64, s)
        self.Mixed_5d, self.Mixed_6a = A(s(288), 64, s), B(s(288), s)
        self.Mixed_6b, self.Mixed_6c = C(s(768), 128, s), C(s(768), 160, s)
        self.Mixed_6d, self.Mixed_6e = C(s(768), 160, s), C(s(768), 192, s)
        if aux:
            self.AuxLogits = Aux(s(768), classes, s)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = D(s(768), s), E(s(1280), s), E(s(2048), s)
        self.fc = nn.Linear(s(2048), classes)

    def middle(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        return self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))

    def forward(self, x):
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.middle(x))))
        return self.fc(x.mean((2, 3)))
