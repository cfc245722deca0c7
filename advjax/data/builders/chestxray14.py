"""ChestX-ray14 (NIH): frontal chest radiographs, 14 findings, the official split by patient."""

from pathlib import Path

from advjax.data.builders._recipe import Recipe, Record, by_stem, lines, need, pick, rows

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_NAME, _LABELS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"


def _records(root: Path) -> dict[str, list[Record]]:
    table = need(root, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    of = dict.fromkeys(lines(need(root, "train_val_list.txt")), "train")
    test = lines(need(root, "test_list.txt"))
    both = next((name for name in test if name in of), None)
    if both:
        raise ValueError(f"{both} is in both train_val_list.txt and test_list.txt")
    of |= dict.fromkeys(test, "test")
    folders = sorted(p for p in root.glob("images*") if p.is_dir())
    files = by_stem(*(folders or [need(root, "images_001", "images")]))
    found: dict[str, list[Record]] = {"train": [], "test": []}
    for row in rows(table, _NAME, _LABELS, _PATIENT):
        name = row[_NAME]
        if name not in of:
            raise ValueError(f"{table.name}: {name} is in neither list of the split")
        words = [] if row[_LABELS] == "No Finding" else row[_LABELS].split("|")
        unknown = next((word for word in words if word not in FINDINGS), None)
        if unknown is not None:
            raise ValueError(f"{table.name}: {name} has the unknown finding {unknown!r}")
        image = pick(files, name.rpartition(".")[0], table.name)
        label = tuple(int(finding in words) for finding in FINDINGS)
        found[of[name]].append(Record(name, image, label, group=row[_PATIENT]))
    return found


RECIPE = Recipe(
    "chestxray14",
    "chest x-ray, 14 findings (multi-label), by patient, grey",
    1,
    _records,
    class_names=FINDINGS,
    findings=True,
)
