"""Checkpoints as PyTorch users have them, made without PyTorch."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from advjax import models
from advjax.models import _torch_layouts, _torch_weights


def state_of(name, options, layout=0, classes=4, channels=3, seed=0):
    """Weights of ours under the names of PyTorch, and ours."""
    model = models.ZOO[name](classes, mean=0, std=1, **options)
    x = jnp.zeros((1, 96, 96, channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    rng, state = np.random.default_rng(seed), {}
    names = _torch_weights.torch_names(_torch_layouts.LAYOUTS[name][layout], shapes)
    for key, shape in names.values():
        state[key] = rng.standard_normal(shape).astype(np.float32)
    return state, shapes


def write(path, arrays, **other):
    """A file as the format's description has it."""
    kinds = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "uint16": "BF16"}
    header, body = dict(other), b""
    for name, array in arrays.items():
        data = array.tobytes()
        header[name] = {
            "dtype": kinds[array.dtype.name], "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }  # fmt: skip
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path
