"""Kvasir-SEG: polyps in colonoscopy, with masks."""

from pathlib import Path

from advjax.data.builders._recipe import Recipe, Record, by_stem, divide, lines, need, pick


def _records(root: Path) -> dict[str, list[Record]]:
    base = next((root / n for n in ("Kvasir-SEG", "kvasir-seg") if (root / n).is_dir()), root)
    files = by_stem(need(base, "images"))
    masks = by_stem(need(base, "masks"))
    found = {
        name: Record(name, file, mask=pick(masks, name, "images")) for name, file in files.items()
    }
    # the lists that papers publish beside the data, where somebody has put them
    lists = {
        s: root / f"{s}.txt" for s in ("train", "val", "test") if (root / f"{s}.txt").is_file()
    }
    if not lists:
        return divide(found.values())
    if not {"train", "test"} <= lists.keys():
        raise FileNotFoundError(
            f"there is no {'test' if 'train' in lists else 'train'}.txt in {root}"
        )
    splits: dict[str, list[Record]] = {}
    for split, file in lists.items():
        splits[split] = []
        for line in lines(file):
            name = line.removesuffix(".jpg")
            if name not in found:
                raise ValueError(f"{file.name} names {line}, twice or without an image")
            splits[split].append(found.pop(name))
    return splits


RECIPE = Recipe(
    "kvasir_seg",
    "colonoscopy, polyp masks, RGB",
    3,
    _records,
    mask_names=("background", "polyp"),
)
