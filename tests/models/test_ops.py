"""The three operators against those of lax."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from advjax import mesh, models

NUMBERS = ("NHWC", "HWIO", "NHWC")
# image, kernel, strides, padding, dilation
IMAGES = [(7, 7), (8, 5), (12, 10)]
KERNELS = [(1, 1), (3, 3), (2, 2), (4, 3), (1, 3), (5, 5)]
RULES = [
    ((1, 1), "SAME", (1, 1)),
    ((2, 2), "SAME", (1, 1)),
    ((1, 2), "VALID", (1, 1)),
    ((3, 3), ((2, 0), (0, 1)), (1, 1)),
    ((1, 1), ((3, 4), (4, 2)), (1, 1)),
    ((2, 1), ((1, 2), (2, 1)), (2, 2)),
    ((2, 3), "SAME", (1, 2)),
    ((1, 1), ((-1, 0), (0, -1)), (1, 1)),
    ((4, 4), "SAME_LOWER", (1, 1)),
]
CONVS = [(i, k, *r) for i, k, r in itertools.product(IMAGES, KERNELS, RULES)]
# every rule meets every kernel; the images take turns
CONVS = [case for index, case in enumerate(CONVS) if index % 3 == (index // 9) % 3]
CONVS += [
    ((32, 32), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    ((9, 9), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ((10, 9), (1, 1), (4, 3), "SAME", (1, 1)),
    ((3, 3), (1, 1), (5, 5), "VALID", (1, 1)),
    ((2, 2), (5, 5), (1, 1), ((4, 4), (4, 4)), (1, 1)),
    ((20, 20), (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1)),
    ((2, 2), (3, 3), (1, 1), "VALID", (1, 1)),  # empty
    # outputs of a few pixels, which are matrix products; some taps see padding only
    ((1, 1), (3, 3), (1, 1), "SAME", (1, 1)),
    ((2, 2), (3, 3), (1, 1), "SAME", (1, 1)),
    ((4, 2), (3, 3), (1, 1), "SAME", (1, 1)),
    ((4, 4), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    ((2, 2), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    ((2, 3), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2)),
    ((2, 2), (2, 2), (3, 3), ((0, 4), (4, 0)), (1, 1)),
    ((1, 1), (2, 2), (4, 4), ((3, 3), (3, 3)), (1, 1)),
]


def test_there_are_many_geometries():
    assert len(CONVS) >= 60
    assert len({str(case) for case in CONVS}) == len(CONVS)


def normal(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def both_gradients(op, x, w, weight):
    out, pull = jax.vjp(op, x, w)
    return (out, *pull(weight(out.shape)))


def check(ours, theirs, x, w, tolerance):
    def weight(shape):
        return jnp.cos(jnp.arange(np.prod(shape), dtype=x.dtype)).reshape(shape)

    got, want = jax.jit(
        lambda x, w: (both_gradients(ours, x, w, weight), both_gradients(theirs, x, w, weight))
    )(x, w)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = max(1.0, float(jnp.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0)


def pair(op, strides, padding, dilation, groups=1):
    options = {
        "rhs_dilation": dilation,
        "dimension_numbers": NUMBERS,
        "feature_group_count": groups,
    }
    return (
        lambda x, w: op(x, w, strides, padding, **options),
        lambda x, w: lax.conv_general_dilated(x, w, strides, padding, **options),
    )


@pytest.mark.sample(2)
@pytest.mark.parametrize(("image", "kernel", "strides", "padding", "dilation"), CONVS)
def test_conv_equals_lax(image, kernel, strides, padding, dilation):
    x, w = normal(0, 3, *image, 2), normal(1, *kernel, 2, 4)
    check(*pair(models.conv, strides, padding, dilation), x, w, 2e-6)


@pytest.mark.sample(2)
@pytest.mark.parametrize("case", CONVS[::9], ids=str)
def test_conv_equals_lax_in_float64(case, x64):
    image, kernel, *rule = case
    x = normal(0, 9, *image, 2, dtype=np.float64)
    w = normal(1, *kernel, 2, 3, dtype=np.float64)
    check(*pair(models.conv, *rule), x, w, 1e-14)


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2},
        {"lhs_dilation": (2, 1)},
        {"preferred_element_type": jnp.float32},
        {"batch_group_count": 2},
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
        {"dimension_numbers": None},
        {"dimension_numbers": ("NHWC", "HWOI", "NHWC")},
    ],
    ids=str,
)
def test_what_is_not_ours_goes_to_lax(options):
    x, w, pads = normal(0, 4, 4, 4, 4), normal(1, 4, 4, 4, 4), ((2, 2), (2, 2))
    if "feature_group_count" in options:
        w = w[:, :, :2]
    options = {"dimension_numbers": NUMBERS} | options

    def f(op):
        return jax.make_jaxpr(lambda x, w: op(x, w, (1, 1), pads, **options))(x, w)

    assert "custom_vjp" not in str(f(models.conv))
    assert str(f(models.conv)) == str(f(lax.conv_general_dilated))


def test_conv_of_one_spatial_axis_goes_to_lax():
    x, w = normal(0, 2, 9, 3), normal(1, 3, 3, 4)
    options = {"dimension_numbers": ("NHC", "HIO", "NHC")}
    got = models.conv(x, w, (2,), "SAME", **options)
    np.testing.assert_array_equal(got, lax.conv_general_dilated(x, w, (2,), "SAME", **options))


RULE = ((2, 1), ((1, 2), (0, 1)), (1, 2))


@pytest.mark.sample(2)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 4), (3, 3), (7, 7)])
@pytest.mark.parametrize("channels", [(16, 16), (64, 128)])
def test_a_row_of_conv_has_the_same_bits_in_every_batch(size, channels):
    x, g = normal(0, 48, *size, channels[0]), normal(2, 48, *size, channels[1])
    w = normal(1, 3, 3, *channels)

    @jax.jit
    def both(x, g):
        out, pull = jax.vjp(
            lambda x: models.conv(x, w, (1, 1), "SAME", dimension_numbers=NUMBERS), x
        )
        return out, *pull(g)

    whole = both(x, g)
    for batch in (1, 3, 8, 17, 32):
        for part, out in zip(both(x[:batch], g[:batch]), whole, strict=True):
            np.testing.assert_array_equal(part, out[:batch])


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_conv_under_vmap(axes):
    ours, theirs = pair(models.conv, *RULE)
    x = normal(0, *((3,) if axes[0] == 0 else ()), 2, 7, 6, 2)
    w = normal(1, *((3,) if axes[1] == 0 else ()), 3, 2, 2, 4)

    def grads(op):
        return jax.jit(jax.vmap(jax.grad(lambda x, w: (op(x, w) ** 2).sum(), (0, 1)), axes))(x, w)

    for a, b in zip(grads(ours), grads(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_conv_twice_differentiated(x64):
    x, w = normal(0, 2, 7, 6, 2, dtype=np.float64), normal(1, 3, 2, 2, 3, dtype=np.float64)

    def second(op):
        def penalty(x, w):
            dx, dw = jax.grad(lambda x, w: (op(x, w) ** 3).sum(), (0, 1))(x, w)
            return (dx**2).sum() + (dw**3).sum()

        return jax.jit(jax.grad(penalty, (0, 1)))(x, w)

    ours, theirs = pair(models.conv, *RULE)
    for a, b in zip(second(ours), second(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


def canonical(op):
    """Compile the input gradient in a loop; return the labels of its convolutions."""
    x, w = normal(0, 8, 8, 8, 4), normal(1, 3, 3, 4, 4)

    def step(c, _):
        return c - jax.grad(lambda x: (op(x, w, (1, 1), "SAME", dimension_numbers=NUMBERS) ** 2)
                            .sum())(c), None  # fmt: skip

    text = jax.jit(lambda x: lax.scan(step, x, None, length=3)[0]).lower(x).compile().as_text()
    return {part.split(",")[0].split()[0] for part in text.split("dim_labels=")[1:]}


def test_the_gradient_stays_canonical_in_a_loop():
    assert canonical(models.conv) == {"b01f_01io->b01f"}


def test_conv_is_a_drop_in_of_linen():
    x = normal(0, 2, 3, 9, 8, 2)  # Linen folds leading axes itself
    for options in ({"strides": 2}, {"padding": "CIRCULAR"}, {"kernel_dilation": 2}):
        ours = nn.Conv(4, (3, 3), conv_general_dilated=models.conv, **options)
        theirs = nn.Conv(4, (3, 3), **options)
        variables = theirs.init(jax.random.key(0), x)
        np.testing.assert_allclose(
            ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-5, atol=1e-6
        )


DEPTHWISE = [
    ((3, 3), (1, 1), "SAME", (1, 1), 1),
    ((3, 3), (2, 2), "SAME", (1, 1), 2),
    ((5, 4), (1, 2), "VALID", (1, 1), 1),
    ((2, 2), (3, 3), ((2, 0), (1, 3)), (1, 1), 3),
    ((3, 2), (1, 1), ((1, 1), (0, 2)), (2, 3), 2),
    ((1, 1), (2, 1), "VALID", (1, 1), 1),
    ((3, 3), (1, 1), ((-1, 1), (2, -2)), (1, 1), 1),
    ((9, 9), (1, 1), "VALID", (1, 1), 1),  # empty
]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("kernel", "strides", "padding", "dilation", "multiplier"), DEPTHWISE)
def test_depthwise_conv_equals_lax(kernel, strides, padding, dilation, multiplier):
    x, w = normal(0, 2, 8, 7, 3), normal(1, *kernel, 1, 3 * multiplier)
    check(*pair(models.depthwise_conv, strides, padding, dilation, groups=3), x, w, 2e-6)


def test_depthwise_conv_has_no_convolution_and_leaves_other_groups_alone(x64):
    x = normal(0, 2, 8, 7, 4, dtype=np.float64)
    for groups, ours in ((4, True), (2, False), (1, False)):
        f, lax_f = pair(models.depthwise_conv, (1, 1), "SAME", (1, 1), groups)
        w = normal(1, 3, 3, 4 // groups, 4, dtype=np.float64)
        assert ("conv_general" not in str(jax.make_jaxpr(f)(x, w))) == ours
        check(f, lax_f, x, w, 1e-14)


POOLS = [
    ((2, 2), (2, 2), "VALID"),
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((3, 2), (1, 3), "SAME"),
    ((2, 3), None, "VALID"),
    ((3, 3), (2, 2), "SAME"),
    ((2, 2), (3, 4), ((0, 1), (1, 0))),
    ((1, 1), (2, 2), "VALID"),
    ((9, 9), (1, 1), "VALID"),  # empty
]


def pools(window, strides, padding):
    return (
        lambda x: models.max_pool(x, window, strides, padding),
        lambda x: nn.max_pool(x, window, strides, padding),
    )


@pytest.mark.sample(2)
@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_equals_lax(case, ties):
    x = normal(0, 2, 8, 7, 3)
    if ties:  # many equal maxima: the gradient goes to the first in row-major order
        x = jnp.round(jnp.maximum(x, 0))
    ours, theirs = (jax.jit(lambda x, f=f: both(f, x)) for f in pools(*case))
    for a, b in zip(ours(x), theirs(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def both(f, x):
    out, pull = jax.vjp(f, x)
    return out, pull(jnp.cos(jnp.arange(out.size, dtype=x.dtype)).reshape(out.shape))[0]


def test_max_pool_of_other_ranks_dtypes_and_nan():
    ours, theirs = pools((3,), (2,), "SAME")
    x = normal(0, 2, 9, 3)
    np.testing.assert_array_equal(ours(x), theirs(x))
    ours, theirs = pools((2, 2), (2, 2), "SAME")
    x = normal(0, 2, 2, 5, 5, 3)
    np.testing.assert_array_equal(ours(x), theirs(x))
    x = normal(0, 1, 4, 4, 1).at[0, 1, 0, 0].set(jnp.nan).at[0, 2, 2, 0].set(jnp.nan)
    np.testing.assert_array_equal(ours(x), theirs(x))
    assert int(jnp.isnan(ours(x)).sum()) == 2
    x = jnp.asarray(np.random.default_rng(0).integers(-9, 9, (1, 5, 5, 2)), jnp.int32)
    np.testing.assert_array_equal(ours(x), theirs(x))


def test_max_pool_twice_differentiated_and_vmapped():
    ours, theirs = pools((3, 3), (2, 2), "SAME")
    x = normal(0, 2, 3, 6, 6, 2)

    def second(f):
        inner = jax.grad(lambda x: (f(x) ** 3).sum())
        return jax.jit(jax.vmap(jax.grad(lambda x: (inner(x) ** 2).sum())))(x)

    np.testing.assert_allclose(second(ours), second(theirs), rtol=1e-5)


def test_the_switch_serves_forward_mode_and_retraces():
    x, w = normal(0, 2, 6, 6, 2), normal(1, 3, 3, 2, 3)
    f = jax.jit(lambda x: models.conv(x, w, (1, 1), "SAME", dimension_numbers=NUMBERS))
    want = f(x)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(f, (x,), (x,))
    with models.use_lax_ops():
        assert models.lax_ops_in_use()
        out, tangent = jax.jvp(f, (x,), (x,))  # the same jitted function
        with models.use_lax_ops(False):
            assert not models.lax_ops_in_use()
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tangent, want, rtol=1e-5, atol=1e-6)
    assert not models.lax_ops_in_use()
    with models.use_lax_ops():
        text = str(jax.make_jaxpr(lambda x: models.max_pool(x, (2, 2)))(x))
    assert "reduce_window_max" in text


def test_accelerators_keep_lax(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert models.lax_ops_in_use()
    with models.use_lax_ops(False):
        assert not models.lax_ops_in_use()


def test_head_operators():
    x, w = normal(0, 5, 3, 7, 11), normal(1, 11, 4)
    features = models.global_mean(x)
    np.testing.assert_allclose(features, np.asarray(x).mean((1, 2)), rtol=1e-5, atol=1e-6)
    check(models.dense, lambda x, w: x @ w, features, w, 2e-6)
    big = normal(2, 11, 6000)
    np.testing.assert_array_equal(models.dense(features, big), features @ big)
    with models.use_lax_ops():
        assert "dot_general" in str(jax.make_jaxpr(models.dense)(features, w))


def layer(x, w):
    """A strided convolution, a depthwise one, a pool and a dense head, in one loss per row."""
    y = models.conv(x, w["conv"], (2, 1), "SAME", dimension_numbers=NUMBERS)
    y = models.depthwise_conv(
        y, w["depth"], (1, 1), "SAME", dimension_numbers=NUMBERS, feature_group_count=3
    )
    y = models.max_pool(y, (2, 2), (2, 2))
    return (models.dense(models.global_mean(y), w["head"]) ** 2).sum()


@pytest.mark.parametrize("check_vma", [True, False])
def test_input_gradients_under_shard_map_need_no_collective(check_vma):
    x = normal(0, 8, 6, 7, 2)
    w = {"conv": normal(1, 3, 3, 2, 3), "depth": normal(2, 3, 3, 1, 3), "head": normal(3, 3, 4)}
    f = jax.jit(
        jax.shard_map(
            lambda x, w: jax.grad(layer)(x, w),
            mesh=mesh.data_mesh(8),
            in_specs=(P("data"), P()),
            out_specs=P("data"),
            check_vma=check_vma,
        )
    )
    assert "all-reduce" not in f.lower(x, w).compile().as_text()
    np.testing.assert_allclose(f(x, w), jax.jit(jax.grad(layer))(x, w), rtol=1e-4, atol=1e-4)


def test_weight_gradients_under_shard_map_are_sums_over_devices():
    x = normal(0, 8, 6, 7, 2)
    w = {"conv": normal(1, 3, 3, 2, 3), "depth": normal(2, 3, 3, 1, 3), "head": normal(3, 3, 4)}
    f = jax.shard_map(
        lambda x, w: jax.grad(layer, 1)(x, w),
        mesh=mesh.data_mesh(8),
        in_specs=(P("data"), P()),
        out_specs=P(),
    )
    got, want = jax.jit(f)(x, w), jax.jit(jax.grad(layer, 1))(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)
