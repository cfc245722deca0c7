"""Networks as pure functions: `Model(name, init, apply)` of plain dicts of arrays.

    model = models.resnet18(num_classes=7, width=16)
    variables = model.init(jax.random.key(0), x)
    logits = model.apply(variables, x)

Normalisation is inside the model: `x` is `[B, H, W, C]` in [0, 1]. On a CPU the models of the zoo
give a row the same bits in every batch, whatever its size, so that attacks do not depend on how a
data set is split. `from_fn`, `from_linen` and `from_nnx` adapt other networks.
"""

from advjax.models._adapters import detect_mode, from_fn, from_linen, from_nnx
from advjax.models._base import Model, random_variables
from advjax.models._build import ZOO, build
from advjax.models._ops import (
    conv,
    depthwise_conv,
    lax_ops_in_use,
    max_pool,
    use_lax_ops,
)
from advjax.models._precision import in_precision
from advjax.models._resnet import resnet18, resnet34, resnet50
from advjax.models._rows import dense, global_mean
from advjax.models._small_cnn import small_cnn
from advjax.models._taps import layer_shapes, with_tap

__all__ = [
    "ZOO",
    "Model",
    "build",
    "conv",
    "dense",
    "depthwise_conv",
    "detect_mode",
    "from_fn",
    "from_linen",
    "from_nnx",
    "global_mean",
    "in_precision",
    "lax_ops_in_use",
    "layer_shapes",
    "max_pool",
    "random_variables",
    "resnet18",
    "resnet34",
    "resnet50",
    "small_cnn",
    "use_lax_ops",
    "with_tap",
]
