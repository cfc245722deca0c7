"""Reader of prepared `tfds` data sets, without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from advjax.config import DataConfig
from advjax.data import _checks, builders
from advjax.data._assemble import assemble
from advjax.data._pixels import pillow
from advjax.data._spec import Dataset, Progress
from advjax.data._targets import Raw


def load_tfds(name: str, config: DataConfig, *, progress: Progress | None = None) -> Dataset:
    """Load what `builders.prepare` has prepared.

    Args:
      name: `NAME`, looked for in `builders.data_dirs()`, or `DIR/NAME`. Of several prepared sizes
        the smallest one is read that is not below `config.size`, or the largest.
      config: task, size, numbers of images and seed.
      progress: wraps the rows of a split.

    Raises:
      FileNotFoundError: the dataset is not prepared.
      ValueError: an unknown dataset, or one that lacks the targets of the task.
    """
    folder, _, last = name.rpartition("/")
    recipe = builders.find(last)
    last = recipe.name
    prepared = _find(last, [Path(folder)] if folder else builders.data_dirs(), config.size)
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(prepared))
    where = f"tfds:{last}"
    raws = {}
    for split in builder.info.splits:
        source = builder.as_data_source(split=split)
        raws[split] = _raw(f"{where}: {split}", source, config.size, progress)
    return assemble(
        where,
        raws,
        config,
        class_names=recipe.class_names or None,
        mask_names=recipe.mask_names or None,
        box_names=recipe.box_names or None,
    )


def _find(name: str, bases: list[Path], size: int | None) -> Path:
    """Return the folder of the version to read."""
    found: dict[int, Path] = {}
    for base in bases:
        for folder in sorted(base.glob(f"{name}/*px/*/dataset_info.json")):
            pixels = folder.parent.parent.name.removesuffix("px")
            if pixels.isdigit():
                found.setdefault(int(pixels), folder.parent)
    if not found:
        places = ", ".join(str(base / name) for base in bases)
        raise FileNotFoundError(
            f"{name} is not prepared (looked in {places}); `advjax data list {name}` says how to "
            f"obtain it, then advjax data prepare {name} --manual-dir DIR"
        )
    enough = [pixels for pixels in found if size is None or pixels >= size]
    return found[max(found) if size is None or not enough else min(enough)]


def _raw(where: str, source: Any, size: int | None, progress: Progress | None) -> Raw:
    """Read all examples of a split, resized one by one: the originals would fill the memory."""
    columns: dict[str, list[Any]] = {}
    numbers = range(len(source))
    for k in numbers if progress is None else progress(numbers):
        for key, value in _resized(source[k], size).items():
            columns.setdefault(key, []).append(value)
    images = np.stack(columns["image"])
    labels = np.array(columns["label"], np.int32) if "label" in columns else None
    masks = np.stack(columns["mask"]) if "mask" in columns else None
    boxes = np.stack(columns["boxes"]) if "boxes" in columns else None
    names, groups = (
        np.array([v.decode() for v in columns[key]]) if key in columns else None
        for key in ("name", "group")
    )
    assert names is not None
    raw = Raw(
        _checks.images(f"{where} images", images),
        labels,
        masks,
        boxes=None if boxes is None else _checks.boxes(f"{where} boxes", boxes, images.shape),
        names=names,
        groups=groups,
    )
    # tfds has shuffled the examples
    return raw.select(np.argsort(names, kind="stable"))


def _resized(example: dict[str, Any], size: int | None) -> dict[str, Any]:
    height = example["image"].shape[0]
    if size is None or size == height:
        return example
    pil = pillow()
    channels = example["image"].shape[2]
    image = pil.fromarray(example["image"][..., 0] if channels == 1 else example["image"])
    small = np.asarray(image.resize((size, size), pil.Resampling.BILINEAR))
    changed = {"image": small.reshape(size, size, channels)}
    if "mask" in example:
        rows = ((np.arange(size) + 0.5) * height // size).astype(int)
        changed["mask"] = example["mask"][rows][:, rows]
    if "boxes" in example:
        boxes = example["boxes"]
        scale = np.array([1, *[size / height] * 4], np.float32)
        changed["boxes"] = np.where(boxes[:, :1] >= 0, boxes * scale, boxes)
    return {**example, **changed}
