"""AutoAttack against the robust flags of the official code on a trained net and real images."""

import jax
import numpy as np
import pytest

from advjax import engine

pytestmark = [pytest.mark.golden, pytest.mark.slow]


def forward(net, x):
    x = (x - 0.5) / 0.25
    for i, stride in ((1, 1), (2, 2), (3, 2)):
        x = jax.lax.conv_general_dilated(
            x, net[f"w{i}"], (stride, stride), ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        x = jax.nn.relu(x + net[f"b{i}"])
    return x.mean((1, 2)) @ net["w4"] + net["b4"]


@pytest.fixture(scope="module")
def golden(golden_dir):
    return dict(np.load(golden_dir / "autoattack_ham10000_32.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_robust_flags(golden, norm):
    names = sorted(key for key in golden if key.startswith(f"autoattack/{norm}/"))
    epsilons = [float(name.split("/")[2]) for name in names]
    net = {key: golden[key] for key in golden if key[0] in "wb"}
    result = engine.autoattack(
        forward, net, golden["x"], golden["y"], norm=norm.lower(), epsilons=epsilons,
        num_targets=6, num_queries=50, key=jax.random.key(0),
    )  # fmt: skip
    np.testing.assert_allclose(
        jax.jit(forward)(net, golden["x"]), golden["logits"], atol=1e-3, rtol=1e-3
    )
    # with the published 5000 queries the flags are the same: Square breaks nothing more here
    for robust, name in zip(result.robust, names, strict=True):
        official = golden[name]
        worst = official.sum(1).min()
        print(name, "robust here", robust.sum(), "official", official.sum(1))
        assert robust.sum() <= worst + 1
        # at most one image stands here that every official seed broke
        assert (robust & ~official.any(0)).sum() <= 1
