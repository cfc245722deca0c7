"""The published architectures, narrow: what comes out, and what every model owes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import config, models
from advjax.models import _attn_vgg, _densenet, _layers, _mobilenet, _segnet, _unet, _vgg

from . import zoo

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.random((4, 11, 18, 2)), jnp.float32)
MASK = (4, 11, 18, zoo.CLASSES)
LOGITS = (4, zoo.CLASSES)
BOXES = {
    "heatmap": (4, 3, 5, zoo.CLASSES), "size": (4, 3, 5, 2), "offset": (4, 3, 5, 2),
}  # fmt: skip


def densenet(depths=(2, 1, 2, 1), stem="cifar"):
    return _densenet.densenet(zoo.CLASSES, depths, 12, stem, 0.5, 0.25, None)


MADE = {
    "attn_vgg": (lambda: models.attn_vgg(zoo.CLASSES, width=4), LOGITS),
    "centernet": (lambda: models.centernet(zoo.CLASSES, width=4), BOXES),
    "densenet121": (densenet, LOGITS),
    "gap_resnet": (lambda: models.gap_resnet(2, width=4, blocks=1), X.shape),
    "gap_unet": (lambda: models.gap_unet(2, width=4), X.shape),
    "mobilenet_v2": (lambda: models.mobilenet_v2(zoo.CLASSES, width=4), LOGITS),
    "segnet": (lambda: models.segnet(zoo.CLASSES, width=4), MASK),
    "unet": (lambda: models.unet(zoo.CLASSES, width=4), MASK),
    "vgg16_bn": (lambda: models.vgg16_bn(zoo.CLASSES, width=4, stem="imagenet"), LOGITS),
    "wrn28_10": (lambda: models.wide_resnet(zoo.CLASSES, depth=10, widen=2, width=16), LOGITS),
}
# Those whose training is run; of the others, which are made of the same parts, shapes are enough.
WITH_DROPOUT = ("attn_vgg", "gap_resnet", "gap_unet", "mobilenet_v2")
TRAINED = (*WITH_DROPOUT, "centernet")


@pytest.fixture
def short(monkeypatch):
    """Fewer layers of the same kinds: what takes time is to compile them."""
    monkeypatch.setattr(_mobilenet, "STAGES", ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2)))
    monkeypatch.setattr(_vgg, "LEVELS", ((1, 1), (2, 1), (4, 2), (8, 1), (8, 1)))
    monkeypatch.setattr(_segnet, "_DEPTHS", (1, 1, 2, 1, 1))
    monkeypatch.setattr(_unet, "LEVELS", 4)


@functools.cache
def made(name):
    model = MADE[name][0]()
    return model, models.random_variables(model, 1, X)


@functools.cache
def program(name):
    """Output and input gradient in evaluation mode."""
    model, _ = made(name)

    def loss(x, variables):
        output = model.apply(variables, x)
        leaves = jax.tree.leaves(output)
        return sum((a**2 * (1 + jnp.arange(a.shape[-1]))).sum() for a in leaves), output

    @jax.jit
    def both(variables, x):
        (_, output), g = jax.value_and_grad(loss, has_aux=True)(x, variables)
        return output, g

    return both


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", MADE)
def test_contract(name, short):
    model, variables = made(name)
    output, g = program(name)(variables, X)
    assert jax.tree.map(lambda a: a.shape, output) == MADE[name][1]
    chex.assert_tree_all_finite((output, g))
    assert float(jnp.abs(g).max(axis=(1, 2, 3)).min()) > 0  # every image
    # the first row alone stays: nothing leaks from the others, not even by rounding
    changed, moved = program(name)(variables, X.at[1:].set(1 - X[1:]))
    for a, b in zip(jax.tree.leaves((changed, moved)), jax.tree.leaves((output, g)), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    assert bool((moved[1:] != g[1:]).any())
    trained, updates = jax.eval_shape(functools.partial(model.apply, train=True), variables, X)
    assert jax.tree.map(lambda a: a.shape, trained) == MADE[name][1]
    chex.assert_trees_all_equal_shapes_and_dtypes(variables | updates, variables)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", TRAINED)
def test_training_moves_every_statistic_and_drops_by_its_key(name, short):
    model, variables = made(name)
    apply = jax.jit(lambda key: model.apply(variables, X, train=True, rngs={"dropout": key}))
    trained, updates = apply(jax.random.key(0))
    chex.assert_tree_all_finite((trained, updates))
    old, new = (jax.tree.leaves(v["batch_stats"]) for v in (variables, updates))
    assert all(bool((a != b).any()) for a, b in zip(old, new, strict=True))
    other = apply(jax.random.key(1))[0]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), other, trained)
    assert all(jax.tree.leaves(same)) == (name not in WITH_DROPOUT)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["densenet121", "centernet"])
def test_rows_do_not_depend_on_the_size_of_the_batch(name, short):
    """But for rounding: XLA of 2026 makes other loops of another batch."""
    _, variables = made(name)
    whole, part = program(name)(variables, X), program(name)(variables, X[:1])
    for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b[:1], rtol=0, atol=1e-6 * np.abs(b).max())


def shapes_of(model, *shape, train=False):
    """Shapes of variables and of the output, without compiling anything."""

    def both(x):
        variables = model.init(jax.random.key(0), x)
        return variables, model.apply(variables, x, train=train)

    variables, output = jax.eval_shape(both, jax.ShapeDtypeStruct(shape, jnp.float32))
    return variables, jax.tree.map(lambda a: a.shape, output[0] if train else output)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "options", "classes", "size", "parameters"),
    [  # as published with torchvision, and the usual variants for small images
        ("mobilenet_v2", {"stem": "imagenet"}, 1000, 224, 3_504_872),
        ("mobilenet_v2", {}, 10, 32, 2_296_922),
        ("densenet121", {"stem": "imagenet"}, 1000, 224, 7_978_856),
        ("densenet121", {}, 10, 32, 6_956_298),
        ("inception_v3", {"stem": "imagenet"}, 1000, 299, 27_161_264),
        ("vgg16_bn", {"stem": "imagenet"}, 1000, 224, 138_365_992),
        ("vgg16_bn", {}, 10, 32, 14_728_266),
        ("wrn28_10", {}, 10, 32, 36_479_194),
        ("unet", {}, 2, 64, 31_037_698),
    ],
)
def test_parameter_counts_are_the_published_ones(name, options, classes, size, parameters):
    variables, output = shapes_of(models.ZOO[name](classes, **options), 1, size, size, 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert output == ((1, size, size, classes) if name == "unet" else (1, classes))


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", sorted(set(models.ZOO) - {"small_cnn", "resnet34", "resnet50"}))
def test_any_size_and_channels(name):
    cases = (("cifar", (1, 3), False), ("imagenet", (75, 80), True))
    deep = name in (
        "densenet121",
        "inception_v3",
    )  # slow to trace; both stems are counted above
    for stem, size, train in cases[: 1 if deep else 2]:
        model = models.build(config.ModelConfig(name=name, width=4, stem=stem), 4)
        want = {
            "labels": (2, 4), "pixels": (2, *size, 4), "image": (2, *size, 4),
            "boxes": {
                k: (2, *(-(-n // 4) for n in size), c)
                for k, c in (("heatmap", 4), ("size", 2), ("offset", 2))
            },
        }[models.output_of(name)]  # fmt: skip
        assert shapes_of(model, 2, *size, 4, train=train)[1] == want


def test_what_comes_out_is_known_by_name():
    assert models.output_of("unet") == "pixels"
    assert models.output_of("vgg16_bn") == "labels"
    with pytest.raises(ValueError, match="did you mean 'unet'"):
        models.output_of("u_net")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.mobilenet_v2(3, stem="big"), "mobilenet_v2: stem 'big' is unknown"),
        (lambda: models.mobilenet_v2(3, dropout=1.0), r"dropout must be in \[0, 1\), got 1"),
        (lambda: models.densenet121(3, width=5), "width must be even"),
        (lambda: models.wide_resnet(3, depth=20), "depth must be 6 n"),
        (lambda: models.unet(0), "num_classes must be at least 1"),
        (lambda: models.gap_unet(3, depth=1), "depth must be at least 2"),
        (lambda: models.gap_resnet(3, blocks=0), "blocks must be at least 1"),
    ],
)
def test_bad_options_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_inception_says_what_is_too_small():
    model = models.inception_v3(3, width=4, stem="imagenet")
    with pytest.raises(ValueError, match=r"74x99 are too small; .* 75x75.* stem='cifar'"):
        model.init(jax.random.key(0), jnp.zeros((1, 74, 99, 3)))


@pytest.mark.slow
def test_the_auxiliary_logits_come_where_they_are_asked_for():
    model = models.inception_v3(5, width=4)
    x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    (logits, second), updates = jax.eval_shape(
        functools.partial(model.apply, train=True, aux=True), variables, x
    )
    assert logits.shape == second.shape == (2, 5)
    assert jax.tree.structure(updates["batch_stats"]) == jax.tree.structure(
        variables["batch_stats"]
    )
    assert (
        "AuxLogits"
        not in shapes_of(models.inception_v3(5, width=4, aux=False), 2, 8, 8, 1)[0]["params"]
    )
    for made, train in ((model, False), (models.inception_v3(5, aux=False), True)):
        with pytest.raises(ValueError, match="in training only, and where the model was made with"):
            made.apply(variables, x, train=train, aux=True)


@pytest.mark.parametrize("normalise", [True, False])
def test_attention_weighs_the_pixels(normalise):
    layer = _attn_vgg.Attention(4, normalise)
    x, last = (jnp.asarray(RNG.random(s), jnp.float32) for s in ((2, 6, 4, 3), (2, 3, 2, 5)))
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x, last)
    params = jax.tree.map(lambda a: RNG.standard_normal(a.shape).astype(np.float32), shapes)
    weights, found = jax.jit(layer.apply)(params, x, last)
    p = params["params"]
    guide = _attn_vgg.resize(last @ p["global"]["kernel"][0, 0], (6, 4))
    score = np.maximum(x @ p["local"]["kernel"][0, 0] + guide, 0) @ p["score"]["kernel"][0, 0]
    score = (score + p["score"]["bias"])[..., 0]
    exp = np.exp(score)
    want = exp / exp.sum((1, 2), keepdims=True) if normalise else exp / (1 + exp)
    np.testing.assert_allclose(weights, want, rtol=1e-4)
    total = (want[..., None] * x).sum((1, 2))
    np.testing.assert_allclose(found, total / (1 if normalise else 24), rtol=1e-4)


def test_attention_maps_have_the_size_of_the_images(short):
    model, variables = made("attn_vgg")
    whole = jax.eval_shape(lambda v, x: models.attention_maps(model, v, x), variables, X)
    assert [a.shape for a in whole] == [(4, 11, 18)] * 2
    logits, maps = jax.eval_shape(lambda v, x: model.apply(v, x, maps=True), variables, X)
    assert [a.shape for a in maps] == [(4, 4, 4), (4, 2, 2)]  # of images grown to 32x32
    assert logits.shape == LOGITS
    with pytest.raises(ValueError, match="unet has none"):
        models.attention_maps(models.unet(2), variables, X)
    with pytest.raises(ValueError, match="maps are for evaluation"):
        model.apply(variables, X, train=True, maps=True)


@pytest.mark.slow
def test_generators_stay_within_their_range(short):
    for name in ("gap_unet", "gap_resnet"):
        _, variables = made(name)
        loud = jax.tree.map(lambda a: 3 * a, variables["params"])
        output = program(name)(variables | {"params": loud}, X)[0]
        assert float(jnp.abs(output).max()) <= 1
        assert float(jnp.abs(output).max()) > 0.5


# --- the parts


def test_average_pool_counts_what_is_padded():
    x = RNG.random((2, 7, 6, 3)).astype(np.float32)
    for size, stride, padding in ((2, 2, 0), (3, 1, 1), (5, 3, 0)):
        wide = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
        sizes = [(n - size) // stride + 1 for n in wide.shape[1:3]]
        want = np.zeros((2, *sizes, 3))
        for i, j in np.ndindex(*sizes):
            a, b = i * stride, j * stride
            want[:, i, j] = wide[:, a : a + size, b : b + size].mean((1, 2))
        pool = jax.jit(functools.partial(
            _layers.avg_pool, size=size, stride=stride, padding=padding
        ))  # fmt: skip
        np.testing.assert_allclose(pool(x), want, rtol=1e-5)


def test_adaptive_mean_averages_every_pixel_of_a_part():
    x = RNG.random((1, 14, 5, 2)).astype(np.float32)
    got, one = jax.jit(lambda x: [_layers.adaptive_mean(x, bins) for bins in (7, 1)])(x)
    assert got.shape == (1, 7, 7, 2)
    np.testing.assert_allclose(got[0, 3, 0], x[0, 6:8, 0:1].mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(got[0, 0, 1], x[0, 0:2, 0:2].mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(one[:, 0, 0], x.mean((1, 2)), rtol=1e-6)


def test_images_grow_by_their_border_and_shrink_back():
    x = jnp.asarray(RNG.random((1, 3, 9, 1)), jnp.float32)
    grown = _layers.grow(x, 8, 4)
    assert grown.shape == (1, 8, 12, 1)
    np.testing.assert_array_equal(grown, np.pad(x, [(0, 0), (2, 3), (1, 2), (0, 0)], mode="edge"))
    np.testing.assert_array_equal(_layers.fit(grown, (3, 9)), x)
    assert _layers.grow(x, 3) is x
    np.testing.assert_array_equal(_layers.fit(x, (4, 9))[:, :3], x)


def test_unpooling_puts_maxima_back_where_they_were():
    x = jnp.asarray([[1, 5, 2, 9], [5, 0, 2, 2], [3, 3, 7, 0]], jnp.float32)[None, :, :, None]
    best, places = _segnet.pool_with_places(x)
    np.testing.assert_array_equal(best[0, :, :, 0], [[5, 9]])
    back = _segnet.unpool(10 * best, places, (3, 4))
    np.testing.assert_array_equal(back[0, :, :, 0], [[0, 50, 0, 90], [0] * 4, [0] * 4])
    equal = _segnet.pool_with_places(jnp.ones((1, 2, 2, 1)))[1]
    assert [float(p.sum()) for p in equal] == [1, 0, 0, 0]  # the first of equal ones


def test_bilinear_resize_is_that_of_jax():
    x = jnp.asarray(RNG.random((2, 3, 5, 2)), jnp.float32)
    want = jax.image.resize(x, (2, 12, 7, 2), "bilinear", antialias=False)
    np.testing.assert_allclose(_attn_vgg.resize(x, (12, 7)), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "strides", "padding"),
    [((2, 2), (2, 2), ((0, 0), (0, 0))), ((4, 4), (2, 2), ((1, 1), (1, 1))),
     ((3, 2), (2, 3), ((1, 0), (0, -1)))],
)  # fmt: skip
def test_transposed_convolution_spreads_every_pixel(kernel, strides, padding, x64):
    x, w = RNG.standard_normal((2, 3, 4, 2)), RNG.standard_normal((*kernel, 2, 3))
    whole = np.zeros((2, 20, 20, 3))
    for i, j, a, b in np.ndindex(3, 4, *kernel):
        whole[:, i * strides[0] + a, j * strides[1] + b] += x[:, i, j] @ w[a, b]
    sizes = [
        (n - 1) * s + k - low - high
        for n, s, k, (low, high) in zip((3, 4), strides, kernel, padding, strict=True)
    ]
    (top, _), (left, _) = padding
    want = whole[:, top : top + sizes[0], left : left + sizes[1]]
    got = models.conv_transpose(jnp.asarray(x), jnp.asarray(w), strides, padding)
    np.testing.assert_allclose(got, want, atol=1e-12)
    with models.use_lax_ops():
        theirs = models.conv_transpose(jnp.asarray(x), jnp.asarray(w), strides, padding)
    np.testing.assert_allclose(theirs, want, atol=1e-12)


def test_two_by_two_transposed_convolution_is_four_products():
    layer = _layers.UpConv(3)
    x = jnp.asarray(RNG.standard_normal((2, 3, 4, 2)), jnp.float32)
    kernel = jnp.asarray(RNG.standard_normal((2, 2, 2, 3)), jnp.float32)
    got = layer.apply({"params": {"kernel": kernel, "bias": jnp.arange(3.0)}}, x)
    want = models.conv_transpose(x, kernel, (2, 2), ((0, 0), (0, 0))) + jnp.arange(3.0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
