"""Medical images as checked numpy arrays: phantoms, `.npz` files and folders.

Targets are one class or several findings per image, the class of each pixel, or boxes: `Split`.

dataset = data.load(DataConfig(source="phantom:dermoscopy"))
for batch in data.batches(dataset.train, 64, seed=0, epoch=0, shuffle=True):
    images = data.augment(key, batch.image, AugmentConfig(flip_horizontal=True))
"""

from advjax.data import builders, phantoms
from advjax.data._augment import augment, augment_boxes, augment_pair, check_boxes
from advjax.data._floor import ridge_floor
from advjax.data._load import class_counts, describe, find, fingerprint, load
from advjax.data._medical import window_level
from advjax.data._pipeline import PADDING_ID, batches, epoch_order, make_batch, num_batches
from advjax.data._spec import IGNORE, SPLITS, TASKS, Dataset, Progress, Split
from advjax.data.phantoms import Phantom, PhantomSpec

__all__ = [
    "IGNORE",
    "PADDING_ID",
    "SPLITS",
    "TASKS",
    "Dataset",
    "Phantom",
    "PhantomSpec",
    "Progress",
    "Split",
    "augment",
    "augment_boxes",
    "augment_pair",
    "batches",
    "builders",
    "check_boxes",
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
    "window_level",
]
