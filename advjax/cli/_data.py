"""`advjax data list | check SOURCE`."""

import re
import warnings

from advjax import data as sources
from advjax.cli._main import UsageError
from advjax.cli._parse import parse
from advjax.config import DataConfig

LIST = """phantom:dermoscopy  procedural skin lesions, 7 classes, RGB, lesion mask
phantom:xray        procedural chest X-rays, 14 findings (multi-label), grey, lung mask
phantom:ct          procedural lung CT slices, binary, grey, lesion mask
npz:PATH            MedMNIST layout: {train,val,test}_{images,labels}, maybe _masks, _ids, _groups
folder:PATH         class folders: PATH/{train,val,test}/CLASS/*.png, or PATH/CLASS/*.png

A relative PATH is looked up in the working directory, then in $ADVJAX_DATA_DIR."""

USAGE = "usage: advjax data list | advjax data check SOURCE [--size 64] [--num-train 1000] ..."


def data(argv: list[str]) -> None:
    """Run `advjax data`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        print(LIST)
        if not argv:
            raise UsageError("data: say list or check")
        return
    word, *rest = argv
    if word == "list":
        print(LIST)
    elif word == "check":
        _check(rest)
    else:
        raise UsageError(f"data: unknown word {word!r}; {USAGE}")


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
