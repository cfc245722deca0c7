"""Methods whose loss compares the clean and the adversarial output of each image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax.tasks import Task
from advjax.training.methods._attacked import (
    Version,
    budget_state,
    budgets,
    check_policy,
    forward,
    masked_mean,
    perturb,
)
from advjax.training.methods._base import CLEAN, Aux, Inner, Method, compose
from advjax.types import Array, Batch, LossFn, PyTree

ADVERSARIAL = "adversarial"

Rows = Callable[[dict[str, Array], Batch, PyTree, PyTree], Array]


def paired(
    name: str,
    task: Task,
    inner: Inner,
    rows: Rows,
    *,
    update: str,
    constants: dict[str, Any],
    divergence: LossFn | None = None,
    more: Callable[..., PyTree] | None = None,
) -> Method:
    """Make a method of a loss that sees two versions of each image, and a third one where wanted.

    Each version is one forward pass in training mode; clean and adversarial images move the running
    statistics as `update` says, those of `more` never do.

    Args:
      name: of the method.
      task: loss and accuracy of one example.
      inner: the attack.
      rows: `(outputs by version, batch, method_state, views) -> [B]`, the loss of every row; the
        versions are `"clean"`, `"adversarial"` and `"further"`.
      update: `"clean"`, `"adversarial"` or `"both"`.
      constants: what of the loss is a leaf of the method's state, such as `beta`.
      divergence: what the attack ascends instead of the loss of the task; see `perturb`.
      more: `(batch, adversarial images, method_state) -> views` to have beside `"adversarial"`;
        `"further"` are images.

    Raises:
      ValueError: an unknown policy, an impossible budget or a negative weight.
    """
    check_policy({inner.name: inner}, update)
    for constant, value in constants.items():
        if isinstance(value, float | int) and not value >= 0:
            raise ValueError(f"{name}: {constant} must not be negative, got {value}")

    def init(params: PyTree) -> PyTree:
        del params
        fixed = jax.tree.map(lambda leaf: jnp.asarray(leaf, _dtype(leaf)), constants)
        return {inner.name: budget_state(inner), **fixed}

    def prepare(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any
    ) -> Any:
        images = perturb(
            inner, task, apply, {"params": params, **model_state}, batch, key=key,
            divergence=divergence, **budgets(inner, state[inner.name], key, batch),
        )  # fmt: skip
        views = {ADVERSARIAL: images}
        return views if more is None else {**views, **more(batch, images, state)}

    def objective(
        apply: Any, params: Any, model_state: Any, batch: Batch, key: Any, state: Any, views: Any
    ) -> tuple[Array, Aux]:
        versions = {
            CLEAN: Version(batch.image, True, update != ADVERSARIAL),
            ADVERSARIAL: Version(views[ADVERSARIAL], True, update != CLEAN),
        }
        if "further" in views:
            versions["further"] = Version(views["further"], True, False)
        outputs, new = forward(apply, params, model_state, versions, key)
        right = jax.vmap(task.accuracy)
        metrics = {
            "loss": rows(outputs, batch, state, views),
            "accuracy": right(outputs[ADVERSARIAL], batch.target),
            "accuracy_clean": right(outputs[CLEAN], batch.target),
        }
        return masked_mean(metrics["loss"], batch.valid), Aux(new, state, metrics)

    return compose(name, init, prepare, objective)


def _dtype(leaf: Any) -> Any:
    return jnp.float32 if isinstance(leaf, float | int) else leaf.dtype
