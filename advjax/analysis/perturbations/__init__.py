"""The 14 common perturbations of Xu et al. (2021) as videos of ten frames.

    frames = perturbations.video("snow", keys, images)      # [B, 10, H, W, C]
    rate = perturbations.flip_rate("snow", predictions)     # [B, 10] classes or [B, 10, K] findings

They are those of ImageNet-P (Hendrycks and Dietterich 2019), of whose frames the paper takes the
first ten: a rotation goes from -15 to -6 degrees and never comes to 0, a scale from 40 to 62.5 %.
What the authors' file takes from other libraries is computed here in JAX: a difference of some
grey levels remains, and `spatter` is drawn without its shading. Frames are not rounded to bytes.
"""

from advjax.analysis.perturbations._table import (
    NOISES,
    NUM_FRAMES,
    PERTURBATIONS,
    REFERENCE_SIZE,
    flip_rate,
    video,
)

__all__ = ["NOISES", "NUM_FRAMES", "PERTURBATIONS", "REFERENCE_SIZE", "flip_rate", "video"]
