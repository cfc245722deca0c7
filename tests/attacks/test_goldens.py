"""Plain attacks against traces of the official implementations, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, threat

pytestmark = pytest.mark.golden
NETS = ("net_rgb_7class", "net_gray_2class")


@pytest.fixture(params=NETS)
def net(request, golden_dir, x64):
    return dict(np.load(golden_dir / f"{request.param}.npz"))


def forward(net, x):
    x = (x - 0.5) / 0.25
    for i in (1, 2):
        x = jax.lax.conv_general_dilated(
            x, jnp.asarray(net[f"w{i}"]), (2, 2), ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        x = jax.nn.relu(x + net[f"b{i}"])
    return x.mean((1, 2)) @ jnp.asarray(net["w3"]) + net["b3"]


def attacked(net, build, eps, x_start=None):
    objective = attacks.from_logits(lambda x: forward(net, x), loss=losses.cross_entropy)
    x, y = jnp.asarray(net["x"]), jnp.asarray(net["y"])
    call = jax.jit(
        lambda x, y, e: attacks.run(
            build(objective), jax.random.key(0), x, y, e, x_start=x_start, stop="budget"
        )
    )
    return call(x, y, eps)


def test_forward_pass(net):
    np.testing.assert_allclose(forward(net, jnp.asarray(net["x"])), net["logits"], atol=1e-9)


def test_cross_entropy(net):
    loss = jax.vmap(losses.cross_entropy)(net["loss/logits"], net["loss/y"])
    np.testing.assert_allclose(loss, net["loss/ce"], atol=1e-9)


def test_fgsm(net):
    result = attacked(net, lambda o: attacks.fgsm(o, threat.linf()), net["fgsm/eps"])
    np.testing.assert_allclose(result.x_adv, net["fgsm/x_adv"], atol=1e-9, rtol=0)


def test_pgd(net):
    def build(objective):
        return attacks.pgd(
            objective, threat.linf(), num_steps=int(net["pgd/num_steps"]),
            step_size_abs=net["pgd/step_size"], keep="last",
        )  # fmt: skip

    result = attacked(net, build, net["pgd/eps"], net["pgd/x_start"])
    np.testing.assert_allclose(result.x_adv, net["pgd/x_adv"], atol=1e-9, rtol=0)
    assert (result.num_grads == net["pgd/num_steps"]).all()


def test_pgd_relative_step_is_the_same(net):
    def build(objective):
        return attacks.pgd(
            objective, threat.linf(), num_steps=int(net["pgd/num_steps"]),
            step_size=float(net["pgd/step_size"] / net["pgd/eps"]), keep="last",
        )  # fmt: skip

    result = attacked(net, build, net["pgd/eps"], net["pgd/x_start"])
    np.testing.assert_allclose(result.x_adv, net["pgd/x_adv"], atol=1e-9, rtol=0)


def test_pgd_l2(net):
    def build(objective):
        return attacks.pgd(
            objective, threat.l2(), num_steps=int(net["pgd_l2/num_steps"]), random_start=False,
            step_size_abs=net["pgd_l2/step_size"], keep="last",
        )  # fmt: skip

    result = attacked(net, build, net["pgd_l2/eps"])
    np.testing.assert_allclose(result.x_adv, net["pgd_l2/x_adv"], atol=1e-9, rtol=0)


def test_mifgsm(net):
    def build(objective):
        return attacks.mifgsm(
            objective, threat.linf(), num_steps=int(net["mifgsm/num_steps"]),
            decay=float(net["mifgsm/mu"]), keep="last",
        )  # fmt: skip

    result = attacked(net, build, net["fgsm/eps"])
    np.testing.assert_allclose(result.x_adv, net["mifgsm/x_adv"], atol=1e-9, rtol=0)
