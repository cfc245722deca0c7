"""The same result under jit, vmap, pmap and shard_map with its default arguments."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from advjax import attacks, losses, models, threat
from advjax.random import example_keys

pytestmark = pytest.mark.unoptimised

ROWS = 8
MODEL = models.resnet18(num_classes=4, width=4)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0, 1, (ROWS, 8, 8, 3)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 4, ROWS), jnp.int32)
EPS = jnp.linspace(0, 0.1, ROWS)
KEYS = example_keys(jax.random.key(0), jnp.arange(ROWS))
PARAMS = models.random_variables(MODEL, 0, X)
WEIGHTS = jnp.asarray(RNG.normal(size=(192, 4)), jnp.float32)


def logits(params, x):
    """ResNet-18 for variables of a model, a smooth layer for a plain matrix (quick to compile)."""
    if isinstance(params, dict):
        return MODEL.apply(params, x)
    return jnp.tanh(x.reshape(x.shape[0], -1) - 0.5) @ params


def attacked(name, stop, params, keys, x, y, eps):
    objective = attacks.from_logits(lambda x: logits(params, x), loss=losses.cross_entropy)
    ball = threat.linf() if name != "mifgsm" else threat.l2()
    attack = attacks.ATTACKS[name](objective, ball, num_steps=3, step_size=0.4)
    return attacks.run(attack, keys, x, y, eps, stop=stop)


def call(name, stop="budget"):
    return lambda *args: attacked(name, stop, *args)


def assert_same(a, b):
    for field, u, v in zip(a._fields, a, b, strict=True):
        np.testing.assert_allclose(
            np.asarray(u, np.float64),
            np.asarray(v, np.float64),
            atol=2e-5,
            rtol=1e-4,
            err_msg=field,
        )


def assert_devices():
    if len(jax.devices()) < 8:
        pytest.fail("the suite needs 8 virtual devices: JAX_NUM_CPU_DEVICES=8 (tests/conftest.py)")


def sharded(name, stop, count=8):
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
    rows = P("data")
    return jax.jit(
        jax.shard_map(
            call(name, stop), mesh=mesh, in_specs=(P(), rows, rows, rows, rows), out_specs=rows
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "count"), [("success", 8), ("budget", 8), ("success", 2)])
def test_shard_map_of_a_resnet_with_its_default_arguments(stop, count):
    assert_devices()
    plain = jax.jit(call("pgd", stop))(PARAMS, KEYS, X, Y, EPS)
    assert_same(plain, sharded("pgd", stop, count)(PARAMS, KEYS, X, Y, EPS))


@pytest.mark.sample(2)
@pytest.mark.parametrize("stop", ["success", "budget"])
@pytest.mark.parametrize("name", ["mifgsm", "nifgsm", "difgsm", "smia", "cw_linf"])
def test_shard_map_of_every_kind_of_state(name, stop):
    assert_devices()
    plain = jax.jit(call(name, stop))(WEIGHTS, KEYS, X, Y, EPS)
    assert_same(plain, sharded(name, stop)(WEIGHTS, KEYS, X, Y, EPS))


def test_shard_map_of_averages_over_draws():
    assert_devices()

    def call_eot(params, keys, x, y, eps):
        objective = attacks.from_logits(lambda x: logits(params, x), loss=losses.cross_entropy)
        objective = attacks.with_eot(attacks.with_input_diversity(objective), 3)
        return attacks.run(attacks.pgd(objective, threat.linf(), num_steps=2), keys, x, y, eps)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = P("data")
    mapped = jax.shard_map(
        call_eot, mesh=mesh, in_specs=(P(), rows, rows, rows, rows), out_specs=rows
    )
    plain = jax.jit(call_eot)(WEIGHTS, KEYS, X, Y, EPS)
    assert_same(plain, jax.jit(mapped)(WEIGHTS, KEYS, X, Y, EPS))


def test_no_collective_in_a_sharded_attack():
    assert_devices()
    text = sharded("pgd", "budget").lower(PARAMS, KEYS, X, Y, EPS).compile().as_text()
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert word not in text


@pytest.mark.slow
class VariantsTest(chex.TestCase):
    """chex variants: jit, no jit, device, pmap."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_jit_and_device(self):
        plain = jax.jit(call("pgd", "success"))(PARAMS, KEYS, X, Y, EPS)
        assert_same(plain, self.variant(call("pgd", "success"))(PARAMS, KEYS, X, Y, EPS))

    @chex.variants(with_pmap=True)
    def test_pmap_broadcast(self):
        plain = jax.jit(call("pgd"))(PARAMS, KEYS, X, Y, EPS)
        variant = self.variant(call("pgd"), broadcast_args_to_devices=True)
        assert_same(plain, variant(PARAMS, KEYS, X, Y, EPS))


@pytest.mark.slow
def test_pmap_over_rows():
    assert_devices()
    plain = jax.jit(call("pgd"))(PARAMS, KEYS, X, Y, EPS)
    one = jax.tree.map(lambda a: a[:, None], (KEYS, X, Y, EPS))
    mapped = jax.pmap(call("pgd"), in_axes=(None, 0, 0, 0, 0))(PARAMS, *one)
    assert_same(plain, jax.tree.map(lambda a: a[:, 0], mapped))


@pytest.mark.sample(1)
@pytest.mark.parametrize("stop", ["success", "budget"])
def test_vmap_over_single_rows(stop):
    plain = jax.jit(call("pgd", stop))(PARAMS, KEYS, X, Y, EPS)

    def single(key, x, y, eps):
        out = attacked("pgd", stop, PARAMS, key[None], x[None], y[None], eps)
        return jax.tree.map(lambda a: a[0], out)

    assert_same(plain, jax.jit(jax.vmap(single))(KEYS, X, Y, EPS))


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_batch_splits(size):
    program = jax.jit(call("pgd"))
    plain = program(PARAMS, KEYS, X, Y, EPS)
    parts = [
        program(PARAMS, *(a[i : i + size] for a in (KEYS, X, Y, EPS))) for i in range(0, ROWS, size)
    ]
    assert_same(plain, jax.tree.map(lambda *v: jnp.concatenate(v), *parts))


def test_vmap_over_params_is_an_ensemble_of_runs():
    other = WEIGHTS[::-1]
    stacked = jnp.stack([WEIGHTS, other])
    both = jax.jit(jax.vmap(call("pgd"), in_axes=(0, None, None, None, None)))(
        stacked, KEYS, X, Y, EPS
    )
    for i, params in enumerate((WEIGHTS, other)):
        plain = jax.jit(call("pgd"))(params, KEYS, X, Y, EPS)
        assert_same(plain, jax.tree.map(lambda a, i=i: a[i], both))
