"""Networks as pure functions: `Model(name, init, apply)` of plain dicts of arrays.

    model = models.resnet18(num_classes=7, width=16)
    variables = model.init(jax.random.key(0), x)
    logits = model.apply(variables, x)

Normalisation is inside the model: `x` is `[B, H, W, C]` in [0, 1]. On a CPU the models of the zoo
give a row the same bits in every batch, whatever its size, so that attacks do not depend on how a
data set is split. `from_fn`, `from_linen` and `from_nnx` adapt other networks.
"""

from advjax.models._adapters import detect_mode, from_fn, from_linen, from_nnx
from advjax.models._attn_vgg import attention_maps, attn_vgg
from advjax.models._base import Model, random_variables
from advjax.models._build import ZOO, build, output_of
from advjax.models._centernet import centernet
from advjax.models._densenet import densenet121
from advjax.models._gap import gap_resnet, gap_unet
from advjax.models._inception import inception_v3
from advjax.models._mobilenet import mobilenet_v2
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
from advjax.models._segnet import segnet
from advjax.models._small_cnn import small_cnn
from advjax.models._taps import layer_shapes, with_tap
from advjax.models._torch_weights import load_torch, read_weights, torch_sizes, torch_stem
from advjax.models._transpose import conv_transpose
from advjax.models._unet import unet
from advjax.models._vgg import vgg16_bn
from advjax.models._wide_resnet import wide_resnet

__all__ = [
    "ZOO",
    "Model",
    "attention_maps",
    "attn_vgg",
    "build",
    "centernet",
    "conv",
    "conv_transpose",
    "dense",
    "densenet121",
    "depthwise_conv",
    "detect_mode",
    "from_fn",
    "from_linen",
    "from_nnx",
    "gap_resnet",
    "gap_unet",
    "global_mean",
    "in_precision",
    "inception_v3",
    "lax_ops_in_use",
    "layer_shapes",
    "load_torch",
    "max_pool",
    "mobilenet_v2",
    "output_of",
    "random_variables",
    "read_weights",
    "resnet18",
    "resnet34",
    "resnet50",
    "segnet",
    "small_cnn",
    "torch_sizes",
    "torch_stem",
    "unet",
    "use_lax_ops",
    "vgg16_bn",
    "wide_resnet",
    "with_tap",
]
