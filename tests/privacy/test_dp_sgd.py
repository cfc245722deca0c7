"""DP-SGD: no example moves the sum by more than the norm, and the noise has the stated size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import privacy

pytestmark = pytest.mark.unoptimised

RNG = np.random.default_rng(3)
KEY = jax.random.key(0)
PARAMS = {"w": RNG.normal(size=(5, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}
# lengths of gradients from 0.03 to 60
X = (RNG.normal(size=(12, 5)) * np.geomspace(0.01, 30, 12)[:, None]).astype(np.float32)
Y = RNG.integers(0, 3, 12)


def loss(params, example):
    x, y = example
    return -jax.nn.log_softmax(x @ params["w"] + params["b"])[y]


def length(gradient):
    return float(np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in gradient.values())))


def single(i):
    return jax.grad(loss)(PARAMS, (X[i], Y[i]))


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 20.0])
def test_no_example_counts_for_more_than_the_norm(max_norm):
    options = {"max_norm": max_norm, "noise_multiplier": 0.0}
    lengths, cut = [], []
    for i in range(len(X)):
        alone = privacy.dp_gradient(loss, PARAMS, (X[i : i + 1], Y[i : i + 1]), KEY, **options)
        lengths.append(length(alone))
        cut.append(length(single(i)) > max_norm)
        if not cut[-1]:
            jax.tree.map(np.testing.assert_allclose, alone, single(i))
    assert 0 < sum(cut) < len(X)
    assert max(lengths) <= max_norm * (1 + 1e-6)
    np.testing.assert_allclose(np.array(lengths)[cut], max_norm, rtol=1e-5)


@pytest.mark.parametrize("microbatch", [None, 1, 4])
def test_the_sum_is_that_of_clipped_gradients(microbatch):
    wanted = {name: np.zeros_like(leaf) for name, leaf in PARAMS.items()}
    for i in range(len(X)):
        one = single(i)
        factor = min(1.0, 0.5 / length(one))
        wanted = {name: wanted[name] + factor * np.asarray(one[name]) for name in wanted}
    options = {"max_norm": 0.5, "noise_multiplier": 0.0, "microbatch": microbatch}
    found = jax.jit(lambda p: privacy.dp_gradient(loss, p, (X, Y), KEY, **options))(PARAMS)
    for name, total in wanted.items():
        np.testing.assert_allclose(found[name], total / len(X), rtol=2e-5, atol=1e-7)


def test_without_a_limit_it_is_the_mean_gradient():
    found = privacy.dp_gradient(loss, PARAMS, (X, Y), KEY, max_norm=1e6, noise_multiplier=0.0)
    mean = jax.grad(lambda p: jax.vmap(lambda x, y: loss(p, (x, y)))(X, Y).mean())(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, mean)


def test_noise_has_the_stated_size():
    params = {"w": np.zeros((200, 200), np.float32)}
    nothing = lambda params, example: 0 * params["w"].sum() * example
    noise = privacy.dp_gradient(
        nothing, params, np.zeros(4, np.float32), KEY, max_norm=3.0, noise_multiplier=1.5
    )["w"]
    np.testing.assert_allclose(np.std(noise), 3 * 1.5 / 4, rtol=0.02)
    assert abs(np.mean(noise)) < 0.02
    other = privacy.dp_gradient(
        nothing, params, np.zeros(4, np.float32), jax.random.key(1), max_norm=3.0,
        noise_multiplier=1.5,
    )["w"]  # fmt: skip
    assert abs(np.corrcoef(np.ravel(noise), np.ravel(other))[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_norm": 0.0}, "max_norm: must be above 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier: must be at least 0"),
        ({"microbatch": 5}, "microbatch: must divide the batch of 12"),
    ],
)
def test_bad_numbers(change, said):
    options = {"max_norm": 1.0, "noise_multiplier": 1.0, **change}
    with pytest.raises(ValueError, match=said):
        privacy.dp_gradient(loss, PARAMS, (X, Y), KEY, **options)


def test_bad_batches():
    options = {"max_norm": 1.0, "noise_multiplier": 1.0}
    with pytest.raises(ValueError, match="one leading axis"):
        privacy.dp_gradient(loss, PARAMS, (X, Y[:3]), KEY, **options)
    assert jnp.size(Y[:0]) == 0
    with pytest.raises(ValueError, match="at least 1"):
        privacy.dp_gradient(loss, PARAMS, (X[:0], Y[:0]), KEY, **options)
