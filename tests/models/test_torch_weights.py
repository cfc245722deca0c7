"""What a checkpoint of PyTorch may look like, and what is said of one that does not fit."""

import jax
import numpy as np
import pytest

from advjax import models
from advjax.models._safetensors import read_safetensors

from .torch_files import state_of, write


@pytest.fixture(scope="module")
def wide():
    return state_of("wrn28_10", {"depth": 10, "widen": 2, "width": 16})[0]


def pick(tree, path):
    for part in path.split("/"):
        tree = tree[part]
    return np.asarray(tree)


# As the published files have them, from their documentation and from the sources of the modules.
NAMES = {
    ("resnet50", 0): ["conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight",
                      "layer1.0.downsample.1.running_var", "layer4.2.conv3.weight",
                      "layer3.5.bn2.bias", "fc.bias"],
    ("resnet18", 1): ["layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.bias", "linear.weight"],
    ("mobilenet_v2", 0): ["features.0.0.weight", "features.1.conv.0.0.weight",
                          "features.1.conv.1.weight", "features.1.conv.2.running_mean",
                          "features.2.conv.0.0.weight", "features.2.conv.1.1.bias",
                          "features.17.conv.2.weight", "features.17.conv.3.bias",
                          "features.18.1.running_var", "classifier.1.weight"],
    ("mobilenet_v2", 1): ["layers.0.conv1.weight", "layers.0.shortcut.1.bias",
                          "layers.16.bn3.running_mean", "bn2.weight", "linear.bias"],
    ("densenet121", 0): ["features.conv0.weight", "features.norm0.bias",
                         "features.denseblock1.denselayer1.norm1.weight",
                         "features.denseblock4.denselayer16.conv2.weight",
                         "features.transition3.conv.weight", "features.norm5.running_mean",
                         "classifier.weight"],
    ("densenet121", 1): ["dense3.23.bn2.weight", "trans1.bn.bias", "bn.running_var",
                         "linear.weight"],
    ("vgg16_bn", 0): ["features.0.bias", "features.1.running_mean", "features.41.running_var",
                      "features.40.weight", "classifier.0.weight", "classifier.3.bias",
                      "classifier.6.weight"],
    ("vgg16_bn", 1): ["features.24.weight", "classifier.weight"],
    ("wrn28_10", 0): ["block1.layer.0.convShortcut.weight", "block3.layer.3.bn2.bias",
                      "bn1.running_mean", "fc.weight"],
    ("unet", 0): ["inc.double_conv.0.weight", "down4.maxpool_conv.1.double_conv.4.running_var",
                  "up1.up.weight", "up4.conv.double_conv.3.weight", "outc.conv.bias"],
    ("inception_v3", 0): ["Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch5x5_2.bn.weight",
                          "Mixed_7c.branch3x3dbl_3b.conv.weight", "AuxLogits.conv1.conv.weight",
                          "AuxLogits.fc.bias", "fc.weight"],
}  # fmt: skip
# tensors of a state dict, without `num_batches_tracked`
COUNTS = {
    ("resnet50", 0): 267, ("resnet18", 1): 102, ("mobilenet_v2", 0): 262, ("densenet121", 0): 606,
    ("vgg16_bn", 0): 84, ("inception_v3", 0): 484,
}  # fmt: skip


@pytest.mark.sample(1)
@pytest.mark.parametrize("key", NAMES, ids=lambda key: f"{key[0]}-{key[1]}")
def test_names_are_the_published_ones_and_sizes_follow_from_shapes(key):
    name, number = key
    stems = {"stem": ("imagenet", "cifar")[number]} if name not in ("wrn28_10", "unet") else {}
    width = 32 if name == "mobilenet_v2" else 8  # narrower ones are rounded to the same
    state, shapes = state_of(name, {"width": width, **stems}, number)
    assert set(NAMES[key]) <= set(state)
    assert len(state) == COUNTS.get(key, len(state))
    model, variables = models.load_torch(name, state)
    assert model.name == name
    assert jax.tree.map(lambda a: a.shape, variables) == jax.tree.map(lambda a: a.shape, shapes)


def test_values_arrive_where_they_belong(wide):
    variables = models.load_torch("wrn28_10", wide)[1]
    kernel = pick(variables, "params/stage2_block1/shortcut/kernel")
    torch_kernel = wide["block2.layer.0.convShortcut.weight"]
    np.testing.assert_array_equal(kernel[0, 0], torch_kernel[:, :, 0, 0].T)
    np.testing.assert_array_equal(
        pick(variables, "batch_stats/norm_last/var"), wide["bn1.running_var"]
    )
    np.testing.assert_array_equal(pick(variables, "params/head/kernel"), wide["fc.weight"].T)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"net": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"model.backbone.{k}": v for k, v in s.items()},
        lambda s: s | {"bn1.num_batches_tracked": 7, "sub_block1.layer.0.bn1.bias": [1.0]},
        lambda s: {k: v.astype(np.float64) for k, v in s.items()},
    ],
)  # fmt: skip
def test_wrappers_and_prefixes_are_seen_through(wide, wrap):
    want = models.load_torch("wrn28_10", wide)[1]
    got = models.load_torch("wrn28_10", wrap(wide))[1]
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.slow
def test_old_names_of_chexnet():
    state = state_of("densenet121", {"width": 4, "stem": "imagenet"}, classes=14)[0]
    want = models.load_torch("densenet121", state)[1]
    old = {}
    for key, value in state.items():
        for kind in ("norm", "conv"):
            for i in "12":
                if "denselayer" in key:
                    key = key.replace(f".{kind}{i}.", f".{kind}.{i}.")
        old[f"module.densenet121.{key.replace('classifier.', 'classifier.0.')}"] = value
    assert "module.densenet121.features.denseblock1.denselayer1.norm.1.weight" in old
    got = models.load_torch("densenet121", {"state_dict": old})[1]
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert got["params"]["head"]["bias"].shape == (14,)


def test_biases_before_batch_norm_move_its_mean():
    state = state_of("unet", {"width": 2})[0]
    want = models.load_torch("unet", state)[1]
    bias = np.arange(4, dtype=np.float32)
    got = models.load_torch("unet", state | {"down1.maxpool_conv.1.double_conv.3.bias": bias})[1]
    moved = pick(got, "batch_stats/down1/norm2/mean")
    np.testing.assert_allclose(moved, pick(want, "batch_stats/down1/norm2/mean") - bias, rtol=1e-6)


def renamed(state, old, new):
    return {k.replace(old, new): v for k, v in state.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "bn1.bias"}, r"missing 1: bn1\.bias$"),
        (lambda s: s | {"extra.weight": [1.0]}, r"unexpected 1: extra\.weight$"),
        (
            lambda s: s | {"block2.layer.0.conv1.weight": np.zeros((3, 5, 3, 3))},
            r"another shape 1: block2\.layer\.0\.conv1\.weight is 3x5x3x3, expected 16x8x3x3$",
        ),
        (
            lambda s: renamed(s, "block3.", "stage3."),
            r"depth 10, widen 2, width 16\); missing 11: block3.* 6 more; unexpected 11: stage3",
        ),
        (
            lambda s: renamed(s, "conv1.", "first."),
            r"no weights of wrn28_10: it has conv1\.weight and fc\.weight \(CIFAR\); there are .*",
        ),
        (lambda s: s | {"fc.bias": np.full(4, np.nan)}, r"fc\.bias hold numbers that are not fini"),
        (lambda s: s | {"fc.bias": "text"}, r"'fc\.bias' is no array but a str"),
        (lambda s: {}, "expected a mapping of names to arrays"),
        (lambda s: [1, 2], "expected a mapping of names to arrays, got list"),
    ],
)
def test_weights_of_another_network_are_named(wide, change, words):
    with pytest.raises(ValueError, match=words):
        models.load_torch("wrn28_10", change(wide))


def test_other_things_that_cannot_be(wide, tmp_path):
    with pytest.raises(ValueError, match=r"fc\.weight gives 4 outputs, expected 7"):
        models.load_torch("wrn28_10", wide, num_classes=7)
    with pytest.raises(ValueError, match=r"conv1\.weight sees 3 channels, expected 1"):
        models.load_torch("wrn28_10", wide, channels=1)
    with pytest.raises(ValueError, match="no PyTorch names are known for 'small_cnn'"):
        models.load_torch("small_cnn", wide)
    with pytest.raises(ValueError, match="did you mean 'wrn28_10'"):
        models.load_torch("wrn28-10", wide)
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        models.load_torch("wrn28_10", tmp_path / "nothing.safetensors")
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected \.safetensors, \.pt"):
        models.load_torch("wrn28_10", tmp_path / "net.onnx")


# --- safetensors


def test_safetensors_of_every_kind(tmp_path):
    values = np.array([[1.5, -2.0, 0.25], [3.0, 0.0, -0.125]], np.float32)
    brain = (values.view(np.uint32) >> 16).astype(np.uint16)
    arrays = {
        "a": values, "b": values.astype(np.float16), "c": values.astype(np.float64), "d": brain,
        "e": np.array(7, np.int64),
    }  # fmt: skip
    found = read_safetensors(write(tmp_path / "x.safetensors", arrays, __metadata__={"k": "v"}))
    assert set(found) == set(arrays)
    for name in "abcd":
        np.testing.assert_array_equal(found[name], values)
    assert found["d"].dtype == np.float32
    assert found["e"].shape == ()
    assert found["e"] == 7


def test_a_model_from_safetensors(wide, tmp_path):
    path = write(tmp_path / "net.safetensors", wide)
    got, want = (models.load_torch("wrn28_10", source)[1] for source in (str(path), wide))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda b: b[:5], "no safetensors file"),
        (lambda b: b[:20], "cut off in its header"),
        (lambda b: b[:-4], r"damaged safetensors file \(bytes 0 to 24 of 20\)"),
        (lambda b: b.replace(b'"F32"', b'"F8 "'), "numbers of type F8"),
        (lambda b: b.replace(b"[2, 3]", b"[2, 4]"), "damaged safetensors file"),
        (lambda b: b.replace(b'{"a"', b'["a"'), "damaged safetensors file"),
    ],
)
def test_damaged_safetensors_are_named(tmp_path, damage, words):
    path = write(tmp_path / "x.safetensors", {"a": np.ones((2, 3), np.float32)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=words):
        read_safetensors(path)
