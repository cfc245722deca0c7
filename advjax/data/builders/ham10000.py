"""HAM10000: dermoscopy, seven classes, several images of some lesions."""

from pathlib import Path

from advjax.data.builders._recipe import (
    Recipe,
    Record,
    by_stem,
    class_of,
    divide,
    masks_of,
    need,
    pick,
    rows,
)

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
_MASKS = "HAM10000_segmentations_lesion_tschandl"


def _records(root: Path) -> dict[str, list[Record]]:
    table = need(root, "HAM10000_metadata.csv", "HAM10000_metadata")
    one = need(root, "HAM10000_images_part_1", "HAM10000_images")
    # one archive or two
    folders = [one, need(root, "HAM10000_images_part_2")] if one.name.endswith("1") else [one]
    files = by_stem(*folders)
    masks = masks_of(root, _MASKS)
    found = []
    for row in rows(table, "lesion_id", "image_id", "dx"):
        name = row["image_id"]
        found.append(
            Record(
                name,
                pick(files, name, table.name),
                class_of(CLASSES, row["dx"], f"{table.name}, {name}"),
                masks(name, table.name),
                group=row["lesion_id"],
            )
        )
    return divide(found)


RECIPE = Recipe(
    "ham10000",
    "dermoscopy, 7 classes, by lesion, lesion masks where unpacked, RGB",
    3,
    _records,
    class_names=CLASSES,
    mask_names=("background", "lesion"),
)
