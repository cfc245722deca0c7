"""`advjax data list [NAME] | check SOURCE | prepare NAME`."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from advjax import data as sources
from advjax.cli._main import UsageError
from advjax.cli._parse import parse
from advjax.config import DataConfig

LIST = """phantom:dermoscopy  procedural skin lesions, 7 classes, RGB, lesion mask
phantom:xray        procedural chest X-rays, 14 findings (multi-label), grey, lung mask
phantom:ct          procedural lung CT slices, binary, grey, lesion mask
phantom:fundus      procedural fundus, 5 grades of retinopathy, RGB, vessel and lesion mask
phantom:endoscopy   procedural endoscopy, polyp or not, RGB, polyp mask, boxes of 5 artefacts
npz:PATH            MedMNIST layout: {train,val,test}_{images,labels}, maybe _masks, _boxes, _ids,
                    _groups
folder:PATH         class folders PATH/{train,val,test}/CLASS/*.png or PATH/CLASS/*.png; or images/
                    beside masks/; or a labels.csv; pictures, DICOM (.dcm) and NIfTI (.nii.gz)
tfds:NAME           a dataset below, once it is prepared

Masks are the targets with --task segmentation, boxes with --task detection; --positive NAME ...
sets some classes or findings against the rest. A relative PATH is looked up in the working
directory, then in $ADVJAX_DATA_DIR.

Datasets: `advjax data list NAME` says how to obtain one and where to put it, then
`advjax data prepare NAME --manual-dir DIR`.
"""

USAGE = (
    "usage: advjax data list [NAME] | advjax data check SOURCE [--size 64] [--task segmentation] "
    "... | advjax data prepare NAME --manual-dir DIR [--size 256] [--data-dir DIR]"
)


@dataclass(frozen=True)
class PrepareConfig:
    """Prepare a dataset from the files of its publishers."""

    name: str = ""
    """Which one: see `advjax data list`."""
    manual_dir: str = ""
    """Folder of the originals, as `advjax data list NAME` describes it."""
    size: int = 256
    """Height and width of what is stored; a smaller `--data.size` is made from it."""
    data_dir: str | None = None
    """Where to; None: `$TFDS_DATA_DIR`, else `$ADVJAX_DATA_DIR`, else ~/tensorflow_datasets."""


def data(argv: list[str]) -> None:
    """Run `advjax data`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        print(LIST)
        if not argv:
            raise UsageError("data: say list, check or prepare")
        return
    word, *rest = argv
    if word == "list":
        _list(rest)
    elif word == "prepare":
        _prepare(rest)
    elif word == "check":
        _check(rest)
    else:
        raise UsageError(f"data: unknown word {word!r}; {USAGE}")


def _list(argv: list[str]) -> None:
    if argv:
        print(sources.builders.find(argv[0]).read_page())
        return
    print(LIST)
    width = max(len(name) for name in sources.builders.RECIPES)
    for name, recipe in sources.builders.RECIPES.items():
        print(f"{name:<{width}}  {recipe.about}")


def _prepare(argv: list[str]) -> None:
    words = ["--name", *argv] if argv and not argv[0].startswith("-") else argv
    config = parse(
        PrepareConfig, words, command="data prepare", description=str(PrepareConfig.__doc__)
    )
    if not config.name or not config.manual_dir:
        raise UsageError(f"data prepare: name a dataset and --manual-dir; {USAGE}")
    folder = sources.builders.prepare(
        sources.builders.find(config.name),
        Path(config.manual_dir).expanduser(),
        size=config.size,
        data_dir=Path(config.data_dir).expanduser() if config.data_dir else None,
    )
    base = folder.parents[2]
    there = base in sources.builders.data_dirs()
    source = f"tfds:{config.name}" if there else f"tfds:{base}/{config.name}"
    print(f"prepared in {folder} (remove that folder to prepare it anew)")
    print(f"use it as {source}; advjax data check {source} describes it")


def _check(argv: list[str]) -> None:
    words = ["--source", *argv] if argv and not argv[0].startswith("-") else argv
    config = parse(
        DataConfig, words, command="data check", description="Load a source and describe it."
    )
    if not any(word.split("=")[0] == "--source" for word in words):
        print(f"no source is named; checking the default, {config.source}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is doubtful stands in the notes too
        try:
            found = sources.load(config)
        except ValueError as error:
            raise ValueError(_as_flags(str(error))) from None
    print(sources.describe(found))
    # every phantom has a note, which says that it is one
    if found.notes and not config.source.startswith("phantom:"):
        print("readable: shapes, pixel range and labels; but see the notes above")
    else:
        print("sound: shapes, pixel range and labels are as they should be")


def _as_flags(text: str) -> str:
    """Name fields as they are named on this command's line, where they are not below `data.`."""
    return re.sub(r"\bdata\.(\w+)", lambda found: f"--{found[1].replace('_', '-')}", text)
