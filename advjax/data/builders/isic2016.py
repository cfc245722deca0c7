"""ISIC 2016 (ISBI challenge): dermoscopy, benign or malignant, with lesion masks."""

from pathlib import Path

from advjax.data.builders._recipe import Recipe, Record, by_stem, masks_of, need, pick, rows

# training says it in words, test in numbers
_CLASSES = {"benign": 0, "0.0": 0, "0": 0, "malignant": 1, "1.0": 1, "1": 1}


def _records(root: Path) -> dict[str, list[Record]]:
    return {"train": _split(root, "Training"), "test": _split(root, "Test")}


def _split(root: Path, which: str) -> list[Record]:
    folders = (f"ISBI2016_ISIC_Part3_{which}_Data", f"ISBI2016_ISIC_Part1_{which}_Data")
    files = by_stem(need(root, *folders))
    table = need(root, f"ISBI2016_ISIC_Part3_{which}_GroundTruth.csv")
    masks = masks_of(root, f"ISBI2016_ISIC_Part1_{which}_GroundTruth")
    found = []
    for row in rows(table, "image", "class", header=("image", "class")):
        name, word = row["image"], row["class"]
        if word not in _CLASSES:
            raise ValueError(f"{table.name}: {name} is {word!r}, neither benign nor malignant")
        image = pick(files, name, table.name)
        found.append(Record(name, image, _CLASSES[word], masks(name, table.name)))
    return found


RECIPE = Recipe(
    "isic2016",
    "dermoscopy, benign or malignant, lesion masks where unpacked, RGB",
    3,
    _records,
    class_names=("benign", "malignant"),
    mask_names=("background", "lesion"),
)
