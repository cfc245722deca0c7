"""One contract, every training method."""

import jax.numpy as jnp
import numpy as np
import pytest

from advjax import models, testing
from advjax.config import TrainConfig
from advjax.training import methods
from advjax.types import Batch

NAMES = [*sorted(methods.METHODS), "pgd-awp", "trades-awp"]
MASKED = ("distillation", "gradient", "hat", "trades")
BOXED = ("fast", "free", "gradient", "mixed", "mpadvt", "pgd", "standard")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "task"),
    [(n, t) for n in NAMES for t in ("single", "multi")]
    + [(n, "segmentation") for n in MASKED]
    + [(n, "detection") for n in BOXED],
)
def test_method(name, task):
    rng = np.random.default_rng(0)
    masks, boxes = task == "segmentation", task == "detection"
    shape = (1 if masks else 16, 7 if boxes else 3)

    def weights():
        return {"params": {"w": jnp.asarray(rng.normal(size=shape), jnp.float32)}}

    def apply(variables, x):
        # a detector of one cell
        seen = x if masks else x.reshape(x.shape[0], *[1, 1] * boxes, -1)
        output = jnp.tanh(seen - 0.5) @ variables["params"]["w"]
        cut = {"heatmap": slice(3), "size": slice(3, 5), "offset": slice(5, 7)}
        return {n: output[..., part] for n, part in cut.items()} if boxes else output

    # no batch-norm: through its statistics padding rows do reach the others (see the step)
    variables, model = weights(), models.from_fn(apply, name="linear")
    image = jnp.asarray(rng.uniform(0, 1, (4, 4, 4, 1)), jnp.float32)
    target = {
        "single": jnp.asarray([0, 1, 2, 1]),
        "multi": jnp.eye(4, 3, dtype=jnp.int32),
        "segmentation": jnp.asarray(rng.integers(0, 3, (4, 4, 4)), jnp.int32),
        "detection": jnp.asarray([[[k % 3, 0, 0, 3, 2], [-1] * 5] for k in range(4)], jnp.float32),
    }[task]
    batch = Batch(image, target, jnp.arange(4), jnp.ones(4, bool))
    name, _, wrapped = name.partition("-")
    config = TrainConfig(
        method=name, attack_steps=2, steps_range=(1, 2), batch_size=4, awp=0.01 if wrapped else 0
    )
    helper = methods.Helper(model.apply, weights())
    method = methods.build(config, task, methods.Context((4, 4, 1), helper))
    testing.check_method(
        method.loss, method.init(variables["params"]), model.apply, variables, batch
    )
