"""Standard training: the mean loss of clean images."""

from advjax.training.methods._base import CLEAN, Method, Task, weighted


def standard(task: Task) -> Method:
    """Make the method that minimises the loss of clean images.

    Args:
      task: from `get_task`.

    Returns:
      A `Method` without state; clean images update the running statistics.
    """
    return weighted("standard", task, {CLEAN: 1.0}, {})
