"""HAT, helper-based adversarial training (Rade and Moosavi-Dezfooli 2022)."""

import jax

from advjax.tasks import Task
from advjax.training.methods._attacked import divergence, predicted
from advjax.training.methods._base import Helper, Inner, Method
from advjax.training.methods._paired import paired
from advjax.training.methods.trades import trades_rows
from advjax.types import Array, Batch, PyTree


def hat(
    task: Task,
    inner: Inner,
    helper: Helper,
    *,
    beta: float = 2.5,
    gamma: float = 0.5,
    reach: float = 2.0,
    update: str = "adversarial",
) -> Method:
    """Make TRADES with helper examples beyond the ball, labelled by a model trained without attack.

    `TRADES + gamma * loss(f(x + reach * (x' - x)), label of the helper at x')`. It keeps the
    margin from growing more than the robustness in the ball needs. As in the authors' code the
    helper examples are not clipped to [0, 1]. They never move the running statistics, for no
    deployed image looks like them (the authors' code: they do).

    Args:
      task: from `get_task`.
      inner: as for TRADES.
      helper: the standard model, in evaluation mode; its variables live in the method's state.
      beta: weight of the divergence.
      gamma: weight of the helper examples; 0 is TRADES.
      reach: how many times the adversarial perturbation they are away, h in the paper.
      update: which images move the running statistics: `clean`, `adversarial` or `both`.

    Raises:
      ValueError: an unknown policy, an impossible budget or a negative weight.
    """

    def more(batch: Batch, moved: Array, state: PyTree) -> PyTree:
        output = helper.apply(state["helper"], moved)
        further = batch.image + state["reach"] * (moved - batch.image)
        return {"further": further, "label": predicted(task, output)}

    def rows(outputs: dict[str, Array], batch: Batch, state: PyTree, views: PyTree) -> Array:
        plain = trades_rows(task, outputs, batch, state["beta"])
        return plain + state["gamma"] * jax.vmap(task.loss)(outputs["further"], views["label"])

    constants = {"beta": beta, "gamma": gamma, "reach": reach, "helper": helper.variables}
    return paired(
        "hat", task, inner, rows, update=update, constants=constants,
        divergence=divergence(task), more=more,
    )  # fmt: skip
