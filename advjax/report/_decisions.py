"""Multi-label data: decisions, one per image and known finding, beside whole images.

An image is right only when every known finding is decided right at once. With many findings that
is rare even without an attack, so that reports lead with decisions.
"""

from collections.abc import Callable

import numpy as np

from advjax.report._results import Array, Cell, Group, ModelRows

Flags = Callable[[Cell], tuple[Array, Array, Array]]


def right(probabilities: Array, target: Array) -> Array:
    """Whether findings are decided right, the threshold being 1/2; a tie and NaN are not.

    Args:
      probabilities: `[..., N, K]`.
      target: `[N, K]` multi-hot.

    Returns:
      `[..., N, K]` bool; of no meaning where the target is unknown (negative).
    """
    return np.where(target > 0, probabilities > 0.5, probabilities < 0.5)


def flags(group: Group, model: ModelRows) -> Flags:
    """Return what gives a cell's flags.

    The flags are those of `_statistics`: right before any attack `[1, N, K]`, at each budget alone,
    and at this and all smaller ones, each `[E, N, K]`. A decision that is wrong when clean counts
    as wrong everywhere. Where an output is not stored, all decisions of an image are as right as
    the image.
    """

    def decided(cell: Cell, whole: Array) -> Array:
        if cell.probabilities.shape[2] != group.target.shape[1]:
            return np.repeat(whole[:, :, None], group.target.shape[1], 2)
        known = np.isfinite(cell.probabilities).all(-1)
        return np.where(known[..., None], right(cell.probabilities, group.target), whole[..., None])

    images = ~model.wrong[None]
    if model.clean is None:
        before = np.repeat(images[:, :, None], group.target.shape[1], 2)
    else:
        before = decided(model.clean, images)

    def of(cell: Cell) -> tuple[Array, Array, Array]:
        stands = decided(cell, ~cell.success & ~cell.wrong) & before
        return before, stands, np.logical_and.accumulate(stands, axis=0)

    return of


def share(values: Array, target: Array) -> Callable[[Array], Array]:
    """Statistic: the mean over known decisions, `[E, N, K]` -> `[R, E]`; NaN where one is NaN."""
    known = target >= 0
    missing = np.isnan(values).any((1, 2)) if values.dtype.kind == "f" else False
    hits = np.where(known, np.nan_to_num(values.astype(float)), 0.0).sum(-1)
    count = known.sum(-1).astype(float)

    def statistic(weights: Array) -> Array:
        mass = (weights @ count)[:, None]
        mean = np.divide(
            weights @ hits.T, mass, out=np.full((len(weights), len(hits)), np.nan), where=mass > 0
        )
        return np.where(missing, np.nan, mean)

    return statistic
