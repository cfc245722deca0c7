"""Make a `Model` of other people's networks: a function, a Linen module, an nnx module."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax import random
from advjax.models._base import Model, Variables

Array = jax.Array
Mode = Callable[[bool], dict[str, Any]]

# Names under which networks take their mode, and what each one means.
_MODE_ARGUMENTS: dict[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "deterministic": lambda train: not train,
    "use_running_average": lambda train: not train,
}


def detect_mode(fn: Callable[..., Any]) -> Mode:
    """Return what a function has to be called with in training and in evaluation mode.

    Args:
      fn: a function with any of the arguments `train`, `training`, `is_training`,
        `deterministic`, `use_running_average`, or none of them.

    Returns:
      `(train) -> keyword arguments`.
    """
    known = [name for name in inspect.signature(fn).parameters if name in _MODE_ARGUMENTS]
    return lambda train: {name: _MODE_ARGUMENTS[name](train) for name in known}


def from_fn(
    apply_fn: Callable[..., Any],
    init_fn: Callable[[Array, Array], Variables] | None = None,
    *,
    name: str = "fn",
) -> Model:
    """Make a model of a pure function.

    Args:
      apply_fn: `(variables, x) -> logits`, `[B, H, W, C]` to `[B, K]`. With a keyword `train` it
        is called with `train=True, rngs=rngs` in training and returns `(logits, updates)` then;
        without one, training is the same as evaluation and updates nothing.
      init_fn: `(key, x) -> variables`; None if the variables come from elsewhere.
      name: for reports.

    Returns:
      A model; its `init` raises ValueError without an `init_fn`.
    """
    has_modes = "train" in inspect.signature(apply_fn).parameters

    def init(key: Array, x: Array) -> Variables:
        if init_fn is None:
            raise ValueError(f"model {name!r} has no start; give from_fn(..., init_fn) one")
        return init_fn(key, x)

    def apply(
        variables: Variables, x: Array, *, train: bool = False, rngs: dict[str, Array] | None = None
    ) -> Any:
        if not train:
            return apply_fn(variables, x)
        if has_modes:
            return apply_fn(variables, x, train=True, rngs=rngs)
        return apply_fn(variables, x), {}

    return Model(name, init, apply)


def from_linen(module: Any, *, name: str | None = None, mode: Mode | None = None) -> Model:
    """Make a model of a Linen module that is called with one batch of images.

    Args:
      module: a `flax.linen.Module`; `__call__(x, ...)` maps `[B, H, W, C]` to `[B, K]`.
      name: for reports; None: the name of the class.
      mode: `(train) -> keyword arguments` of the call; None: by the names of its arguments, see
        `detect_mode`.

    Returns:
      A model. All collections but the parameters may change in training; dropout needs
      `rngs={"dropout": key}`.
    """
    call_mode = detect_mode(type(module).__call__) if mode is None else mode

    def init(key: Array, x: Array) -> Variables:
        one = jnp.zeros((1, *x.shape[1:]), x.dtype)

        # Compiled: eager, every layer of the forward pass would be computed for nothing.
        @jax.jit
        def start(key: Array) -> Variables:
            rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
            return module.init(rngs, one, **call_mode(False))

        return start(random.typed(key))

    def apply(
        variables: Variables, x: Array, *, train: bool = False, rngs: dict[str, Array] | None = None
    ) -> Any:
        if not train:
            return module.apply(variables, x, **call_mode(False))
        mutable = [collection for collection in variables if collection != "params"]
        return module.apply(variables, x, **call_mode(True), mutable=mutable, rngs=rngs)

    return Model(name or type(module).__name__, init, apply)


def from_nnx(module: Any, *, name: str | None = None) -> Model:
    """Make a model of an nnx module, or of a function that makes one.

    Args:
      module: an `nnx.Module` that maps `[B, H, W, C]` to `[B, K]`, whose values `init` returns;
        or `(rngs: nnx.Rngs) -> nnx.Module`, which `init(key, x)` calls with its key. The mode is
        set by nnx itself (`deterministic`, `use_running_average`), not by an argument.
      name: for reports; None: the name of the class.

    Returns:
      A model of plain dicts: `params` and, where there are any, `batch_stats` and `other`.
      Dropout needs `rngs={"dropout": key}` in training, whatever its stream is called.

    Raises:
      ValueError: `module` makes no nnx module.
    """
    from flax import nnx

    given = isinstance(module, nnx.Module)

    def make(rngs: Any) -> Any:
        node = module(rngs)
        if not isinstance(node, nnx.Module):
            raise ValueError(
                "from_nnx: expected an nnx.Module or a function of nnx.Rngs that returns one, "
                f"got {type(node).__name__}"
            )
        return node

    example = module if given else nnx.eval_shape(lambda: make(nnx.Rngs(0)))

    def split(node: Any) -> tuple[Any, Variables, Any]:
        graph, *states = nnx.split(node, nnx.Param, nnx.BatchStat, nnx.RngState, ...)
        params, stats, streams, other = (nnx.to_pure_dict(state) for state in states)
        rest = {"batch_stats": stats, "other": other}
        return graph, {"params": params} | {k: v for k, v in rest.items() if v}, streams

    def view(train: bool) -> tuple[Any, Any]:
        flags = {"deterministic": not train, "use_running_average": not train}
        graph, _, streams = split(nnx.view(example, raise_if_not_found=False, **flags))
        return graph, streams

    views = {train: view(train) for train in (False, True)}

    def init(key: Array, x: Array) -> Variables:
        del x
        if given:
            return split(module)[1]
        # Compiled: eager, one kernel of the generator would be compiled for every shape.
        return jax.jit(lambda key: split(make(nnx.Rngs(key)))[1])(random.typed(key))

    def apply(
        variables: Variables, x: Array, *, train: bool = False, rngs: dict[str, Array] | None = None
    ) -> Any:
        graph, streams = views[train]
        if train and streams and not rngs:
            raise ValueError(
                "this nnx model draws random numbers in training; pass rngs={'dropout': key}"
            )
        states = [variables["params"], variables.get("batch_stats", {})]
        states += [_seeded(streams, rngs), variables.get("other", {})]
        # copy: batch-norm could not write into variables of an outer trace
        node = nnx.merge(graph, *states, copy=True)
        logits = node(x)
        if not train:
            return logits
        updated = split(node)[1]
        return logits, {k: v for k, v in updated.items() if k != "params"}

    return Model(name or type(example).__name__, init, apply)


def _seeded(streams: Any, rngs: dict[str, Array] | None) -> Any:
    """Give every random stream of an nnx module a key of its own, and count from zero."""
    keys = [rngs[name] for name in sorted(rngs)] if rngs else [jax.random.key(0)]
    base = random.typed((rngs or {}).get("dropout", keys[0]))
    leaves, structure = jax.tree.flatten(streams)
    seeded = [
        jax.random.fold_in(base, index)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, seeded)
