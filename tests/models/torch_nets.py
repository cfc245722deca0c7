"""Small PyTorch modules with the layer names of torchvision and of the usual CIFAR files."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(a, b, k, s=1, p=0, **options):
    return nn.Conv2d(a, b, k, s, p, bias=options.pop("bias", False), **options)


class ResBlock(nn.Module):
    def __init__(self, inputs, features, stride, bottleneck, shortcut):
        super().__init__()
        out = features * (4 if bottleneck else 1)
        if bottleneck:
            self.conv1, self.conv2 = (
                conv(inputs, features, 1),
                conv(features, features, 3, stride, 1),
            )
            self.conv3, self.bn3 = conv(features, out, 1), nn.BatchNorm2d(out)
        else:
            self.conv1, self.conv2 = (
                conv(inputs, features, 3, stride, 1),
                conv(features, out, 3, 1, 1),
            )
        self.bn1, self.bn2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)
        self.short = None
        if stride > 1 or inputs != out:
            self.short = shortcut
            layers = nn.Sequential(conv(inputs, out, 1, stride), nn.BatchNorm2d(out))
            self.add_module(shortcut, layers)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (x if self.short is None else getattr(self, self.short)(x)))


class ResNet(nn.Module):
    def __init__(self, depths, width, classes, channels=3, bottleneck=False, cifar=False):
        super().__init__()
        self.conv1 = conv(channels, width, 3, 1, 1) if cifar else conv(channels, width, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.cifar, inputs = cifar, width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                features = width * 2**stage
                stride = 2 if stage and not i else 1
                name = "shortcut" if cifar else "downsample"
                blocks.append(ResBlock(inputs, features, stride, bottleneck, name))
                inputs = features * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.add_module("linear" if cifar else "fc", nn.Linear(inputs, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = x if self.cifar else F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return self.linear(x) if self.cifar else self.fc(x)


STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
          (6, 160, 3, 2), (6, 320, 1, 1)]  # fmt: skip


def divisible(value):
    new = max(8, int(value + 4) // 8 * 8)
    return new + 8 if new < 0.9 * value else new


class MobileBlock(nn.Module):
    """torchvision's."""

    def __init__(self, inputs, features, stride, t):
        super().__init__()
        inner = inputs * t

        def unit(a, b, k, s, **options):
            layers = conv(a, b, k, s, k // 2, **options), nn.BatchNorm2d(b), nn.ReLU6()
            return nn.Sequential(*layers)

        layers = [unit(inputs, inner, 1, 1)] if t > 1 else []
        layers += [unit(inner, inner, 3, stride, groups=inner)]
        self.conv = nn.Sequential(*layers, conv(inner, features, 1), nn.BatchNorm2d(features))
        self.add = stride == 1 and inputs == features

    def forward(self, x):
        return x + self.conv(x) if self.add else self.conv(x)


class MobileNet(nn.Module):
    def __init__(self, mult, classes, channels=3):
        super().__init__()
        inputs = divisible(32 * mult)
        stem = nn.Sequential(conv(channels, inputs, 3, 2, 1), nn.BatchNorm2d(inputs), nn.ReLU6())
        layers = [stem]
        for t, c, n, s in STAGES:
            for i in range(n):
                out = divisible(c * mult)
                layers.append(MobileBlock(inputs, out, s if i == 0 else 1, t))
                inputs = out
        last = divisible(1280 * max(1, mult))
        layers.append(nn.Sequential(conv(inputs, last, 1), nn.BatchNorm2d(last), nn.ReLU6()))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class CifarMobileBlock(nn.Module):
    def __init__(self, inputs, out, t, stride):
        super().__init__()
        inner, self.stride = t * inputs, stride
        self.conv1, self.bn1 = conv(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride, 1, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv(inner, out, 1), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride == 1 and inputs != out:
            self.shortcut = nn.Sequential(conv(inputs, out, 1), nn.BatchNorm2d(out))

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return y + self.shortcut(x) if self.stride == 1 else y


class CifarMobileNet(nn.Module):
    def __init__(self, mult, classes):
        super().__init__()
        inputs = divisible(32 * mult)
        self.conv1, self.bn1 = conv(3, inputs, 3, 1, 1), nn.BatchNorm2d(inputs)
        layers = []
        for stage, (t, c, n, s) in enumerate(STAGES):
            for i in range(n):
                out = divisible(c * mult)
                layers.append(CifarMobileBlock(inputs, out, t, s if i == 0 and stage > 1 else 1))
                inputs = out
        self.layers = nn.Sequential(*layers)
        self.conv2, self.bn2 = conv(inputs, 1280, 1), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, classes)

    def forward(self, x):
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth, names, newest_first):
        super().__init__()
        self.names, self.newest_first = names, newest_first
        sizes = (inputs, 4 * growth)
        for i, (name, kernel) in enumerate(zip(names, (1, 3), strict=True)):
            self.add_module(name[0], nn.BatchNorm2d(sizes[i]))
            out = (4 * growth, growth)[i]
            self.add_module(name[1], conv(sizes[i], out, kernel, 1, kernel // 2))

    def forward(self, x):
        y = x
        for norm, layer in self.names:
            y = getattr(self, layer)(F.relu(getattr(self, norm)(y)))
        return torch.cat([y, x] if self.newest_first else [x, y], 1)


class DenseNet(nn.Module):
    """torchvision's, and with `wrapped` as the public CheXNet has it."""

    def __init__(self, depths, width, classes, wrapped=False):
        super().__init__()
        f = nn.Sequential()
        f.add_module("conv0", conv(3, width, 7, 2, 3))
        f.add_module("norm0", nn.BatchNorm2d(width))
        f.add_module("relu0", nn.ReLU())
        f.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for b, depth in enumerate(depths, 1):
            block = nn.Sequential()
            for i in range(1, depth + 1):
                names = (("norm1", "conv1"), ("norm2", "conv2"))
                layer = DenseLayer(width, self.growth(f), names, False)
                block.add_module(f"denselayer{i}", layer)
                width += self.growth(f)
            f.add_module(f"denseblock{b}", block)
            if b < len(depths):
                step = nn.Sequential()
                step.add_module("norm", nn.BatchNorm2d(width))
                step.add_module("relu", nn.ReLU())
                width //= 2
                step.add_module("conv", conv(2 * width, width, 1))
                step.add_module("pool", nn.AvgPool2d(2, 2))
                f.add_module(f"transition{b}", step)
        f.add_module("norm5", nn.BatchNorm2d(width))
        self.features = f
        head = nn.Linear(width, classes)
        self.classifier = nn.Sequential(head) if wrapped else head

    @staticmethod
    def growth(features):
        return features.conv0.out_channels // 2

    def forward(self, x):
        return self.classifier(F.relu(self.features(x)).mean((2, 3)))


class Transition(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), conv(inputs, inputs // 2, 1)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class CifarDenseNet(nn.Module):
    def __init__(self, depths, width, classes):
        super().__init__()
        growth, names = width // 2, (("bn1", "conv1"), ("bn2", "conv2"))
        self.conv1 = conv(3, width, 3, 1, 1)
        for b, depth in enumerate(depths, 1):
            layers = []
            for _ in range(depth):
                layers.append(DenseLayer(width, growth, names, True))
                width += growth
            self.add_module(f"dense{b}", nn.Sequential(*layers))
            if b < len(depths):
                self.add_module(f"trans{b}", Transition(width))
                width //= 2
        self.bn, self.linear = nn.BatchNorm2d(width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.dense4(self.trans3(self.dense3(self.trans2(self.dense2(x)))))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


class VGG(nn.Module):
    def __init__(self, width, classes, cifar):
        super().__init__()
        layers, inputs = [], 3
        for factor, depth in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
            for _ in range(depth):
                out = factor * width
                layers += [conv(inputs, out, 3, 1, 1, bias=True), nn.BatchNorm2d(out), nn.ReLU()]
                inputs = out
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        hidden, self.cifar = 64 * width, cifar
        self.classifier = nn.Linear(inputs, classes) if cifar else nn.Sequential(
            nn.Linear(49 * inputs, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x):
        x = self.features(x)
        x = x if self.cifar else F.adaptive_avg_pool2d(x, 7)
        return self.classifier(x.flatten(1))


class WideBlock(nn.Module):
    def __init__(self, inputs, out, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, out, 3, stride, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), conv(out, out, 3, 1, 1)
        self.equal = inputs == out
        self.convShortcut = None if self.equal else conv(inputs, out, 1, stride)

    def forward(self, x):
        y = F.relu(self.bn1(x))
        short = x if self.equal else self.convShortcut(y)
        return short + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideStage(nn.Module):
    def __init__(self, n, inputs, out, stride):
        super().__init__()
        blocks = [WideBlock(out if i else inputs, out, 1 if i else stride) for i in range(n)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, widen, base, classes):
        super().__init__()
        n, sizes = (depth - 4) // 6, [base, *(base * widen * k for k in (1, 2, 4))]
        self.conv1 = conv(3, base, 3, 1, 1)
        self.block1 = WideStage(n, sizes[0], sizes[1], 1)
        self.sub_block1 = WideStage(n, sizes[0], sizes[1], 1)  # never reached
        self.block2 = WideStage(n, sizes[1], sizes[2], 2)
        self.block3 = WideStage(n, sizes[2], sizes[3], 2)
        self.bn1, self.fc = nn.BatchNorm2d(sizes[3]), nn.Linear(sizes[3], classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class Double(nn.Module):
    def __init__(self, inputs, out, bias):
        super().__init__()
        self.double_conv = nn.Sequential(
            conv(inputs, out, 3, 1, 1, bias=bias), nn.BatchNorm2d(out), nn.ReLU(),
            conv(out, out, 3, 1, 1, bias=bias), nn.BatchNorm2d(out), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, inputs, out, bias):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), Double(inputs, out, bias))

    def forward(self, x):
        return self.maxpool_conv(x)


class Up(nn.Module):
    def __init__(self, inputs, out, bias):
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, out, 2, 2)
        self.conv = Double(inputs, out, bias)

    def forward(self, x, skip):
        x = self.up(x)
        dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skip, x], 1))


class Out(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.conv = nn.Conv2d(inputs, classes, 1)

    def forward(self, x):
        return self.conv(x)


class UNet(nn.Module):
    def __init__(self, width, classes, channels=3, bias=False):
        super().__init__()
        self.inc = Double(channels, width, bias)
        for i in range(1, 5):
            self.add_module(f"down{i}", Down(width * 2 ** (i - 1), width * 2**i, bias))
            self.add_module(f"up{i}", Up(width * 2 ** (5 - i), width * 2 ** (4 - i), bias))
        self.outc = Out(width, classes)

    def forward(self, x):
        skips = [self.inc(x)]
        for i in range(1, 5):
            skips.append(getattr(self, f"down{i}")(skips[-1]))
        x = skips.pop()
        for i in range(1, 5):
            x = getattr(self, f"up{i}")(x, skips.pop())
        return self.outc(x)
