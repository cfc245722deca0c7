"""Weights of PyTorch modules, random as they are, make the same function and the same gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import models
from advjax.models import _densenet, _torch_layouts

torch = pytest.importorskip("torch", reason="PyTorch is in the bench extra")

# they import PyTorch
from . import torch_inception, torch_nets  # noqa: E402

DEPTHS = (2, 1, 2, 1)


@pytest.fixture(autouse=True)
def small_densenets(monkeypatch):
    """The names of four blocks, without 121 layers to compile."""

    def make(num_classes, *, width, stem, mean, std, axis_name=None):
        return _densenet.densenet(num_classes, DEPTHS, width, stem, mean, std, axis_name)

    monkeypatch.setitem(models.ZOO, "densenet121", make)


# name of ours, module, size of the images, what the shapes say
CASES = {
    "resnet18": ("resnet18", lambda: torch_nets.ResNet((2, 2, 2, 2), 8, 5), (37, 33)),
    "resnet18-cifar": (
        "resnet18", lambda: torch_nets.ResNet((2, 2, 2, 2), 8, 5, cifar=True), (16, 16),
    ),
    "resnet34-grey": (
        "resnet34", lambda: torch_nets.ResNet((3, 4, 6, 3), 4, 2, channels=1), (40, 40),
    ),
    "resnet50": (
        "resnet50", lambda: torch_nets.ResNet((3, 4, 6, 3), 4, 5, bottleneck=True), (32, 38),
    ),
    "resnet50-cifar": (
        "resnet50", lambda: torch_nets.ResNet((3, 4, 6, 3), 4, 5, bottleneck=True, cifar=True),
        (8, 8),
    ),
    "mobilenet_v2": ("mobilenet_v2", lambda: torch_nets.MobileNet(0.25, 5), (37, 33)),
    "mobilenet_v2-cifar": ("mobilenet_v2", lambda: torch_nets.CifarMobileNet(0.25, 5), (16, 16)),
    "densenet121": ("densenet121", lambda: torch_nets.DenseNet(DEPTHS, 8, 5), (65, 50)),
    "densenet121-chexnet": (
        "densenet121", lambda: torch_nets.DenseNet(DEPTHS, 8, 14, wrapped=True), (64, 64),
    ),
    "densenet121-cifar": (
        "densenet121", lambda: torch_nets.CifarDenseNet(DEPTHS, 8, 5), (17, 16),
    ),
    "vgg16_bn": ("vgg16_bn", lambda: torch_nets.VGG(4, 5, cifar=False), (70, 45)),
    "vgg16_bn-cifar": ("vgg16_bn", lambda: torch_nets.VGG(4, 5, cifar=True), (32, 32)),
    "wrn28_10": ("wrn28_10", lambda: torch_nets.WideResNet(16, 3, 4, 5), (13, 16)),
    "unet": ("unet", lambda: torch_nets.UNet(4, 3), (45, 38)),
    "unet-biases": ("unet", lambda: torch_nets.UNet(4, 1, channels=1, bias=True), (32, 35)),
    "inception_v3": ("inception_v3", lambda: torch_inception.Inception(4, 5), (80, 75)),
}  # fmt: skip


def random_module(make, seed=0):
    """A module in evaluation mode whose running statistics are random too."""
    torch.manual_seed(seed)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):  # signals that neither vanish nor grow
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    return net


@functools.cache
def torch_side(case):
    """Images, logits, and the gradient of a weighted sum of them."""
    _, make, size = CASES[case]
    net = random_module(make)
    channels = next(iter(net.parameters())).shape[1]
    x = np.random.default_rng(1).random((2, *size, channels)).astype(np.float32)
    images = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    logits = net(images)
    weigh(logits, torch).backward()
    back = (0, 2, 3, 1)
    output = logits.detach().numpy()
    output = output.transpose(back) if output.ndim == 4 else output
    return net, x, output, images.grad.numpy().transpose(back)


def weigh(logits, np_like):
    """A sum in which every class counts differently."""
    axis = 1 if np_like is torch else -1
    parts = np_like.split(logits, 1, axis) if np_like is torch else jnp.split(
        logits, logits.shape[-1], -1
    )  # fmt: skip
    return sum((k + 1) * part.sum() for k, part in enumerate(parts))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_torch(case):
    net, x, logits, gradient = torch_side(case)
    model, variables = models.load_torch(CASES[case][0], net.state_dict())

    @jax.jit
    def both(variables, x):
        output, pull = jax.vjp(lambda x: model.apply(variables, x), x)
        weights = jnp.broadcast_to(jnp.arange(1.0, output.shape[-1] + 1), output.shape)
        return output, pull(weights)[0]

    got, g = both(variables, jnp.asarray(x))
    np.testing.assert_allclose(got, logits, atol=1e-4 * max(1, np.abs(logits).max()), rtol=0)
    np.testing.assert_allclose(g, gradient, atol=1e-3 * np.abs(gradient).max(), rtol=0)
    assert np.abs(logits).max() > 0.01
    assert np.abs(gradient).max() > 1e-5


def test_normalisation_is_that_of_the_pipeline():
    """The images that a module was fed are normalised inside."""
    net, x, *_ = torch_side("wrn28_10")
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    model, variables = models.load_torch("wrn28_10", net.state_dict(), mean=mean, std=std)
    with torch.no_grad():
        want = net(torch.tensor(((x - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32))
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x), want, atol=1e-4)


def test_the_auxiliary_head_of_inception():
    net = random_module(lambda: torch_inception.Inception(4, 5, aux=False))
    model, variables = models.load_torch("inception_v3", net.state_dict())
    assert "AuxLogits" not in variables["params"]
    del model


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_files_of_torch(tmp_path, suffix):
    net, *_ = torch_side("wrn28_10")
    path = tmp_path / f"net{suffix}"
    wrapped = {f"module.{k}": v for k, v in net.state_dict().items()}
    torch.save({"net": wrapped, "epoch": 3, "acc": 91.5}, path)
    want = models.load_torch("wrn28_10", net.state_dict())[1]
    got = models.load_torch("wrn28_10", path)[1]
    jax.tree.map(np.testing.assert_array_equal, got, want)
    torch.save(net, path)
    with pytest.raises(ValueError, match="holds more than weights"):
        models.load_torch("wrn28_10", str(path))


def test_half_precision_is_read():
    net, *_ = torch_side("wrn28_10")
    want = models.load_torch("wrn28_10", net.state_dict())[1]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        state = {k: v.to(dtype) for k, v in net.state_dict().items()}
        got = models.load_torch("wrn28_10", state)[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01, atol=1e-3), got, want)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {"float32"}


def test_every_layout_is_compared():
    told = {CASES[case][0] for case in CASES}
    assert told == set(_torch_layouts.LAYOUTS)
