"""Expected calibration error: how far confidence is from being right."""

import numpy as np
from numpy.typing import ArrayLike

from advjax.metrics._bootstrap import weighted_mean
from advjax.metrics._types import Array, examples


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of confidence.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, equation 3.

    Args:
      confidence: `[N]` in [0, 1]; for a softmax, `metrics.confidence(probabilities)`.
      correct: `[N]` flags.
      num_bins: bins `(b / num_bins, (b + 1) / num_bins]`; 0 belongs to the first. An empty bin
        (0/0) contributes nothing.

    Raises:
      ValueError: no example, differing sizes, no bin, or a confidence outside [0, 1].
    """
    values, right = examples("expected_calibration_error", confidence, correct)
    if num_bins < 1:
        raise ValueError(f"num_bins: expected at least 1, got {num_bins}")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1 + 1e-6):
        raise ValueError("expected_calibration_error: confidence must lie in [0, 1]")
    inside = _bins(values.astype(np.float64), num_bins) == np.arange(num_bins)[:, None]
    ones = np.ones((1, values.shape[0]))
    gap = np.abs(weighted_mean(values - right.astype(np.float64), ones, inside)[0])
    return float(np.nansum(gap * inside.mean(1)))


def _bins(values: Array, num_bins: int) -> Array:
    """Return the bin of each confidence `[N]`."""
    edges = np.linspace(0.0, 1.0, num_bins + 1)[1:-1]
    return np.searchsorted(edges, values, side="left")
