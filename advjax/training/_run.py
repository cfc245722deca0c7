"""The folder of a training run: `config.json`, `metrics.jsonl`, `checkpoints/`."""

import json
import math
import os
from pathlib import Path
from typing import Any

from advjax import checkpoint, data
from advjax._version import __version__
from advjax.config import TrainConfig
from advjax.data import Dataset
from advjax.training._config_io import config_from_dict, config_to_dict, differences

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
# what marks the folder of an evaluation
ROWS = "rows"


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return what a later reader must know of the data, with a hash of every array."""
    return {
        "name": dataset.name,
        "task": dataset.task,
        "num_classes": int(dataset.num_classes),
        "class_names": [str(n) for n in dataset.class_names],
        "image_shape": [int(n) for n in dataset.image_shape],
        "num_examples": {name: len(split) for name, split in dataset.splits.items()},
        "fingerprint": data.fingerprint(dataset),
    }


def read_header(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return `config.json`: `{"config": ..., "dataset": ..., "advjax": version}`.

    Raises:
      FileNotFoundError: the folder is no run.
      ValueError: the file is damaged.
    """
    path = Path(run_dir) / CONFIG
    try:
        header = json.loads(path.read_text())
    except FileNotFoundError:
        inside = sorted(str(file.parent) for file in Path(run_dir).glob(f"*/{CONFIG}"))
        remedy = (
            f"it holds several runs: name them, {' '.join(inside)}"
            if inside
            else "name the folder that `advjax train` wrote (its --out)"
        )
        raise FileNotFoundError(
            f"{run_dir} is no training run: {CONFIG} is missing; {remedy}"
        ) from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}; restore it or start a new run") from None
    if not isinstance(header, dict) or not {"config", "dataset"} <= set(header):
        raise ValueError(f"{path} is not the config of a training run; start a new run folder")
    return header


def write_header(config: TrainConfig, dataset: dict[str, Any]) -> None:
    """Write `config.json` atomically.

    Raises:
      OSError: it cannot be written.
    """
    header = {"config": config_to_dict(config), "dataset": dataset, "advjax": __version__}
    text = json.dumps(header, indent=2) + "\n"
    checkpoint.write_atomic(Path(config.out) / CONFIG, lambda path: _write(path, text))


def existing_header(config: TrainConfig) -> dict[str, Any] | None:
    """Return the header of the run to resume, or None where a new one starts.

    Raises:
      ValueError: the folder holds a run of another config, or one without its config.
    """
    folder = Path(config.out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: {folder} is a file; name a folder")
    if (folder / ROWS).is_dir():
        raise ValueError(
            f"out: {folder} holds an evaluation ({ROWS}/); a training run needs a folder of its own"
        )
    if not (folder / CONFIG).exists():
        if (folder / CHECKPOINTS).exists():
            raise ValueError(
                f"out: {folder} holds checkpoints but no {CONFIG}; choose another folder or "
                "remove this one"
            )
        return None
    header = read_header(folder)
    # fields that came later have their defaults
    old = config_to_dict(config_of(header))
    changed = differences(old, config_to_dict(config))
    if changed:
        raise ValueError(
            f"out: {folder} holds a run with another config ({'; '.join(changed)}); choose "
            "another folder, remove this one, or give it its old config to resume it"
        )
    return header


def check_dataset(header: dict[str, Any], dataset: dict[str, Any], folder: str) -> None:
    """Check that a run is resumed on the data that it started on.

    Raises:
      ValueError: the data differ.
    """
    if header["dataset"]["fingerprint"] != dataset["fingerprint"]:
        raise ValueError(
            f"out: {folder} was started on other data (their hash differs: the files or the "
            "environment changed); choose another folder or restore the data"
        )


def config_of(header: dict[str, Any]) -> TrainConfig:
    """Return the config of a header.

    Raises:
      ValueError: it was written by another version with other fields.
    """
    return config_from_dict(header["config"])


def read_metrics(folder: str | os.PathLike[str], epochs: int | None = None) -> list[dict[str, Any]]:
    """Return the records of the first `epochs` epochs (None: all), skipping a torn last line."""
    path = Path(folder) / METRICS
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the line that was being written when the process was killed
        if epochs is None or record["epoch"] <= epochs:
            records.append(record)
    return records


def rewind_metrics(folder: str | os.PathLike[str], epochs: int) -> list[dict[str, Any]]:
    """Drop the records after epoch `epochs`, which a resumed run writes again.

    Raises:
      OSError: the file cannot be written.
    """
    records = read_metrics(folder, epochs)
    text = "".join(json.dumps(record) + "\n" for record in records)
    if (Path(folder) / METRICS).exists():
        checkpoint.write_atomic(Path(folder) / METRICS, lambda path: _write(path, text))
    return records


def append_metrics(folder: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Append one line; NaN becomes null, so that every reader of JSON understands it.

    Raises:
      OSError: it cannot be written.
    """
    clean = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}
    try:
        with (Path(folder) / METRICS).open("a") as file:
            file.write(json.dumps(clean) + "\n")
    except OSError as error:
        if checkpoint.is_disk_full(error):
            raise checkpoint.disk_full(METRICS, Path(folder)) from error
        raise


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
