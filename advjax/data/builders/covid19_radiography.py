"""COVID-19 Radiography Database: chest x-rays of four classes, with lung masks."""

from pathlib import Path

from advjax.data.builders._recipe import Recipe, Record, by_stem, divide, need, pick

CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")


def _records(root: Path) -> dict[str, list[Record]]:
    base = root / "COVID-19_Radiography_Dataset"
    base = base if base.is_dir() else root
    found = []
    for label, name in enumerate(CLASSES):
        files = by_stem(need(base, f"{name}/images"))
        masks = by_stem(need(base, f"{name}/masks"))
        found += [
            Record(f"{name}/{key}", file, label, pick(masks, key, f"{name}/images"))
            for key, file in files.items()
        ]
    return divide(found)


RECIPE = Recipe(
    "covid19_radiography",
    "chest x-ray, 4 classes, lung masks, grey",
    1,
    _records,
    class_names=CLASSES,
    mask_names=("background", "lung"),
)
