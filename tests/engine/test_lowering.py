"""The sweep and the training step lower for accelerators, and the sweep's devices never talk."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, mesh, models, threat, training
from advjax.config import OptimizerConfig, TrainConfig
from advjax.engine import ORDERS
from advjax.engine._inputs import Examples
from advjax.engine._stage import Stage
from advjax.engine._state import Settings
from advjax.mesh import AXIS
from advjax.training import methods
from tests.training.tiny import make_batch

pytestmark = pytest.mark.unoptimised

DEVICES, SHAPE = 8, (8, 8, 3)
# as StableHLO and as compiled HLO write them: all_reduce, all-reduce-start, ...
COLLECTIVE = re.compile(
    r"\b(all[-_]reduce|all[-_]gather|all[-_]to[-_]all|ragged[-_]all[-_]to[-_]all|reduce[-_]scatter"
    r"|collective[-_]permute|collective[-_]broadcast)\b"
)
MODEL = models.small_cnn(num_classes=3, width=4)


def make_pgd(variables):
    objective = attacks.from_logits(lambda x: MODEL.apply(variables, x), loss=losses.cross_entropy)
    return attacks.pgd(objective, threat.linf(), num_steps=5, step_size=0.25)


def swept(order, devices):
    """The jitted program of a sweep, and its arguments."""
    images = np.random.default_rng(0).integers(0, 256, (32, *SHAPE), dtype=np.uint8)
    variables = models.random_variables(MODEL, 0, images[:1] / np.float32(255))
    examples = Examples(images, np.zeros(32, np.int32), np.arange(32, dtype=np.int32))
    settings = Settings(order=order, slots=2, capacity=4, restarts=2, record=True)
    epsilons = np.arange(1, 5) / 255
    stage = Stage(make_pgd, make_pgd(variables), variables, examples, epsilons, settings, devices)
    return stage.program.call, stage.arguments(jax.random.key(0), 5)


def trained(devices):
    """The jitted training step, and its arguments."""
    optimizer = training.build_optimizer(OptimizerConfig(), total_steps=4)
    method = methods.build(TrainConfig(method="pgd", eps=0.1, attack_steps=2), "single")
    whole, rows = mesh.replicated(devices), mesh.sharded(devices)
    step = jax.jit(
        training.make_train_step(MODEL, method, optimizer),
        in_shardings=(whole, rows),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    state = training.init_state(MODEL, method, optimizer, 0, SHAPE)
    return step, (jax.device_put(state, whole), jax.device_put(make_batch(shape=SHAPE), rows))


def summed(devices):
    """A program that does exchange something, where StableHLO already says so."""
    here, everywhere = jax.P(AXIS), jax.P()
    call = jax.shard_map(
        lambda x: jax.lax.psum(x, AXIS), mesh=devices, in_specs=here, out_specs=everywhere
    )
    return jax.jit(call), (jax.device_put(jnp.ones(DEVICES), mesh.sharded(devices)),)


def exported(program, arguments, platform):
    """The module for `platform`, lowered on a CPU."""
    found = jax.export.export(program, platforms=[platform])(*arguments)
    assert found.platforms == (platform,)
    assert found.nr_devices == DEVICES
    return found.mlir_module()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_sweep_and_training_lower_for_accelerators(platform):
    devices = mesh.data_mesh(DEVICES)
    program = exported(*swept("search", devices), platform)
    assert "stablehlo.while" in program
    assert not COLLECTIVE.search(program)
    step = exported(*trained(devices), platform)
    assert "stablehlo.while" in step
    # what jit shares out itself appears once it is compiled; shard_map says it at once
    assert COLLECTIVE.search(exported(*summed(devices), platform))


@pytest.mark.sample(1)
@pytest.mark.parametrize("order", ORDERS)
def test_devices_of_a_sweep_never_talk(order):
    program, arguments = swept(order, mesh.data_mesh(DEVICES))
    text = program.lower(*arguments).compile().as_text()
    assert f"num_partitions={DEVICES}" in text
    assert " while(" in text
    assert not COLLECTIVE.search(text)


def test_devices_that_train_together_do_talk():
    program, arguments = trained(mesh.data_mesh(DEVICES))
    text = program.lower(*arguments).compile().as_text()
    assert f"num_partitions={DEVICES}" in text
    assert COLLECTIVE.search(text)
