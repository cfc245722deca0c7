"""MedMNIST (Yang et al. 2023): twelve sets of small images with their official splits."""

import functools
import zipfile
from pathlib import Path

import numpy as np

from advjax.data.builders._recipe import Recipe, Record
from advjax.data.builders.chestxray14 import FINDINGS

_SKIN = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver",
    "lung-left", "lung-right", "pancreas", "spleen",
)  # fmt: skip
_SETS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "bloodmnist": ("blood cells", 3, (
        "basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte",
        "neutrophil", "platelet",
    )),
    "breastmnist": ("breast ultrasound", 1, ("malignant", "normal or benign")),
    "chestmnist": ("chest x-ray", 1, FINDINGS),
    "dermamnist": ("dermoscopy", 3, _SKIN),
    "octmnist": ("retinal OCT", 1, (
        "choroidal neovascularization", "diabetic macular edema", "drusen", "normal",
    )),
    "organamnist": ("abdominal CT, axial", 1, _ORGANS),
    "organcmnist": ("abdominal CT, coronal", 1, _ORGANS),
    "organsmnist": ("abdominal CT, sagittal", 1, _ORGANS),
    "pathmnist": ("colon pathology", 3, (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle",
        "normal colon mucosa", "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
    )),
    "pneumoniamnist": ("chest x-ray of children", 1, ("normal", "pneumonia")),
    "retinamnist": ("fundus", 3, ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4")),
    "tissuemnist": ("kidney cortex cells", 1, tuple(f"tissue {k}" for k in range(8))),
}  # fmt: skip


def _records(root: Path, *, flag: str, classes: int) -> dict[str, list[Record]]:
    # the largest size that is there: nothing is lost where a smaller one is asked for
    names = [f"{flag}_224.npz", f"{flag}_128.npz", f"{flag}_64.npz", f"{flag}.npz"]
    file = next((root / name for name in names if (root / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"there is no {flag}.npz (nor {', '.join(names[:3])}) in {root}; put it there"
        )
    try:
        with np.load(file) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{file.name}: damaged ({error}); download it again") from None
    found: dict[str, list[Record]] = {}
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            if f"{split}_{kind}" not in arrays:
                raise ValueError(f"{file.name}: {split}_{kind} is missing; download it again")
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if labels.max(initial=0) >= classes:
            raise ValueError(f"{file.name}: {split}_labels go beyond the {classes} classes")
        found[split] = [
            Record(
                f"{split}/{k:06}",
                image,
                tuple(map(int, label)) if len(label) > 1 else int(label[0]),
            )
            for k, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
    return found


RECIPES = tuple(
    Recipe(
        flag,
        f"MedMNIST: {about}, {len(classes)} {'findings' if flag == 'chestmnist' else 'classes'}, "
        f"{'RGB' if channels == 3 else 'grey'}",
        channels,
        functools.partial(_records, flag=flag, classes=len(classes)),
        class_names=classes,
        findings=flag == "chestmnist",
        page="medmnist",
    )
    for flag, (about, channels, classes) in _SETS.items()
)
