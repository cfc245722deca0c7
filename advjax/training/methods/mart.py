"""MART (Wang et al. 2020), and MAAdvT (Xu et al. 2021), which is MART with drawn step counts."""

import jax

from advjax import losses
from advjax.tasks import Task
from advjax.training.methods._base import CLEAN, Inner, Method
from advjax.training.methods._paired import ADVERSARIAL, paired
from advjax.types import Array, Batch, PyTree

_LOSSES = {"single": losses.mart, "multi": losses.mart_multilabel}


def mart(
    task: Task,
    inner: Inner,
    *,
    beta: float = 6.0,
    update: str = "adversarial",
    name: str = "mart",
) -> Method:
    """Make the method that minimises `losses.mart`, for several labels `losses.mart_multilabel`.

    The attack ascends the loss of the task.

    Args:
      task: from `get_task`, `"single"` or `"multi"`.
      inner: an attack that starts with Gaussian noise (0.001 in the paper's code).
      beta: weight of the divergence, which examples that are misclassified feel most.
      update: which images move the running statistics: `clean`, `adversarial` or `both`
        (the authors' code: both).
      name: for reports.

    Raises:
      ValueError: another task, an unknown policy, an impossible budget or a negative beta.
    """
    if task.name not in _LOSSES:
        raise ValueError(
            f"method: {name} knows tasks {', '.join(_LOSSES)}, not {task.name!r}; use pgd or trades"
        )
    loss = _LOSSES[task.name]

    def rows(outputs: dict[str, Array], batch: Batch, state: PyTree, views: PyTree) -> Array:
        del views

        def one(clean: Array, moved: Array, target: Array) -> Array:
            return loss(clean, moved, target, beta=state["beta"])

        return jax.vmap(one)(outputs[CLEAN], outputs[ADVERSARIAL], batch.target)

    return paired(name, task, inner, rows, update=update, constants={"beta": beta})
