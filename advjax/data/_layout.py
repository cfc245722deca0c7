"""What is where in a folder of images: class folders, image and mask pairs, or a csv of labels."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advjax.data._pixels import SUFFIXES, is_image, stem

_VAL_NAMES = ("val", "valid", "validation")
_SPLIT_NAMES = {"train": "train", "test": "test", **dict.fromkeys(_VAL_NAMES, "val")}
_GROUP_COLUMNS = ("group", "patient", "patient_id")
_UNKNOWN = ("", "-1", "-1.0", "nan", "none", "na")
_BITS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, **dict.fromkeys(_UNKNOWN, -1)}


@dataclass(frozen=True)
class Item:
    """One file of an image and what is known about it."""

    file: Path
    label: np.ndarray | int | None = None
    mask: Path | None = None
    group: str | None = None


@dataclass(frozen=True)
class Layout:
    """The items of each split, or of `all`; and the names of the classes, if there are any."""

    items: dict[str, list[Item]]
    class_names: tuple[str, ...] | None = None


def read_layout(path: Path) -> Layout:
    """Find out which layout a folder has, and list it.

    A `labels.csv`, or `train.csv` and `test.csv`, comes first; then `images` beside `masks`, in
    the folder or in its `train`, `val` and `test`; then one folder per class.

    Raises:
      ValueError: something is missing or does not fit together; the message names it.
    """
    tables = {p.name.lower(): p for p in sorted(path.glob("*.csv"))}
    if "labels.csv" in tables or {"train.csv", "test.csv"} <= tables.keys():
        return _read_tables(path, tables)
    folders = _split_folders(path)
    if folders:
        if _is_pair(folders["train"]):
            return Layout({k: _pairs(path, folder) for k, folder in folders.items()})
        classes = _classes(folders["train"])
        return Layout({k: _files(f, classes) for k, f in folders.items()}, classes)
    if _is_pair(path):
        return Layout({"all": _pairs(path, path)})
    classes = _classes(path)
    return Layout({"all": _files(path, classes)}, classes)


def _split_folders(path: Path) -> dict[str, Path]:
    """Return the folder of each split, or nothing where the folder holds classes."""
    inside = {folder.name.lower(): folder for folder in _subfolders(path)}
    if "train" not in inside and "test" not in inside:
        return {}
    for name in ("train", "test"):
        if name not in inside:
            raise ValueError(
                f"{path.name}: there is no {name} folder beside {sorted(inside)}; add it, or put "
                "the class folders directly into the folder to have them divided"
            )
    val = [inside[name] for name in _VAL_NAMES if name in inside]
    if len(val) > 1:
        raise ValueError(f"{path.name}: {val[0].name} and {val[1].name} both exist; keep one")
    found = {"train": inside["train"], "test": inside["test"]}
    return {**found, "val": val[0]} if val else found


def _subfolders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _images(folder: Path) -> list[Path]:
    """Return every image below a folder, sorted."""
    return sorted(
        Path(root) / name for root, _, names in os.walk(folder) for name in names if is_image(name)
    )


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(p.name for p in _subfolders(folder))
    if not names:
        raise ValueError(
            f"{folder.name}: no class folders inside; the layout is "
            "{train,val,test}/{class}/*.png or {class}/*.png; or images/ beside masks/; or a "
            "labels.csv"
        )
    return names


def _files(folder: Path, classes: tuple[str, ...]) -> list[Item]:
    """Return every image below a split folder with its class, sorted."""
    listed = []
    for inside in _subfolders(folder):
        if inside.name not in classes:
            raise ValueError(
                f"{folder.name}/{inside.name}: the training folder has no class "
                f"{inside.name!r} (it has {', '.join(classes)}); rename it, or add training images"
            )
        found = _images(inside)
        if not found:
            raise ValueError(
                f"{folder.name}/{inside.name}: no image inside; remove the folder, or add files "
                f"that end in {', '.join(SUFFIXES)}"
            )
        listed += [Item(file, classes.index(inside.name)) for file in found]
    if not listed:
        raise ValueError(f"{folder.name}: no class folders inside, so the split is empty")
    return listed


def _is_pair(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def _pairs(path: Path, folder: Path) -> list[Item]:
    """Return the images of `images` with their masks of `masks`, matched by stem."""
    if not _is_pair(folder):
        raise ValueError(f"{folder.name}: images and masks are not both there; add them")
    files = _images(folder / "images")
    if not files:
        raise ValueError(f"{folder.name}/images: no image inside; add files")
    masks = _masks(path, folder / "masks")
    listed = [Item(file, mask=_mask_of(path, file, masks)) for file in files]
    unused = sorted(set(masks) - {stem(file.name) for file in files})
    if unused:
        raise ValueError(
            f"{masks[unused[0]].relative_to(path).as_posix()}: there is no image {unused[0]!r} in "
            f"images ({len(unused)} such mask(s)); add it, or remove the mask"
        )
    return listed


def _masks(path: Path, folder: Path) -> dict[str, Path]:
    """Return the masks of a folder by the stem of their image."""
    found: dict[str, Path] = {}
    for file in _images(folder):
        name = stem(file.name, mask=True)
        if name in found:
            one, two = (p.relative_to(path).as_posix() for p in (found[name], file))
            raise ValueError(f"{one} and {two} are masks of the same image; keep one")
        found[name] = file
    return found


def _mask_of(path: Path, file: Path, masks: dict[str, Path]) -> Path:
    if stem(file.name) not in masks:
        raise ValueError(
            f"{file.relative_to(path).as_posix()} has no mask; add "
            f"masks/{stem(file.name)}.png, or remove the image"
        )
    return masks[stem(file.name)]


def _read_tables(path: Path, tables: dict[str, Path]) -> Layout:
    """List the images that csv files name, with their labels."""
    rows: list[tuple[str, str, dict[str, str]]] = []  # (split, where, cells)
    if "labels.csv" in tables:
        used = {"all": tables["labels.csv"]}
    else:
        used = {s: tables[f"{s}.csv"] for s in ("train", "val", "test") if f"{s}.csv" in tables}
    headers = {split: _read_table(table, split, rows) for split, table in used.items()}
    first = next(iter(headers))
    header = headers[first]
    for split, other in headers.items():
        if other != header:
            raise ValueError(
                f"{used[split].name} has the columns {', '.join(other)}, {used[first].name} "
                f"{', '.join(header)}; they need the same"
            )
    key, *rest = header
    low = {name: name.lower() for name in header}
    group = next((n for n in rest if low[n] in _GROUP_COLUMNS), None)
    split_column = next((n for n in rest if low[n] == "split"), None)
    columns = [n for n in rest if n not in (group, split_column)]
    index = _index(path)
    masks = _masks(path, path / "masks") if (path / "masks").is_dir() else {}
    labels, names = _labels(rows, columns, bool(masks))
    items: dict[str, list[Item]] = {}
    seen: dict[Path, str] = {}
    for (split, where, cells), label in zip(rows, labels, strict=True):
        file = _named(path, index, where, cells[key].strip())
        if file in seen:
            raise ValueError(f"{where} names {cells[key]!r}, as {seen[file]} does; keep one row")
        seen[file] = where
        if split == "all" and split_column:
            split = _split_name(where, cells[split_column])
        mask = _mask_of(path, file, masks) if masks else None
        items.setdefault(split, []).append(
            Item(file, label, mask, cells[group].strip() if group else None)
        )
    if "all" not in items:
        for split in ("train", "test"):
            if split not in items:
                raise ValueError(f"{path.name}: no row of the csv is in the split {split}; add one")
    return Layout(items, names)


def _read_table(table: Path, split: str, rows: list[tuple[str, str, dict[str, str]]]) -> list[str]:
    """Append the rows of a csv and return its header."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            before = len(rows)
            for cells in reader:
                where = f"{table.name}, line {reader.line_num}"
                if None in cells or None in cells.values():
                    raise ValueError(f"{where}: another number of cells than the header has")
                rows.append((split, where, cells))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{table.name}: cannot be read as a csv ({error}); save it as UTF-8"
        ) from None
    if len(set(header)) != len(header) or len(header) < 2 or len(rows) == before:
        raise ValueError(
            f"{table.name}: expected a header (name of the image, then one column per label, "
            "perhaps split and patient), and rows below it"
        )
    return header


def _index(path: Path) -> dict[str, list[Path]]:
    """Return the images below a folder by relative path, by name and by stem."""
    found: dict[str, list[Path]] = {}
    for file in _images(path):
        if (path / "masks") in file.parents:
            continue
        for key in {file.relative_to(path).as_posix(), file.name, stem(file.name)}:
            found.setdefault(key, []).append(file)
    return found


def _named(path: Path, index: dict[str, list[Path]], where: str, name: str) -> Path:
    """Return the one file that a cell names."""
    files = index.get(name, [])
    exact = [f for f in files if f.relative_to(path).as_posix() == name]
    files = exact or files
    if not files:
        raise ValueError(
            f"{where}: there is no image {name!r} below {path.name}; add it, or remove the row"
        )
    if len(files) > 1:
        one, two = (f.relative_to(path).as_posix() for f in files[:2])
        raise ValueError(f"{where}: {name!r} may be {one} or {two}; write the path")
    return files[0]


def _split_name(where: str, value: str) -> str:
    split = _SPLIT_NAMES.get(value.strip().lower())
    if split is None:
        raise ValueError(f"{where}: split is {value!r}; expected train, val or test")
    return split


def _labels(
    rows: list[tuple[str, str, dict[str, str]]], columns: list[str], masks: bool
) -> tuple[list[np.ndarray | int | None], tuple[str, ...] | None]:
    """Return the label of each row, and the names of the classes where they are known."""
    if not columns:
        if masks:
            return [None] * len(rows), None
        raise ValueError("the csv has no column of labels beside the name of the image; add one")
    if len(columns) > 1:
        return [_findings(where, cells, columns) for _, where, cells in rows], tuple(columns)
    values = [cells[columns[0]].strip() for _, _, cells in rows]
    for value, (_, where, _) in zip(values, rows, strict=True):
        if value.lower() in _UNKNOWN:
            raise ValueError(f"{where}: {columns[0]} is {value!r}, no class; remove the row")
    if all(_is_number(value) for value in values):
        return [int(float(value)) for value in values], None
    names = tuple(sorted(set(values)))
    return [names.index(value) for value in values], names


def _is_number(text: str) -> bool:
    whole, _, rest = text.partition(".")
    return whole.isdigit() and not rest.strip("0")


def _findings(where: str, cells: dict[str, str], columns: list[str]) -> np.ndarray:
    """Return `[K]` 0, 1 or -1 (unknown) of one row."""
    found = np.empty(len(columns), np.int32)
    for k, name in enumerate(columns):
        value = cells[name].strip().lower()
        if value not in _BITS:
            raise ValueError(
                f"{where}: {name} is {cells[name]!r}; a column of a finding holds 0, 1, or -1 or "
                "nothing where unknown (only split and patient are no findings)"
            )
        found[k] = _BITS[value]
    return found
