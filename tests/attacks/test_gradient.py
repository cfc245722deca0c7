"""`input_gradient` is `jax.grad`, with convolutions in the layout that CPU loops are fast in."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from advjax import attacks, losses, threat
from advjax.mesh import data_mesh

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(4, 8, 9, 6)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(3, 3, 6, 6)), jnp.float32)
NHWC = ("NHWC", "HWIO", "NHWC")
conv = functools.partial(jax.lax.conv_general_dilated, padding="SAME")


def plain(x):
    return conv(x, W, (2, 1), dimension_numbers=NHWC)


def channels_first(x):
    return conv(x.transpose(0, 3, 1, 2), W.transpose(3, 2, 0, 1), (1, 2))


def odd_layout(x):
    return conv(x.transpose(1, 2, 3, 0), W.transpose(2, 0, 1, 3), (1, 1),
                dimension_numbers=("HWCN", "IHWO", "CNHW"))  # fmt: skip


def grouped(x):
    return conv(x, W[:, :, :2], (1, 1), dimension_numbers=NHWC, feature_group_count=3)


def dilated(x):
    return conv(x, W, (1, 1), rhs_dilation=(2, 1), dimension_numbers=NHWC)


def nested(x):
    def body(x, _):
        x = jax.nn.relu(conv(x, W, (1, 1), dimension_numbers=NHWC)) / 10
        return jax.lax.cond(x.sum() > 0, jax.checkpoint(jax.jit(dilated)), lambda x: x, x), None

    return jax.lax.scan(body, x, None, length=2)[0]


def one_axis(x):
    return conv(x[:, :, 0], W[0], (1,), dimension_numbers=("NWC", "WIO", "NWC"))


NETS = [plain, channels_first, odd_layout, grouped, dilated, nested, one_axis]


def total(net, x):
    y = net(x)
    return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)), {"y": y}


@pytest.mark.sample(2)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_it_is_the_gradient(net, wrap):
    fn = functools.partial(total, net)
    found, aux = wrap(attacks.input_gradient(fn))(X)
    wanted, wanted_aux = jax.grad(fn, has_aux=True)(X)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    np.testing.assert_allclose(aux["y"], wanted_aux["y"], atol=2e-5)


def layouts(fn):
    """Return the layouts of all convolutions of a jaxpr, inner ones included."""
    text = str(jax.make_jaxpr(fn)(X))
    found = re.findall(
        r"lhs_spec=\(([\d, ]+)\), rhs_spec=\(([\d, ]+)\), out_spec=\(([\d, ]+)\)", text
    )
    return {tuple(tuple(map(int, spec.split(","))) for spec in specs) for specs in found}


@pytest.mark.parametrize("net", NETS)
def test_every_convolution_is_canonical(net):
    fn = functools.partial(total, net)
    good = {2: ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)), 1: ((0, 2, 1), (2, 1, 0), (0, 2, 1))}
    assert layouts(jax.grad(fn, has_aux=True)) - set(good.values()), "nothing to rewrite"
    assert layouts(attacks.input_gradient(fn)) <= set(good.values())


def test_other_backends_are_left_alone(monkeypatch):
    fn = functools.partial(total, plain)
    monkeypatch.setattr(jax, "default_backend", lambda: "cuda")
    assert layouts(attacks.input_gradient(fn)) == layouts(jax.grad(fn, has_aux=True))


@pytest.mark.slow
def test_attacks_use_it_under_every_transform():
    weights = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    x, y = jax.nn.sigmoid(X), jnp.arange(4) % 3

    def attack(x, y, w=W):
        net = lambda x: conv(x, w, (2, 2), dimension_numbers=NHWC).mean((1, 2)) @ weights
        objective = attacks.from_logits(net, loss=losses.cross_entropy)
        pgd = attacks.pgd(objective, threat.linf(), num_steps=5, step_size=0.25)
        keys = jax.random.split(jax.random.key(0), len(x))
        return attacks.run(pgd, keys, x, y, 0.05, stop="budget").x_adv

    text = str(jax.make_jaxpr(attack)(x, y))
    assert "rhs_spec=(3, 2, 0, 1)" in text
    assert "rhs_spec=(2, 3, 0, 1)" not in text
    wanted = attack(x, y)
    np.testing.assert_allclose(jax.jit(attack)(x, y), wanted, atol=1e-6)
    both = jax.vmap(lambda w: attack(x, y, w))(jnp.stack([W, -W]))
    np.testing.assert_allclose(both[0], wanted, atol=1e-6)
    rows = jax.vmap(lambda x, y: attack(x[None], y[None])[0])(x, y)
    assert rows.shape == x.shape
    for check in (True, False):
        sharded = jax.shard_map(
            lambda x, y: attack(x, y, W), mesh=data_mesh(2), in_specs=P("data"),
            out_specs=P("data"), check_vma=check,
        )  # fmt: skip
        parts = [attack(x[i : i + 2], y[i : i + 2]) for i in (0, 2)]
        np.testing.assert_allclose(sharded(x, y), np.concatenate(parts), atol=1e-6)
