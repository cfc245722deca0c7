"""Weights that training starts from: those of another run, or of a PyTorch checkpoint."""

import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import models, tree
from advjax.config import TrainConfig
from advjax.data import Dataset
from advjax.models import Model
from advjax.training._restore import restore_model
from advjax.types import PyTree

_SHOWN = 3


def load(config: TrainConfig, dataset: Dataset, model: Model) -> PyTree | None:
    """Return the first variables of a run, or None where they are drawn.

    All of them are those of `config.pretrained`, but for a last layer of another number of outputs,
    which is drawn from the seed and named on a line of its own. For grey images, kernels of several
    channels are added up: a network that sees the image, normalised by the mean and std of this
    config, in every channel.

    Raises:
      FileNotFoundError: `config.pretrained` is neither a run with a checkpoint nor a file.
      ValueError: it has another network.
    """
    if config.pretrained is None:
        return None
    given, about, outputs, fields = _read(config)
    image = jnp.zeros((1, *dataset.image_shape), jnp.float32)
    grey = dataset.image_shape[-1] == 1
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    fits = (outputs, int(dataset.num_classes))
    # equal shapes do not make an equal function
    other = [
        f"model.{name} is {value} there and {getattr(config.model, name)} here"
        for name, value in fields.items()
        if _as_tuple(value) != _as_tuple(getattr(config.model, name))
    ]
    given, summed = _added_up(shapes, given) if grey else (given, [])
    drawn, wrong = _compare(shapes, given, fits)
    if other or wrong:
        raise ValueError(
            f"pretrained: {config.pretrained} ({about}) has another network than this config "
            f"({'; '.join(other + wrong)}); give model and data the name, width, stem, mean, std "
            "and channels of it"
        )
    if summed:
        print(f"{config.out}: {', '.join(summed)}: added up over the channels, for grey images")
    if not drawn:
        return given
    print(f"{config.out}: {', '.join(drawn)} of {fits[1]} outputs, not {fits[0]}: drawn anew")
    fresh = jax.jit(lambda key: model.init(key, image))(jax.random.key(config.seed))
    return _merged(fresh, given)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    """Return the moments of each channel without repetition: one number for all is that number."""
    values = tuple(np.atleast_1d(value).tolist())
    return values[:1] if len(set(values)) == 1 else values


def _read(config: TrainConfig) -> tuple[PyTree, str, int, dict[str, Any]]:
    """Return variables, what they are of, their outputs, and fields of the model that must agree.

    A file of PyTorch does not say how pixels were normalised.
    """
    source, name = Path(str(config.pretrained)), config.model.name
    if source.is_dir():
        _, variables, theirs, info = restore_model(source)
        about = f"{theirs.model.name}, width {theirs.model.width}, stem {theirs.model.stem}"
        choices = inspect.signature(models.ZOO[theirs.model.name]).parameters
        names = [name for name in ("stem", "mean", "std") if name in choices]
        fields = {name: getattr(theirs.model, name) for name in ("name", *names)}
        return variables, about, int(info["num_classes"]), fields
    if not source.exists():
        raise FileNotFoundError(
            f"pretrained: {source} is not there; name the folder of a run of `advjax train`, or a "
            "file of PyTorch weights"
        )
    weights = models.read_weights(source)
    outputs, channels = models.torch_sizes(name, weights)
    _, variables = models.load_torch(name, weights)
    stem = models.torch_stem(name, weights)
    fields = {} if stem is None else {"stem": stem}
    return variables, f"{name} of PyTorch, {channels} channels", outputs, fields


def _added_up(shapes: PyTree, given: PyTree) -> tuple[PyTree, list[str]]:
    """Add up kernels `[h, w, C, out]` where `[h, w, 1, out]` is asked for; return their names."""
    ours, summed = _by_name(shapes), []

    def one(path: Any, leaf: jax.Array) -> jax.Array:
        name = tree.name_of(path)
        mine = ours[name].shape if name in ours else leaf.shape
        if leaf.ndim != 4 or leaf.shape[2] == 1 or mine != (*leaf.shape[:2], 1, leaf.shape[3]):
            return leaf
        summed.append(name)
        return jnp.sum(leaf, 2, keepdims=True)

    return jax.tree_util.tree_map_with_path(one, given), summed


def _compare(shapes: PyTree, given: PyTree, fits: tuple[int, int]) -> tuple[list[str], list[str]]:
    """Return names of leaves of another number of outputs, and what else is another."""
    ours, theirs = _by_name(shapes), _by_name(given)
    drawn, wrong = [], []
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            wrong.append(f"{name} is {'not there' if name in ours else 'there only'}")
            continue
        mine, other = ours[name].shape, theirs[name].shape
        if mine == other:
            continue
        if mine[:-1] == other[:-1] and (other[-1], mine[-1]) == fits:
            drawn.append(name)
        else:
            wrong.append(f"{name} is {other} there and {mine} here")
    more = len(wrong) - _SHOWN
    return drawn, wrong[:_SHOWN] + ([f"{more} more"] if more > 0 else [])


def _merged(fresh: PyTree, given: PyTree) -> PyTree:
    theirs = _by_name(given)

    def choose(path: Any, leaf: jax.Array) -> jax.Array:
        other = theirs[tree.name_of(path)]
        return other if other.shape == leaf.shape else leaf

    return jax.tree_util.tree_map_with_path(choose, fresh)


def _by_name(variables: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {tree.name_of(path): leaf for path, leaf in leaves}
