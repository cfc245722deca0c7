"""APTOS-2019 blindness detection: fundus photographs, five grades of diabetic retinopathy."""

from pathlib import Path

from advjax.data.builders._recipe import Recipe, Record, by_stem, divide, need, pick, rows

GRADES = ("none", "mild", "moderate", "severe", "proliferative")


def _records(root: Path) -> dict[str, list[Record]]:
    table = need(root, "train.csv")
    files = by_stem(need(root, "train_images"))
    found = []
    for row in rows(table, "id_code", "diagnosis"):
        if row["diagnosis"] not in ("0", "1", "2", "3", "4"):
            raise ValueError(f"train.csv: {row['id_code']} has the diagnosis {row['diagnosis']!r}")
        image = pick(files, row["id_code"], "train.csv")
        found.append(Record(row["id_code"], image, int(row["diagnosis"])))
    return divide(found)


RECIPE = Recipe(
    "aptos2019", "fundus, 5 grades of diabetic retinopathy, RGB", 3, _records, class_names=GRADES
)
