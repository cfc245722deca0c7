"""What a sweep is given, checked before any compute, with the remedy in the message."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from advjax.attacks import check_pixels
from advjax.engine._plan import ORDERS
from advjax.mesh import AXIS
from advjax.random import typed
from advjax.types import Objective, PyTree

MakeAttack = Callable[[PyTree], Any]


class Examples(NamedTuple):
    """Images, targets and identities as NumPy arrays with a leading `[N]`."""

    images: np.ndarray
    targets: PyTree
    ids: np.ndarray


def check_examples(x: Any, y: PyTree, ids: Any, bounds: tuple[Any, Any]) -> Examples:
    """Return the examples as NumPy, images as uint8 where that loses nothing.

    Raises:
      ValueError: sizes differ, there is no example, pixels are NaN or out of bounds, identities
        are not unique integers.
    """
    images = np.asarray(x)
    if images.ndim == 0 or images.dtype == object:
        raise ValueError(f"x: expected images [N, H, W, C], got {type(x).__name__}")
    if images.dtype in (np.float16, jnp.bfloat16):
        # half precision cannot tell the pixels of a small ball apart
        images = images.astype(np.float32)
    if images.dtype.kind == "f":
        # float64 where JAX has it
        images = images.astype(jax.dtypes.canonicalize_dtype(images.dtype))
    plain = isinstance(y, list | tuple) and all(np.ndim(label) == 0 for label in y)
    if plain or (isinstance(y, list) and all(isinstance(row, list) for row in y)):
        y = np.asarray(y)
    targets = jax.tree.map(np.asarray, y)
    leaves = jax.tree.leaves(targets)
    if not leaves or any(leaf.ndim == 0 or leaf.dtype.kind not in "iufb" for leaf in leaves):
        raise ValueError(
            f"y: expected labels [N], or a tree of numbers with a leading [N], got {y!r:.80}"
        )
    identities = np.arange(len(images)) if ids is None else np.asarray(ids)
    sizes = {"x": len(images), "ids": len(identities)}
    sizes |= {f"y[{i}]": len(leaf) for i, leaf in enumerate(leaves)}
    if len(set(sizes.values())) != 1 or len(images) == 0:
        raise ValueError(f"x, y and ids need the same non-zero number of examples, got {sizes}")
    if images.ndim < 2 or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        raise ValueError(
            f"x: expected uint8 or floating images [N, H, W, C], got {images.dtype}"
            f"{list(images.shape)}"
        )
    if not np.issubdtype(identities.dtype, np.integer) or identities.ndim != 1:
        raise ValueError(f"ids: expected integers [N], got {identities.dtype}{identities.shape}")
    if abs(identities).max() > np.iinfo(np.int32).max:
        raise ValueError(f"ids: must fit into 32 bits, got {abs(identities).max()}")
    if len(np.unique(identities)) < len(identities):
        raise ValueError("ids: must be unique, since an example's randomness comes from its id")
    if images.dtype == np.uint8 and np.max(np.asarray(bounds[1])) >= 255:
        raise ValueError(
            "x: uint8 images stand for k / 255, but the bounds of the ball go up to 255; pass "
            "floats, or keep the bounds (0, 1) and let the model divide nothing"
        )
    if images.dtype != np.uint8:
        check_pixels(images, bounds)
        images = _as_uint8(images)
    elif not (np.all(np.asarray(bounds[0]) <= 0) and np.all(np.asarray(bounds[1]) >= 1)):
        check_pixels(images.astype(np.float32) / np.float32(255), bounds)
    return Examples(images, targets, identities.astype(np.int32))


def check_labels(output: PyTree, targets: PyTree) -> None:
    """Check that labels `[N]` are classes of a model with one output `[C]` per image.

    Integers `[N, L]` beside outputs `[L]` are findings: 0, 1, or below 0 for not known.

    Raises:
      ValueError: one is not.
    """
    outputs, labels = jax.tree.leaves(output), jax.tree.leaves(targets)
    if len(outputs) != 1 or len(labels) != 1 or outputs[0].ndim != 1:
        return
    classes, found = outputs[0].shape[0], labels[0]
    if found.shape[1:] == (classes,) and np.issubdtype(found.dtype, np.integer):
        bad = np.flatnonzero((found > 1).any(1))
        if len(bad):
            raise ValueError(
                f"y: image {bad[0]} has a label {found[bad[0]].max()}; findings are 0 or 1, and "
                "-1 where it is not known"
            )
    if found.ndim == 1 and classes > 1 and not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"y: labels [N] of {classes} classes are integers, got {found.dtype}")
    if found.ndim == 1 and classes > 1:
        bad = np.flatnonzero((found < 0) | (found >= classes))
        if len(bad):
            raise ValueError(
                f"y: label {found[bad[0]]} of image {bad[0]} is no class of a model with "
                f"{classes} outputs; labels are 0 to {classes - 1}"
            )


def check_fit(objective: Objective, output: PyTree, targets: PyTree) -> None:
    """Check that the loss and the criterion of an attack take outputs and targets of these shapes.

    Args:
      objective: of the attack; one of several models or draws looks at its own outputs.
      output: shapes of what the model returns for one image.
      targets: of all examples.

    Raises:
      ValueError: they do not.
    """

    def shape(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], jax.dtypes.canonicalize_dtype(leaf.dtype))

    one = jax.tree.map(shape, targets)
    for name in () if objective.composite else ("loss", "criterion"):
        try:
            jax.eval_shape(getattr(objective, name), output, one)
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            label, outputs = (
                ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(tree))
                for tree in (one, output)
            )
            raise ValueError(
                f"y: the {name} of the attack takes no label of shape {label} beside outputs of "
                f"shape {outputs} ({said:.200}); labels of one class each are integers [N]"
            ) from error


def _as_uint8(images: np.ndarray) -> np.ndarray:
    """Return images as uint8 if they are k / 255 to the last bit, else unchanged."""
    if images.dtype != np.float32 or images.min() < 0 or images.max() > 1:
        return images
    levels = np.round(images * 255).astype(np.uint8)
    same = np.array_equal(levels.astype(np.float32) / np.float32(255), images)
    return levels if same else images


def one_label_each(y: Any) -> np.ndarray:
    """Return the labels `[N]` of AutoAttack as int32.

    Raises:
      ValueError: they are something else.
    """
    labels = np.asarray(y)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"y: AutoAttack is about one label an image, integers [N], got {labels.dtype}"
            f"{list(labels.shape)}; for several findings an image use engine.sweep with attacks.pgd"
        )
    return labels.astype(np.int32)


def check_epsilons(epsilons: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the budgets `[E]` in float64.

    Raises:
      ValueError: they are not positive, finite and strictly increasing.
    """
    try:
        budgets = np.asarray(epsilons, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"epsilons: expected numbers such as 8/255, got {epsilons!r}") from None
    good = budgets.ndim == 1 and budgets.size > 0 and np.isfinite(budgets).all()
    if budgets.ndim == 0:
        raise ValueError(f"epsilons: expected a list of budgets, got {epsilons!r} alone")
    # as they are attacked
    used = budgets.astype(jax.dtypes.canonicalize_dtype(np.float64))
    if not good or used[0] <= 0 or (np.diff(used) <= 0).any():
        raise ValueError(
            "epsilons: must be positive and strictly increasing, in [0, 1] pixel units "
            f"(8/255, not 8), got {np.asarray(epsilons).tolist()}"
        )
    return budgets


def stacked(params: PyTree) -> tuple[int, PyTree]:
    """Return how many models there are and their parameters, stacked if they are several.

    Args:
      params: a list or tuple of trees, one a model; or one tree of leaves `[models, ...]`.

    Raises:
      ValueError: there is no model, or the models differ in structure or shapes.
    """
    if type(params) in (list, tuple):
        trees = list(params)
        structures = {jax.tree.structure(tree) for tree in trees}
        shapes = {tuple(np.shape(leaf) for leaf in jax.tree.leaves(tree)) for tree in trees}
        if len(structures) != 1 or len(shapes) != 1:
            raise ValueError(
                f"params: {len(trees)} models of {len(structures)} structures and {len(shapes)} "
                "sets of shapes; only models of one architecture can be swept at once"
            )
        if len(trees) == 1:
            return 1, trees[0]
        return len(trees), jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(
            f"params: leaves have leading axes {sorted(sizes)}; pass a list of parameters, one a "
            "model, or one tree of leaves [models, ...]"
        )
    models = sizes.pop()[0]
    return models, params if models > 1 else jax.tree.map(lambda leaf: leaf[0], params)


def check_settings(
    order: str, restarts: int, slots: int | None, quantise: int | None, warm_start: bool
) -> None:
    """Check the plain numbers of a sweep.

    Raises:
      ValueError: one of them makes no sense.
    """
    for name, value in (("restarts", restarts), ("slots", 1 if slots is None else slots)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"{name}: must be an integer, got {value!r}")
    if order not in ORDERS:
        raise ValueError(f"order: {order!r} is unknown; known: {', '.join(ORDERS)}")
    if restarts < 1:
        raise ValueError(f"restarts: must be at least 1, got {restarts}")
    if slots is not None and slots < 1:
        raise ValueError(f"slots: must be at least 1, got {slots}")
    if quantise not in (None, 8, 12, 16):
        raise ValueError(f"quantise: must be None, 8, 12 or 16 bits, got {quantise}")
    if warm_start and order != "ascending":
        raise ValueError(
            f'warm_start: only a climb goes on from its last failure: order="ascending", not '
            f"{order!r}"
        )


def check_calls(resume: Any, diagnose: Any, **calls: Any) -> None:
    """Check the folder of a sweep, and that what it is to call can be called.

    Raises:
      ValueError: one of them is something else.
    """
    for name, call in calls.items():
        if call is not None and not callable(call):
            raise ValueError(f"{name}: expected a function or None, got {call!r}")
    if not isinstance(diagnose, bool | np.bool_):
        raise ValueError(f"diagnose: expected True or False, got {diagnose!r}")
    if resume is not None and not isinstance(resume, str | os.PathLike):
        raise ValueError(f"resume: expected a folder or None, got {resume!r}")


def check_resources(key: Any, mesh: Any, memory_limit: Any) -> None:
    """Check the key, the devices and the memory of a sweep.

    Raises:
      ValueError: one of them is something else.
    """
    if key is None:
        raise ValueError("key: expected one key, jax.random.key(0), got None")
    if jnp.ndim(typed(key)) != 0:
        raise ValueError(f"key: expected one key, jax.random.key(0), got {jnp.shape(key)}")
    if mesh is not None and (not isinstance(mesh, Mesh) or mesh.axis_names != (AXIS,)):
        told = f"axes {mesh.axis_names}" if isinstance(mesh, Mesh) else repr(mesh)
        raise ValueError(f"mesh: expected advjax.mesh.data_mesh(number of devices), got {told}")
    whole = isinstance(memory_limit, int | np.integer) and not isinstance(memory_limit, bool)
    if not whole or memory_limit < 1:
        raise ValueError(f"memory_limit: expected a number of bytes above 0, got {memory_limit!r}")
