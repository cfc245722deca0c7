"""Messidor: fundus photographs of three hospitals, four grades of diabetic retinopathy."""

from pathlib import Path

from advjax.data.builders._recipe import Recipe, Record, by_stem, divide, pick, rows

_NAME, _GRADE = "Image name", "Retinopathy grade"


def _records(root: Path) -> dict[str, list[Record]]:
    tables = sorted(root.rglob("Annotation*.csv"))
    sheets = sorted(root.rglob("Annotation*.xls*"))
    done = {table.stem.replace(" ", "") for table in tables}
    left = [sheet for sheet in sheets if sheet.stem.replace(" ", "") not in done]
    if left:
        raise FileNotFoundError(
            f"there is no csv of {left[0].name} beside it; open it in a spreadsheet and save it as "
            f"{left[0].stem}.csv ({len(left)} such file(s))"
        )
    if not tables:
        raise FileNotFoundError(
            f"there is no Annotation_Base*.csv in {root}; unpack the bases there and save each "
            "Annotation_Base*.xls as csv"
        )
    files = by_stem(root)
    found: dict[str, Record] = {}
    for table in tables:
        for row in rows(table, _NAME, _GRADE):
            name = row[_NAME].rpartition(".")[0] or row[_NAME]
            if row[_GRADE] not in ("0", "1", "2", "3"):
                raise ValueError(f"{table.name}: {name} has the grade {row[_GRADE]!r}, not 0 to 3")
            image = pick(files, name, table.name)
            # an image that was published twice counts once
            found.setdefault(name, Record(name, image, int(row[_GRADE])))
    return divide(found.values())


RECIPE = Recipe(
    "messidor",
    "fundus, 4 grades of diabetic retinopathy, RGB",
    3,
    _records,
    class_names=("grade 0", "grade 1", "grade 2", "grade 3"),
)
