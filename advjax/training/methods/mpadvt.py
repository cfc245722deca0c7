"""MPAdvT, multi-perturbation adversarial training (Xu et al. 2021, MedIA)."""

from advjax.tasks import Task
from advjax.training.methods._attacked import weighted
from advjax.training.methods._base import Inner, Method


def mpadvt(task: Task, inner: Inner, *, update: str = "adversarial") -> Method:
    """Make the method that trains on images attacked with drawn budgets, half of them not at all.

    The authors' code draws once per batch: with probability 1/2 eps uniform in [0.01, 0.04], 1 to 9
    steps of 1/255 from a random start, else the clean batch. Here every row draws for itself
    (`Draws.per="example"`), so that every batch has all strengths in it and one program serves
    them all; `per="batch"` is theirs, and cheaper, since a batch costs as many steps as its
    longest row. Rows that stay clean are part of the adversarial version.

    Args:
      task: from `get_task`.
      inner: PGD with `draws`.
      update: which images move the running statistics: `clean`, `adversarial` or `both`.

    Raises:
      ValueError: the attack draws nothing, an unknown policy or an impossible range.
    """
    if inner.draws is None:
        raise ValueError("mpadvt: the attack needs draws=Draws(eps=..., steps=..., share=0.5)")
    return weighted("mpadvt", task, {inner.name: 1.0}, {inner.name: inner}, update=update)
