"""ISIC 2017: dermoscopy, three classes, with lesion masks; the official three splits."""

from pathlib import Path

from advjax.data.builders._recipe import Recipe, Record, by_stem, masks_of, need, pick, rows

CLASSES = ("nevus", "melanoma", "seborrheic_keratosis")
_SPLITS = {"train": "Training", "val": "Validation", "test": "Test_v2"}


def _records(root: Path) -> dict[str, list[Record]]:
    return {split: _split(root, which) for split, which in _SPLITS.items()}


def _split(root: Path, which: str) -> list[Record]:
    files = by_stem(need(root, f"ISIC-2017_{which}_Data"))
    table = need(root, f"ISIC-2017_{which}_Part3_GroundTruth.csv")
    masks = masks_of(root, f"ISIC-2017_{which}_Part1_GroundTruth")
    found = []
    for row in rows(table, "image_id", *CLASSES[1:]):
        name = row["image_id"]
        positive = [k for k, label in enumerate(CLASSES[1:], 1) if float(row[label] or 0) == 1.0]
        if len(positive) > 1:
            raise ValueError(f"{table.name}: {name} has two diagnoses")
        image = pick(files, name, table.name)
        label = positive[0] if positive else 0
        found.append(Record(name, image, label, masks(name, table.name)))
    return found


RECIPE = Recipe(
    "isic2017",
    "dermoscopy, 3 classes, lesion masks where unpacked, RGB",
    3,
    _records,
    class_names=CLASSES,
    mask_names=("background", "lesion"),
)
