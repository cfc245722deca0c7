"""Fast adversarial training (Wong et al. 2020): one step from a random start."""

from advjax.tasks import Task
from advjax.training.methods._attacked import weighted
from advjax.training.methods._base import Inner, Method


def fast(task: Task, inner: Inner, *, update: str = "adversarial") -> Method:
    """Make the method that minimises the loss of images one step from a random point of the ball.

    A step of 0 trains on random noise. Training may collapse within an epoch to a model that only
    single steps do not break ("catastrophic overfitting"): `train` measures PGD-5 after every epoch
    and says so.

    Args:
      task: from `get_task`.
      inner: RS-FGSM, steps of 1.25 eps.
      update: which images move the running statistics: `clean`, `adversarial` or `both`.

    Raises:
      ValueError: an unknown policy or an impossible budget.
    """
    return weighted("fast", task, {inner.name: 1.0}, {inner.name: inner}, update=update)
