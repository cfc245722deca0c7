"""COVID-CT (UCSD-AI4H): lung CT slices cut from papers, with and without COVID-19."""

from pathlib import Path

from advjax.data.builders._recipe import Recipe, Record, lines, need

CLASSES = ("NonCOVID", "COVID")


def _records(root: Path) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for split in ("train", "val", "test"):
        listed = []
        for label, name in enumerate(CLASSES):
            table = f"{split}CT_{name}.txt"
            table_path = need(root, f"Data-split/{name}/{table}", f"{name}/{table}", table)
            folder = need(root, f"Images-processed/CT_{name}", f"CT_{name}")
            for file in lines(table_path):
                if not (folder / file).is_file():
                    raise FileNotFoundError(
                        f"{table} names {file}, but it is not in {folder.name}; unpack "
                        f"CT_{name}.zip again"
                    )
                listed.append(Record(f"CT_{name}/{file}", folder / file, label))
        found[split] = listed
    return found


RECIPE = Recipe("covid_ct", "lung CT slices, binary, grey", 1, _records, class_names=CLASSES)
