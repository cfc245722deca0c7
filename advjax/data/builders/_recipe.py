"""What a published dataset is: which files it has, and what they say about each image."""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advjax.data import _split
from advjax.data._pixels import stem

_TEST_FRACTION, _VAL_FRACTION = 0.2, 0.125


@dataclass(frozen=True, eq=False)
class Record:
    """One image of the original.

    Attributes:
      name: what the original calls it, unique.
      image: its file, or its pixels `[H, W]` or `[H, W, 3]` uint8.
      label: a class, or one 0 or 1 for each finding.
      mask: a file with the class of each pixel, or black and white.
      boxes: rows (class, y0, x0, y1, x1) in shares of height and width.
      group: the patient or the lesion, where that is known.
    """

    name: str
    image: Path | np.ndarray
    label: int | tuple[int, ...] | None = None
    mask: Path | None = None
    boxes: tuple[tuple[float, ...], ...] | None = None
    group: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A dataset.

    Attributes:
      name: as in `tfds:NAME`.
      about: one line for lists.
      channels: 1 or 3; files are converted.
      records: lists the images of each split below the folder of the originals. Raises
        FileNotFoundError for a file that is missing and ValueError for wrong contents, both with
        the remedy.
      class_names: of labels.
      mask_names: of pixels, where there are masks.
      box_names: of boxes, where there are boxes.
      findings: labels are several findings.
      page: name of the page that says how to obtain it.
    """

    name: str
    about: str
    channels: int
    records: Callable[[Path], dict[str, list[Record]]]
    class_names: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()
    box_names: tuple[str, ...] = ()
    findings: bool = False
    page: str = ""

    def read_page(self) -> str:
        """Return the page, in Markdown."""
        return (Path(__file__).parent / "pages" / f"{self.page or self.name}.md").read_text()


def need(root: Path, *choices: str) -> Path:
    """Return the first of some files or folders below `root` that exists.

    Raises:
      FileNotFoundError: none does.
    """
    for choice in choices:
        if (root / choice).exists():
            return root / choice
    others = f" (nor {', '.join(choices[1:])})" if choices[1:] else ""
    raise FileNotFoundError(
        f"there is no {choices[0]}{others} in {root}; unpack it there, as `advjax data list NAME` "
        "says"
    )


def rows(table: Path, *columns: str, header: tuple[str, ...] = ()) -> Iterator[dict[str, str]]:
    """Yield the rows of a csv.

    Args:
      table: the file.
      columns: those that it must have.
      header: its columns where the file has none.

    Raises:
      ValueError: a column is missing, or a row is too short.
    """
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file, fieldnames=header or None)
        found = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = found
        for name in columns:
            if name not in found:
                raise ValueError(
                    f"{table.name}: there is no column {name!r} (found: {', '.join(found)}); take "
                    "the file as it was published"
                )
        for row in reader:
            if any(row[name] is None for name in columns):
                raise ValueError(f"{table.name}, line {reader.line_num}: too few cells")
            yield {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}


def lines(file: Path) -> list[str]:
    """Return the lines of a text that are not empty."""
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]


def by_stem(*folders: Path, mask: bool = False) -> dict[str, Path]:
    """Return the pictures of some folders by stem."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"):
                found.setdefault(stem(file.name, mask=mask), file)
    return found


def masks_of(root: Path, folder: str) -> Callable[[str, str], Path | None]:
    """Return what gives the mask of an image, by name and table; none where none are unpacked."""
    masks = by_stem(root / folder, mask=True) if (root / folder).is_dir() else {}
    return lambda name, table: pick(masks, name, table) if masks else None


def pick(files: dict[str, Path], name: str, where: str) -> Path:
    """Return the file of an image.

    Raises:
      FileNotFoundError: there is none.
    """
    if name not in files:
        raise FileNotFoundError(
            f"{where} names {name}, but there is no such image; unpack all archives of the images"
        )
    return files[name]


def class_of(names: tuple[str, ...], value: str, where: str) -> int:
    """Return the number of a class.

    Raises:
      ValueError: there is no such class.
    """
    if value not in names:
        raise ValueError(f"{where}: {value!r} is none of the classes {', '.join(names)}")
    return names.index(value)


def divide(records: Iterable[Record], *, seed: int = 0) -> dict[str, list[Record]]:
    """Divide 70/10/20 where nothing official exists: per class, groups whole, always the same."""
    listed = sorted(records, key=lambda record: record.name)
    labels = [record.label for record in listed]
    targets = np.array([0 if k is None else k for k in labels], np.int32)
    groups = np.array([record.group or record.name for record in listed])
    test = _split.hold_out(targets, groups, _TEST_FRACTION, seed)
    rest = np.flatnonzero(~test)
    held = _split.hold_out(targets[rest], groups[rest], _VAL_FRACTION, seed)
    chosen = {"train": rest[~held], "val": rest[held], "test": np.flatnonzero(test)}
    return {split: [listed[k] for k in of] for split, of in chosen.items()}
