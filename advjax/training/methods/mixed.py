"""Training on clean, FGSM and PGD images together (Jogani et al. 2022, skin lesions)."""

from collections.abc import Sequence

from advjax.tasks import Task
from advjax.training.methods._attacked import weighted
from advjax.training.methods._base import CLEAN, Inner, Method


def mixed(
    task: Task,
    inners: Sequence[Inner],
    *,
    weights: dict[str, float] | None = None,
    update: str = "adversarial",
) -> Method:
    """Make the method that minimises a weighted loss over versions of every image.

    The paper (arXiv 2212.06822) trains on clean, FGSM and PGD images and does not print their
    shares. The default is equal shares: with two attacks, a third of the loss comes from the
    clean batch, a third from each attacked one.

    Args:
      task: from `get_task`.
      inners: the attacks, with different names.
      weights: `"clean"` and the attacks' names -> share of the loss; None: equal shares.
      update: which images move the running statistics: `clean`, `adversarial` or `both`.

    Raises:
      ValueError: attacks of the same name, a weight for an unknown version, shares that are
        negative or do not sum to 1, an unknown policy or an impossible budget.
    """
    versions = {inner.name: inner for inner in inners}
    if len(versions) < len(inners) or CLEAN in versions:
        raise ValueError(
            f"mixed: attacks need different names, none of them {CLEAN!r}; got "
            f"{[inner.name for inner in inners]}"
        )
    if weights is None:
        weights = dict.fromkeys((CLEAN, *versions), 1.0 / (len(versions) + 1))
    if min(weights.values()) < 0 or abs(sum(weights.values()) - 1) > 1e-6:
        raise ValueError(f"mixed: weights must be shares that sum to 1, got {weights}")
    return weighted("mixed", task, weights, versions, update=update)
