"""One contract, every training method."""

import jax.numpy as jnp
import numpy as np
import pytest

from advjax import models, testing
from advjax.config import TrainConfig
from advjax.training import methods
from advjax.types import Batch


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("name", [*sorted(methods.METHODS), "pgd-awp", "trades-awp"])
def test_method(name, task):
    rng = np.random.default_rng(0)
    variables = {"params": {"w": jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)}}
    # no batch-norm: through its statistics padding rows do reach the others (see the step)
    model = models.from_fn(
        lambda v, x: jnp.tanh(x.reshape(x.shape[0], -1) - 0.5) @ v["params"]["w"], name="linear"
    )
    image = jnp.asarray(rng.uniform(0, 1, (4, 4, 4, 1)), jnp.float32)
    target = jnp.asarray([0, 1, 2, 1]) if task == "single" else jnp.eye(4, 3, dtype=jnp.int32)
    batch = Batch(image, target, jnp.arange(4), jnp.ones(4, bool))
    name, _, wrapped = name.partition("-")
    config = TrainConfig(
        method=name, attack_steps=2, steps_range=(1, 2), batch_size=4, awp=0.01 if wrapped else 0
    )
    other = {"params": {"w": jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)}}
    helper = methods.Helper(model.apply, other)
    method = methods.build(config, task, methods.Context((4, 4, 1), helper))
    testing.check_method(
        method.loss, method.init(variables["params"]), model.apply, variables, batch
    )
