"""Small datasets and files for the tests of this folder."""

import numpy as np

from advjax.data import Split


def split(targets, seed=0, size=6):
    targets = np.asarray(targets, np.int32)
    images = np.random.default_rng(seed).integers(0, 256, (len(targets), size, size, 1), np.uint8)
    return Split(images, targets, np.arange(100, 100 + len(targets), dtype=np.int32))


def arrays(numbers=(12, 4, 6), classes=3, size=8, channels=3):
    """A valid npz in the layout of MedMNIST."""
    rng = np.random.default_rng(0)
    found = {}
    for name, n in zip(("train", "val", "test"), numbers, strict=True):
        shape = (n, size, size) if channels == 1 else (n, size, size, channels)
        found[f"{name}_images"] = rng.integers(0, 256, shape, np.uint8)
        found[f"{name}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
    return found
