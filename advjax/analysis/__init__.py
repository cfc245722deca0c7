"""Analyses of models and attacks: arrays in, arrays out; the report draws them.

shown = analysis.saliency(model.apply, variables, x)
shown = analysis.grad_cam(model, variables, x, analysis.last_map(model, variables, x))
told = jax.jit(lambda p, x, y: analysis.trace(make_attack(p), key, x, y, 8 / 255))(variables, x, y)
frames = analysis.perturbations.video("rotate", keys, x)
score = metrics.flip_probability(predictions_of(frames))
"""

from advjax.analysis import perturbations
from advjax.analysis._features import features, fisher_ratio, principal_axes, silhouette
from advjax.analysis._saliency import (
    cam_shift,
    grad_cam,
    last_map,
    logit_of,
    predicted_logit,
    saliency,
)
from advjax.analysis._traces import (
    Spread,
    Trace,
    perturbation_variance,
    sigmoid_kl,
    sigmoid_to,
    softmax_kl,
    softmax_to,
    trace,
)

__all__ = [
    "Spread",
    "Trace",
    "cam_shift",
    "features",
    "fisher_ratio",
    "grad_cam",
    "last_map",
    "logit_of",
    "perturbation_variance",
    "perturbations",
    "predicted_logit",
    "principal_axes",
    "saliency",
    "sigmoid_kl",
    "sigmoid_to",
    "silhouette",
    "softmax_kl",
    "softmax_to",
    "trace",
]
