"""Architectures, their sizes, and what they say of bad input."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax import config, models
from advjax.models import _base

from . import zoo

PLAIN = ("resnet18", "resnet34", "resnet50", "small_cnn")


def count(model, *shape):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("name", "stem", "classes", "size", "parameters"),
    [  # as published with torchvision, and the usual CIFAR variant
        ("resnet18", "imagenet", 1000, 224, 11_689_512),
        ("resnet34", "imagenet", 1000, 224, 21_797_672),
        ("resnet50", "imagenet", 1000, 224, 25_557_032),
        ("resnet18", "cifar", 10, 32, 11_173_962),
    ],
)
def test_parameter_counts_are_the_published_ones(name, stem, classes, size, parameters):
    made = models.build(config.ModelConfig(name=name, stem=stem), classes)
    assert made.name == name
    assert count(made, size, size, 3) == parameters


def test_build_makes_every_architecture_with_the_config_s_sizes():
    for name in PLAIN:
        made = models.build(config.ModelConfig(name=name, width=2), 4, axis_name="batch")
        shapes = jax.eval_shape(made.init, jax.random.key(0), jnp.zeros((2, 9, 11, 5)))
        assert shapes["params"]["head"]["kernel"].shape[1] == 4
        first = shapes["params"]["stem" if "resnet" in name else "conv1"]["kernel"]
        assert first.shape == (3, 3, 5, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "resnet-18"}, "did you mean 'resnet18'.*resnet18, resnet34, resnet50, segnet"),
        ({"name": "imagenet9000"}, "'imagenet9000' is unknown.* Known: attn_vgg"),
        ({"stem": "cfar"}, "stem 'cfar' is unknown; known: cifar, imagenet"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"std": 0.0}, "std must be positive"),
    ],
)
def test_bad_configs_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        models.build(dataclasses.replace(config.ModelConfig(), **change), 3)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        models.build(config.ModelConfig(), 0)


@pytest.mark.parametrize(
    ("name", "x", "words"),
    [
        ("resnet18", np.zeros((2, 8, 8), np.float32), r"add the channel axis"),
        ("resnet18", np.zeros((2, 8, 8, 1), np.uint8), "divide uint8 by 255"),
        ("small_cnn", np.zeros((2, 7, 8, 1), np.float32), "7x8 are too small.*8x8"),
    ],
)
def test_bad_images_are_named(name, x, words):
    model = models.build(config.ModelConfig(name=name, width=2), 3)
    with pytest.raises(ValueError, match=words):
        model.init(jax.random.key(0), jnp.asarray(x))
    good = models.random_variables(model, 0, jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match=words):
        model.apply(good, jnp.asarray(x))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name in PLAIN for size in [(8, 8), (9, 13)]]
    + [("resnet18", (1, 3)), ("resnet50", (3, 1))],
)
def test_any_size_and_channels(name, size):
    for stem in ("cifar", "imagenet"):
        model = models.build(config.ModelConfig(name=name, width=2, stem=stem), 2)
        shapes = jax.eval_shape(
            lambda x, m=model: m.apply(m.init(jax.random.key(0), x), x), jnp.zeros((3, *size, 4))
        )
        assert shapes.shape == (3, 2)


def test_normalisation_is_inside():
    x = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 3)), jnp.float32)
    plain = models.small_cnn(2, width=2, mean=0, std=1)
    by_channel = models.small_cnn(2, width=2, mean=(0.1, 0.2, 0.3), std=np.asarray([1, 2, 4.0]))
    variables = models.random_variables(plain, 0, x)
    np.testing.assert_allclose(
        by_channel.apply(variables, x),
        plain.apply(variables, (x - jnp.array([0.1, 0.2, 0.3])) / jnp.array([1, 2, 4.0])),
        rtol=1e-5,
        atol=1e-6,
    )


def test_start_is_he_normal():
    model = models.resnet18(5, width=16)
    variables = model.init(jax.random.PRNGKey(0), jnp.zeros((1, 16, 16, 3)))  # a raw key
    params = variables["params"]
    block = params["stage4_block2"]
    kernel = np.asarray(block["conv1"]["kernel"])
    assert kernel.shape == (3, 3, 128, 128)
    assert abs(kernel.mean()) < 3 * kernel.std() / np.sqrt(kernel.size)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=0.02)
    np.testing.assert_allclose(np.asarray(params["head"]["kernel"]).std(), 128**-0.5, rtol=0.15)
    assert abs(np.corrcoef(kernel.ravel(), np.ravel(block["conv2"]["kernel"]))[0, 1]) < 0.02
    assert np.all(np.asarray(block["norm2"]["scale"]) == 1)


def test_a_layer_s_start_does_not_depend_on_the_other_layers():
    x = jnp.zeros((1, 8, 8, 3))
    small, large = (
        f(3, width=4).init(jax.random.key(7), x)["params"]["stage1_block1"]
        for f in (models.resnet18, models.resnet34)
    )
    jax.tree.map(np.testing.assert_array_equal, small, large)
    no_kernel = {"params": {"w": x}}
    assert _base.draw_kernels(jax.random.key(0), no_kernel) is no_kernel


def test_random_variables_compile_nothing_and_wake_every_layer():
    model = models.resnet18(3, width=4)
    x = jnp.zeros((1, 8, 8, 1))
    variables = models.random_variables(model, 0, x)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), variables) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes
    )
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    for path, leaf in leaves:
        value = {"scale": 1, "var": 1, "bias": 0, "mean": 0}.get(path[-1].key)
        assert bool((leaf == value).all()) if value is not None else float(leaf.std()) > 0


def resnet_by_hand():
    """A ResNet-18 in evaluation mode, from the model and from Linen's stock layers."""
    model = models.resnet18(3, width=4)
    x = jnp.asarray(np.random.default_rng(0).random((2, 9, 8, 2)), jnp.float32)
    v = models.random_variables(model, 1, x)
    params, stats = v["params"], v["batch_stats"]

    def conv(name, x, size, stride, where):
        layer = nn.Conv(where[name]["kernel"].shape[-1], (size, size), stride,
                        padding=size // 2, use_bias=False)  # fmt: skip
        return layer.apply({"params": where[name]}, x)

    def norm(name, x, where, moved):
        layer = nn.BatchNorm(use_running_average=True)
        return layer.apply({"params": where[name], "batch_stats": moved[name]}, x)

    y = nn.relu(norm("norm_stem", conv("stem", (x - 0.5) / 0.25, 3, 1, params), params, stats))
    for stage in range(1, 5):
        for block in (1, 2):
            name = f"stage{stage}_block{block}"
            p, s = params[name], stats[name]
            stride = 2 if stage > 1 and block == 1 else 1
            z = nn.relu(norm("norm1", conv("conv1", y, 3, stride, p), p, s))
            z = norm("norm2", conv("conv2", z, 3, 1, p), p, s)
            if "shortcut" in p:
                y = norm("norm_shortcut", conv("shortcut", y, 1, stride, p), p, s)
            y = nn.relu(y + z)
    want = y.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
    return model.apply(v, x), want


def test_the_zoo_agrees_with_linen_s_own_layers():
    got, want = jax.jit(resnet_by_hand)()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_modes_are_found_by_the_names_of_arguments():
    def both(x, train, use_running_average=None):
        return x, train, use_running_average

    assert models.detect_mode(both)(True) == {"train": True, "use_running_average": False}
    assert models.detect_mode(lambda x: x)(False) == {}

    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x, phase):
            return nn.Dense(zoo.CLASSES)(x.mean((1, 2))) * (2.0 if phase == "fit" else 1.0)

    model = models.from_linen(Odd(), mode=lambda train: {"phase": "fit" if train else "test"})
    x = jnp.ones((2, 4, 4, 1))
    v = model.init(jax.random.key(0), x)
    logits, updates = model.apply(v, x, train=True)
    np.testing.assert_array_equal(logits, 2 * model.apply(v, x))
    assert updates == {}
    assert model.name == "Odd"


def test_adapters_name_what_is_missing():
    model = models.from_fn(lambda v, x: x, name="bare")
    with pytest.raises(ValueError, match="'bare' has no start"):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    with pytest.raises(ValueError, match=r"expected an nnx.Module .* got str"):
        models.from_nnx(lambda rngs: "no module")
    net = models.from_nnx(zoo.NnxNet(nnx.Rngs(0)))
    x = jnp.zeros((1, 4, 4, 2))
    with pytest.raises(ValueError, match=r"rngs=\{'dropout': key\}"):
        net.apply(net.init(jax.random.key(0), x), x, train=True)


def test_from_nnx_keeps_the_module_and_its_other_variables():
    class Count(nnx.Variable):
        pass

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.head = nnx.Linear(2, zoo.CLASSES, rngs=rngs)
            self.calls = Count(jnp.zeros(()))

        def __call__(self, x):
            self.calls.set_value(self.calls.get_value() + 1)
            return self.head(x.mean((1, 2)))

    net = Net(nnx.Rngs(0))
    model = models.from_nnx(net)
    x = jnp.ones((2, 3, 3, 2))
    v = model.init(jax.random.key(0), x)
    np.testing.assert_array_equal(jax.jit(model.apply)(v, x), net.head(x.mean((1, 2))))
    apply = jax.jit(functools.partial(model.apply, train=True))
    for _ in range(2):
        v = v | apply(v, x)[1]
    assert jax.tree.leaves(v["other"]) == [2.0]
    assert float(net.calls.get_value()) == 0
