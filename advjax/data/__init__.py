"""Medical images as checked numpy arrays: phantoms, `.npz` files and folders.

dataset = data.load(DataConfig(source="phantom:dermoscopy"))
for batch in data.batches(dataset.train, 64, seed=0, epoch=0, shuffle=True):
    images = data.augment(key, batch.image, AugmentConfig(flip_horizontal=True))
"""

from advjax.data import phantoms
from advjax.data._augment import augment
from advjax.data._floor import ridge_floor
from advjax.data._load import class_counts, describe, find, fingerprint, load
from advjax.data._pipeline import PADDING_ID, batches, epoch_order, make_batch, num_batches
from advjax.data._spec import SPLITS, Dataset, Progress, Split
from advjax.data.phantoms import Phantom, PhantomSpec

__all__ = [
    "PADDING_ID",
    "SPLITS",
    "Dataset",
    "Phantom",
    "PhantomSpec",
    "Progress",
    "Split",
    "augment",
    "batches",
    "class_counts",
    "describe",
    "epoch_order",
    "find",
    "fingerprint",
    "load",
    "make_batch",
    "num_batches",
    "phantoms",
    "ridge_floor",
]
