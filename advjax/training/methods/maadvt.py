"""MAAdvT, misclassification-aware adversarial training (Xu et al. 2021, single and multi-label)."""

from advjax.tasks import Task
from advjax.training.methods._base import Inner, Method
from advjax.training.methods.mart import mart


def maadvt(task: Task, inner: Inner, *, beta: float = 6.0, update: str = "adversarial") -> Method:
    """Make MAAdvT: the loss of MART, at step counts that each row draws.

    The authors' code has MART's loss unchanged: 4 steps of 0.007 at eps 0.031 and beta 6 for
    melanoma, and 1 to 9 steps of 0.007 at 4/255 and beta 8 for retinopathy. Their multi-label form
    is nowhere printed; here it is MART of two classes, label by label.

    Args:
      task: from `get_task`, `"single"` or `"multi"`.
      inner: an attack that starts with Gaussian noise; its `draws` give every row its budget.
      beta: weight of the divergence.
      update: which images move the running statistics: `clean`, `adversarial` or `both`.

    Raises:
      ValueError: another task, an unknown policy, an impossible budget or a negative beta.
    """
    return mart(task, inner, beta=beta, update=update, name="maadvt")
