"""TRADES (Zhang et al. 2019): accuracy on clean images, and predictions that do not move."""

import jax

from advjax.tasks import Task
from advjax.training.methods._attacked import divergence
from advjax.training.methods._base import CLEAN, Inner, Method
from advjax.training.methods._paired import ADVERSARIAL, paired
from advjax.types import Array, Batch, PyTree


def trades(task: Task, inner: Inner, *, beta: float = 6.0, update: str = "adversarial") -> Method:
    """Make the method that minimises `loss(f(x), y) + beta * KL(f(x) || f(x'))`.

    The attack ascends the same divergence. For several labels the divergence is the mean of those
    of the labels, for segmentation that of the pixels. The divergence needs no label, so that
    findings that are unknown take part in it.

    Args:
      task: from `get_task`.
      inner: an attack that starts with Gaussian noise (0.001 in the paper's code).
      beta: weight of the divergence; 0 is standard training on clean images.
      update: which images move the running statistics: `clean`, `adversarial` or `both`
        (the authors' code: both).

    Raises:
      ValueError: an unknown policy, an impossible budget or a negative beta.
    """

    def rows(outputs: dict[str, Array], batch: Batch, state: PyTree, views: PyTree) -> Array:
        del views
        return trades_rows(task, outputs, batch, state["beta"])

    return paired(
        "trades", task, inner, rows, update=update, constants={"beta": beta},
        divergence=divergence(task),
    )  # fmt: skip


def trades_rows(task: Task, outputs: dict[str, Array], batch: Batch, beta: Array) -> Array:
    """Return the loss of every row `[B]`."""
    clean, moved = outputs[CLEAN], outputs[ADVERSARIAL]
    return jax.vmap(task.loss)(clean, batch.target) + beta * jax.vmap(divergence(task))(
        moved, clean
    )
