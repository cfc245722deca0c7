"""PGD adversarial training (Madry et al. 2018)."""

from advjax.tasks import Task
from advjax.training.methods._attacked import weighted
from advjax.training.methods._base import Inner, Method


def pgd(task: Task, inner: Inner, *, update: str = "adversarial") -> Method:
    """Make the method that minimises the loss of the worst images that PGD finds.

    Args:
      task: from `get_task`.
      inner: an iterated attack with a random start, and its budget.
      update: which images move the running statistics: `clean`, `adversarial` or `both`.

    Raises:
      ValueError: an unknown policy or an impossible budget.
    """
    return weighted("pgd", task, {inner.name: 1.0}, {inner.name: inner}, update=update)
