"""EAD-2019 (Endoscopy Artefact Detection): boxes of seven kinds of artefact."""

from pathlib import Path

from advjax.data.builders._recipe import Recipe, Record, by_stem, divide, lines

KINDS = (
    "specularity",
    "saturation",
    "artifact",
    "blur",
    "contrast",
    "bubbles",
    "instrument",
)


def _records(root: Path) -> dict[str, list[Record]]:
    found = []
    listed = next(iter(sorted(root.rglob("class_list.txt"))), None)
    kinds = _kinds(lines(listed)) if listed else list(range(len(KINDS)))
    for name, file in by_stem(root).items():
        table = file.with_suffix(".txt")
        if table.is_file():
            boxes = tuple(_box(table, line, file, kinds) for line in lines(table))
            found.append(Record(name, file, boxes=boxes))
    if not found:
        raise FileNotFoundError(
            f"there is no image with a .txt of boxes beside it in {root}; unpack the training data "
            "of the detection task there"
        )
    return divide(found)


def _kinds(words: list[str]) -> list[int]:
    """Return our number of each kind that a class_list.txt names."""
    unknown = [word for word in words if word.lower() not in KINDS]
    if unknown:
        raise ValueError(f"class_list.txt: {unknown[0]!r} is none of {', '.join(KINDS)}")
    return [KINDS.index(word.lower()) for word in words]


def _box(table: Path, line: str, image: Path, kinds: list[int]) -> tuple[float, ...]:
    """Read `class x y width height` in shares (YOLO), or `class x0 y0 x1 y1` in pixels (VOC)."""
    words = line.split()
    try:
        kind, *numbers = int(words[0]), *map(float, words[1:5])
    except (ValueError, IndexError):
        raise ValueError(
            f"{table.name}: {line!r} is no box; expected a class and 4 numbers"
        ) from None
    if len(numbers) != 4 or not 0 <= kind < len(kinds):
        raise ValueError(f"{table.name}: {line!r} is no box of a class 0..{len(kinds) - 1}")
    a, b, c, d = numbers
    if max(numbers) <= 1.0:
        x0, y0, x1, y1 = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    else:
        width, height = _size(image)
        x0, y0, x1, y1 = a / width, b / height, c / width, d / height
    x0, y0, x1, y1 = (min(max(v, 0.0), 1.0) for v in (x0, y0, x1, y1))
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"{table.name}: {line!r} is an empty box; repair or remove the line")
    return (float(kinds[kind]), y0, x0, y1, x1)


def _size(image: Path) -> tuple[int, int]:
    from advjax.data._pixels import pillow

    with pillow().open(image) as opened:
        return opened.size


RECIPE = Recipe(
    "ead2019", "endoscopy, boxes of 7 kinds of artefact, RGB", 3, _records, box_names=KINDS
)
