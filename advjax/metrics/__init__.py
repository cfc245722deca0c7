"""Metrics: two figures of robustness, classification metrics, and intervals that are paired.

Final metrics run on the host in NumPy float64; `streaming_*` are sums for `jit`. Wherever a
number does not exist (0/0: a class without an example), it is NaN and the class is named in
`PerClass.undefined`; it is never silently dropped and never 0.
"""

from advjax.metrics._bootstrap import bootstrap, proportion_interval, resamples, weighted_mean
from advjax.metrics._calibration import expected_calibration_error
from advjax.metrics._classification import (
    accuracy,
    balanced_accuracy,
    confidence,
    confusion_matrix,
    label_accuracy,
    mean_confidence,
    predicted,
    quadratic_kappa,
    sensitivity_specificity,
)
from advjax.metrics._detection import (
    average_precision,
    box_iou,
    mean_average_precision,
    weighted_average_precision,
)
from advjax.metrics._fooling import (
    flip_probability,
    fooling_rate,
    label_flip_probability,
    target_rate,
)
from advjax.metrics._labels import co_occurrence, label_correlation, paired_correlation
from advjax.metrics._ranking import auroc, questions, weighted_auroc
from advjax.metrics._robustness import (
    Norms,
    NormSummary,
    accuracy_under_attack,
    broken_alone,
    broken_up_to,
    minimal_budget,
    norm_summary,
    perturbation_norms,
    robust_accuracy,
)
from advjax.metrics._segmentation import (
    class_pixel_accuracy,
    dice,
    image_dice,
    image_iou,
    image_pixel_accuracy,
    iou,
    mean_iou,
    overlap,
    pixel_accuracy,
)
from advjax.metrics._streaming import (
    Streaming,
    correct,
    streaming_accuracy,
    streaming_confusion,
    streaming_mean,
)
from advjax.metrics._types import Interval, PerClass, Rates

__all__ = [
    "Interval",
    "NormSummary",
    "Norms",
    "PerClass",
    "Rates",
    "Streaming",
    "accuracy",
    "accuracy_under_attack",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap",
    "box_iou",
    "broken_alone",
    "broken_up_to",
    "class_pixel_accuracy",
    "co_occurrence",
    "confidence",
    "confusion_matrix",
    "correct",
    "dice",
    "expected_calibration_error",
    "flip_probability",
    "fooling_rate",
    "image_dice",
    "image_iou",
    "image_pixel_accuracy",
    "iou",
    "label_accuracy",
    "label_correlation",
    "label_flip_probability",
    "mean_average_precision",
    "mean_confidence",
    "mean_iou",
    "minimal_budget",
    "norm_summary",
    "overlap",
    "paired_correlation",
    "perturbation_norms",
    "pixel_accuracy",
    "predicted",
    "proportion_interval",
    "quadratic_kappa",
    "questions",
    "resamples",
    "robust_accuracy",
    "sensitivity_specificity",
    "streaming_accuracy",
    "streaming_confusion",
    "streaming_mean",
    "target_rate",
    "weighted_auroc",
    "weighted_average_precision",
    "weighted_mean",
]
