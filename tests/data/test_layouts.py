"""Folders of image and mask pairs, and folders with a csv of labels."""

import numpy as np
import pytest

from advjax import data
from advjax.config import DataConfig

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")


def write(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    (image if mode is None else image.convert(mode)).save(path, **(
        {"quality": 95} if path.suffix == ".jpg" else {}))  # fmt: skip


def picture(seed, size=(8, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def disc(row):
    """A mask that says which row it belongs to."""
    mask = np.zeros((8, 8), np.uint8)
    mask[: 1 + row % 7, 2:6] = 255
    return mask


def load(root, **kwargs):
    return data.load(DataConfig(source=f"folder:{root}", **kwargs))


@pytest.fixture
def pairs(tmp_path):
    root = tmp_path / "polyps"
    for row in range(20):
        write(root / "images" / f"p{row:02}.png", picture(row))
        write(root / "masks" / f"p{row:02}.png", disc(row))
    return root


def test_pairs_are_divided_and_stay_together(pairs):
    found = load(pairs)
    assert (found.task, found.num_classes) == ("segmentation", 2)
    assert {k: len(s) for k, s in found.splits.items()} == {"train": 14, "val": 2, "test": 4}
    for split in found.splits.values():
        for name, image, target in zip(split.names, split.images, split.targets, strict=True):
            row = int(name[-6:-4])
            np.testing.assert_array_equal(image, picture(row))
            np.testing.assert_array_equal(target, disc(row) // 255)
    assert any("divided 70/10/20 with seed 0, by image" in note for note in found.notes)


def test_pairs_in_split_folders_with_other_names(tmp_path):
    root = tmp_path / "isic"
    for split, n in (("train", 4), ("val", 2), ("test", 3)):
        for row in range(n):
            write(root / split / "images" / f"I{row}.jpg", picture(row))
            classes = disc(row) // 255 * 2
            classes[7] = 1
            classes[0, 0] = 255
            write(root / split / "masks" / f"I{row}_segmentation.png", classes)
    found = load(root)
    assert {k: len(s) for k, s in found.splits.items()} == {"train": 4, "val": 2, "test": 3}
    assert found.num_classes == 3
    assert found.test.targets[0, 0].tolist() == [255, 0, 2, 2, 2, 2, 0, 0]
    small = load(root, size=4)
    assert small.test.targets.shape == (3, 4, 4)
    assert set(np.unique(small.test.targets)) <= {0, 1, 2, 255}


def test_jpeg_masks_are_cut_at_one_half(pairs):
    for row in range(20):
        (pairs / "masks" / f"p{row:02}.png").unlink()
        write(pairs / "masks" / f"p{row:02}.jpg", disc(row))
    found = load(pairs)
    assert set(np.unique(found.train.targets)) == {0, 1}


PAIRS = {
    "no mask": (
        lambda root: (root / "masks" / "p03.png").unlink(),
        r"images/p03.png has no mask; add masks/p03.png",
    ),
    "no image": (
        lambda root: (root / "images" / "p03.png").unlink(),
        r"masks/p03.png: there is no image 'p03' in images \(1 such",
    ),
    "two masks": (
        lambda root: write(root / "masks" / "p03_mask.png", disc(3)),
        r"masks/p03.png and masks/p03_mask.png are masks of the same image",
    ),
    "size": (
        lambda root: write(root / "masks" / "p03.png", disc(3)[:4]),
        r"masks/p03.png is 8x4 pixels, its image images/p03.png 8x8",
    ),
    "colours": (
        lambda root: write(root / "masks" / "p03.png", picture(0)),
        r"masks/p03.png: a mask with colours; save the class of each pixel",
    ),
    "broken": (
        lambda root: (root / "masks" / "p03.png").write_bytes(b"no picture"),
        r"masks/p03.png: cannot be read as an image",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_bad_pairs(pairs, name):
    change, message = PAIRS[name]
    change(pairs)
    with pytest.raises(ValueError, match=message) as caught:
        load(pairs)
    assert "\n" not in str(caught.value)


def table(root, text, name="labels.csv"):
    root.mkdir(exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture
def scans(tmp_path):
    root = tmp_path / "scans"
    for row in range(24):
        write(root / "images" / f"s{row}.png", picture(row))
    return root


def test_a_csv_of_classes_with_splits_and_patients(scans):
    splits = ["train"] * 6 + ["valid"] * 2 + ["test"] * 4
    lines = [f"s{k},{'mel' if k % 2 else 'nv'},{s},p{k // 2}" for k, s in enumerate(splits)]
    table(scans, "\n".join(["image,diagnosis,split,patient", *lines]))
    found = load(scans)
    assert (found.task, found.class_names) == ("single", ("mel", "nv"))
    assert {k: len(s) for k, s in found.splits.items()} == {"train": 6, "val": 2, "test": 4}
    assert found.train.targets.tolist() == [1, 0] * 3
    assert found.test.groups.tolist() == ["p4", "p4", "p5", "p5"]
    np.testing.assert_array_equal(found.val.images[1], picture(7))


def test_a_csv_without_splits_is_divided_by_patient(scans):
    lines = [f"images/s{k}.png,{k % 2},p{k // 2}" for k in range(24)]
    table(scans, "\n".join(["file,grade,patient", *lines]))
    found = load(scans)
    assert found.class_names == ("0", "1")
    of = [set(split.groups) for split in found.splits.values()]
    assert sum(map(len, of)) == 12 == len(set.union(*of))
    assert any("by group" in note for note in found.notes)


def test_csv_files_of_findings(scans):
    for name, rows in (("train", range(8)), ("test", range(8, 12))):
        lines = [f"s{k}.png,{k % 2},{['1.0', '', '-1', '0'][k % 4]}" for k in rows]
        table(scans, "\n".join(["Image,Effusion,Mass", *lines]), f"{name}.csv")
    found = load(scans)
    assert (found.task, found.class_names) == ("multi", ("Effusion", "Mass"))
    assert found.test.targets.tolist() == [[0, 1], [1, -1], [0, -1], [1, 0]]
    assert len(found.train) + len(found.val) == 8


def test_masks_beside_a_csv(scans):
    for row in range(12):
        write(scans / "masks" / f"s{row}.png", disc(row))
    table(scans, "\n".join(["image,grade", *(f"s{k},{k % 2}" for k in range(12))]))
    assert load(scans).task == "single"
    assert load(scans, task="segmentation").train.targets.shape[1:] == (8, 8)


ROWS = [f"s{k},{k % 2},0" for k in range(12)]
TABLES = {
    "missing image": ([*ROWS, "s99,1,0"], "line 14: there is no image 's99' below scans"),
    "twice": ([*ROWS, "s3,1,0"], r"line 14 names 's3', as labels.csv, line 5 does"),
    "cells": ([*ROWS[:4], "s4,1"], "line 6: another number of cells"),
    "value": (["s0,1,80"], "line 2: b is '80'; a column of a finding holds 0, 1"),
    "empty": ([], "labels.csv: expected a header"),
}


@pytest.mark.parametrize("name", TABLES)
def test_bad_tables(scans, name):
    lines, message = TABLES[name]
    table(scans, "\n".join(["image,a,b", *lines]))
    with pytest.raises(ValueError, match=message):
        load(scans)


def test_bad_columns(scans):
    table(scans, "image,split\ns0,train")
    with pytest.raises(ValueError, match="no column of labels"):
        load(scans)
    table(scans, "image,grade,split\ns0,1,dev")
    with pytest.raises(ValueError, match="line 2: split is 'dev'; expected train, val or test"):
        load(scans)
    table(scans, "image,grade\ns0,")
    with pytest.raises(ValueError, match="line 2: grade is '', no class"):
        load(scans)
    write(scans / "other" / "s0.png", picture(0))
    table(scans, "image,grade\ns0,1")
    with pytest.raises(ValueError, match=r"'s0' may be images/s0.png or other/s0.png"):
        load(scans)
