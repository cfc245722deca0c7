"""FGSM adversarial training (Goodfellow et al. 2015), without the clean half."""

from advjax.tasks import Task
from advjax.training.methods._attacked import weighted
from advjax.training.methods._base import Inner, Method


def fgsm(task: Task, inner: Inner, *, update: str = "adversarial") -> Method:
    """Make the method that minimises the loss of one-step adversarial images.

    One step from the clean image overfits to itself at larger budgets ("catastrophic
    overfitting", Wong et al. 2020): watch the robust validation accuracy, which is measured
    with an iterated attack.

    Args:
      task: from `get_task`.
      inner: a one-step attack and its budget.
      update: which images move the running statistics: `clean`, `adversarial` or `both`.

    Raises:
      ValueError: an unknown policy or an impossible budget.
    """
    return weighted("fgsm", task, {inner.name: 1.0}, {inner.name: inner}, update=update)
