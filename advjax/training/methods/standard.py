"""Standard training: the mean loss of clean images."""

from advjax.tasks import Task
from advjax.training.methods._attacked import weighted
from advjax.training.methods._base import CLEAN, Method
from advjax.training.methods.distillation import check_temperature
from advjax.types import Array, Target


def standard(task: Task, *, temperature: float = 1.0) -> Method:
    """Make the method that minimises the loss of clean images.

    Args:
      task: from `get_task`.
      temperature: divides the outputs inside the loss; for the teacher of defensive distillation.

    Returns:
      A `Method` without state; clean images update the running statistics.

    Raises:
      ValueError: the temperature is not positive.
    """
    check_temperature(temperature)
    if temperature != 1:
        plain = task.loss

        def loss(output: Array, target: Target) -> Array:
            return plain(output / temperature, target)

        task = task._replace(loss=loss)
    return weighted("standard", task, {CLEAN: 1.0}, {})
