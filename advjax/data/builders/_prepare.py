"""From the originals to a prepared `tfds` data set (array_record), without TensorFlow.

Images are decoded, turned into grey or RGB and resized to a square once, here, and stored as raw
pixels: so that reading takes no decoder, and a fraction of a millisecond for an image.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from advjax.data._pixels import pillow, read_mask
from advjax.data.builders._recipe import Recipe, Record

_VERSION = "1.0.0"


def data_dirs() -> list[Path]:
    """Return where prepared sets are looked for, in order; new ones go to the first.

    `$TFDS_DATA_DIR`, else `$ADVJAX_DATA_DIR`, and the default of tfds.
    """
    named = [os.environ.get(name) for name in ("TFDS_DATA_DIR", "ADVJAX_DATA_DIR")]
    return [Path(name).expanduser() for name in named if name] + [
        Path("~/tensorflow_datasets").expanduser()
    ]


def builder_class(recipe: Recipe, splits: dict[str, list[Record]], size: int) -> Any:
    """Return a `tfds.core.GeneratorBasedBuilder` for one dataset at one size.

    Args:
      recipe: the dataset.
      splits: its records.
      size: height and width of what is stored.
    """
    import tensorflow_datasets as tfds

    class Builder(  # type: ignore[call-arg]  # of TFDS
        tfds.core.GeneratorBasedBuilder, skip_registration=True
    ):
        """Reads the originals that a person has put into `manual_dir`."""

        name = recipe.name
        VERSION = tfds.core.Version(_VERSION)
        BUILDER_CONFIGS: ClassVar = [
            tfds.core.BuilderConfig(name=f"{size}px", description=f"{size} x {size} pixels")
        ]
        # tfds looks for checksums beside the code, with a package that it does not ask for
        code_path = None
        MANUAL_DOWNLOAD_INSTRUCTIONS = recipe.read_page()

        def _info(self) -> Any:
            features = _features(tfds.features, recipe, splits, size)
            return tfds.core.DatasetInfo(
                builder=self,
                description=recipe.about,
                features=tfds.features.FeaturesDict(features),
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            del dl_manager  # the records have been listed
            return {split: self._generate_examples(records) for split, records in splits.items()}

        def _generate_examples(self, records: list[Record]) -> Iterator[tuple[str, Any]]:
            for record in records:
                yield record.name, _example(recipe, record, size, self.info.features)

    return Builder


def _features(kinds: Any, recipe: Recipe, splits: dict[str, list[Record]], size: int) -> dict:
    """What an example has. Pixels are raw bytes: ten times faster to read than a PNG."""
    every = [record for records in splits.values() for record in records]
    square = {"dtype": np.uint8, "encoding": "bytes"}
    found = {
        "name": kinds.Text(),
        "image": kinds.Tensor(shape=(size, size, recipe.channels), **square),
    }
    if recipe.findings:
        found["label"] = kinds.Tensor(shape=(len(recipe.class_names),), dtype=np.int8)
    elif recipe.class_names:
        found["label"] = kinds.ClassLabel(names=list(recipe.class_names))
    if all(record.mask is not None for record in every):
        found["mask"] = kinds.Tensor(shape=(size, size), **square)
    if recipe.box_names:
        most = max(1, *(len(record.boxes or ()) for record in every))
        found["boxes"] = kinds.Tensor(shape=(most, 5), dtype=np.float32)
    if all(record.group is not None for record in every):
        found["group"] = kinds.Text()
    return found


def _example(recipe: Recipe, record: Record, size: int, features: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": record.name,
        "image": _pixels(record, recipe.channels, size),
        "label": record.label,
        "group": record.group,
    }
    if recipe.findings:
        found["label"] = np.array(record.label, np.int8)
    if "mask" in features and record.mask is not None:
        found["mask"] = _mask(record.mask, size)
    if "boxes" in features:
        boxes = np.full(features["boxes"].shape, -1.0, np.float32)
        if record.boxes:
            rows = np.array(record.boxes, np.float32)
            boxes[: len(rows)] = rows * np.array([1, size, size, size, size], np.float32)
        found["boxes"] = boxes
    return {key: value for key, value in found.items() if key in features}


def _pixels(record: Record, channels: int, size: int) -> np.ndarray:
    """Return `[size, size, channels]` uint8."""
    pil = pillow()
    if isinstance(record.image, np.ndarray):
        image = pil.fromarray(record.image)
    else:
        try:
            with pil.open(record.image) as opened:
                # a JPEG is decoded at the smallest size that is enough
                opened.draft(None, (size, size))
                opened.load()
                image = opened
        except (OSError, SyntaxError, ValueError, EOFError, pil.DecompressionBombError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(
                f"{record.image}: cannot be read as an image ({reason}); unpack it again"
            ) from None
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), pil.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(size, size, channels)


def _mask(file: Path, size: int) -> np.ndarray:
    """Return `[size, size]` uint8; black and white, as all these sets have it, as 0 and 1."""
    mask = read_mask(file, file.name, size=size)[0]
    return (mask >= 128).astype(np.uint8) if mask.max() > 1 else mask


def prepare(
    recipe: Recipe, manual_dir: Path, *, size: int = 256, data_dir: Path | None = None
) -> Path:
    """Prepare a dataset and return its folder; one that is there is left as it is.

    Args:
      recipe: the dataset.
      manual_dir: the folder of the originals.
      size: height and width of what is stored.
      data_dir: where to; None: the first of `data_dirs`.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file has wrong contents, or `size` is out of range.
    """
    if not 8 <= size <= 1024:
        raise ValueError(f"the size of a prepared set must be in [8, 1024] pixels, got {size}")
    if not manual_dir.is_dir():
        raise FileNotFoundError(f"there is no folder {manual_dir}; name that of the originals")
    base = data_dir or data_dirs()[0]
    folder = base / recipe.name / f"{size}px" / _VERSION
    if folder.is_dir():
        return folder
    splits = recipe.records(manual_dir)
    for split, records in splits.items():
        if not records:
            raise ValueError(f"{recipe.name}: no image is left for {split}; unpack everything")
    import tensorflow_datasets as tfds

    builder = builder_class(recipe, splits, size)(data_dir=str(base), file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(manual_dir))
    )
    return folder
