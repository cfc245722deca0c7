"""Published datasets, prepared from tiny fakes and read back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from advjax import data
from advjax.cli import main
from advjax.config import DataConfig
from advjax.data import builders

pytest.importorskip("PIL.Image", reason="pictures need Pillow")
from tests.data import fakes

# task, classes, channels, images of each split
EXPECTED = {
    "aptos2019": ("single", 5, 3, (18, 2, 5)),
    "chestxray14": ("multi", 14, 1, (18, 2, 10)),
    "covid19_radiography": ("single", 4, 1, (28, 4, 8)),
    "covid_ct": ("single", 2, 1, (8, 4, 6)),
    "ead2019": ("detection", 7, 3, (14, 2, 4)),
    "ham10000": ("single", 7, 3, (50, 6, 14)),
    "isic2016": ("single", 2, 3, (14, 2, 4)),
    "isic2017": ("single", 3, 3, (6, 3, 4)),
    "kvasir_seg": ("segmentation", 2, 3, (14, 2, 4)),
    "messidor": ("single", 4, 3, (28, 4, 8)),
    "pneumoniamnist": ("single", 2, 1, (8, 3, 4)),
    "chestmnist": ("multi", 14, 1, (8, 3, 4)),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """All fakes, prepared once."""
    base = tmp_path_factory.mktemp("prepared")
    for name, make in fakes.MAKERS.items():
        make(base / "originals" / name)
        recipe = builders.find(name)
        builders.prepare(recipe, base / "originals" / name, size=8, data_dir=base / "tfds")
    return base


def load(prepared, name, **kwargs):
    return data.load(DataConfig(source=f"tfds:{prepared}/tfds/{name}", **kwargs))


# official splits share groups, of which another test has the warning
@pytest.mark.filterwarnings("ignore:.*group")
@pytest.mark.parametrize("name", EXPECTED)
def test_what_was_prepared_is_read(prepared, name):
    task, classes, channels, sizes = EXPECTED[name]
    found = load(prepared, name)
    assert (found.task, found.num_classes) == (task, classes)
    assert found.image_shape == (8, 8, channels)
    assert tuple(len(split) for split in found.splits.values()) == sizes
    names = np.concatenate([split.names for split in found.splits.values()])
    assert len(set(names)) == len(names) == sum(sizes)
    groups = [split.groups for split in found.splits.values()]
    if groups[0] is not None:
        assert sum(len(set(g)) for g in groups) == len(set(np.concatenate(groups)))
    recipe = builders.find(name)
    assert found.class_names == (recipe.class_names or recipe.mask_names or recipe.box_names)


def test_pixels_are_those_of_the_original(prepared):
    from PIL import Image

    found = load(prepared, "covid_ct").test
    for name, image, target in zip(found.names, found.images, found.targets, strict=True):
        file = prepared / "originals" / "covid_ct" / "Images-processed" / name
        grey = Image.open(file).convert("L").resize((8, 8), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image[..., 0], np.asarray(grey))
        assert target == (not name.startswith("CT_Non"))
    raw = np.load(prepared / "originals" / "pneumoniamnist" / "pneumoniamnist.npz")
    labels = load(prepared, "pneumoniamnist").train.targets
    np.testing.assert_array_equal(labels, raw["train_labels"][:, 0])


@pytest.mark.parametrize("name", ["covid19_radiography", "isic2016", "isic2017", "ham10000"])
def test_masks_beside_classes(prepared, name):
    found = load(prepared, name, task="segmentation")
    assert found.class_names[0] == "background"
    expected = np.repeat([[1] * 4 + [0] * 4], 8, axis=0).T
    for split in found.splits.values():
        for target in split.targets:
            np.testing.assert_array_equal(target, expected)
    half = load(prepared, name, task="segmentation", size=4)
    np.testing.assert_array_equal(half.test.targets[0], expected[::2, ::2])


def test_boxes_in_shares_and_in_pixels_are_the_same(prepared):
    found = load(prepared, "ead2019")
    for split in found.splits.values():
        for name, boxes in zip(split.names, split.targets, strict=True):
            k = int(name)
            np.testing.assert_allclose(boxes[0], [k % 7, 2.4, 2, 5.6, 6], atol=1e-5)
            np.testing.assert_allclose(boxes[1], [3, 0, 0, 8, 4] if k % 2 else [-1] * 5, atol=1e-5)
    small = load(prepared, "ead2019", size=4)
    np.testing.assert_allclose(small.test.targets, np.where(
        found.test.targets == -1, -1, found.test.targets * [1, 0.5, 0.5, 0.5, 0.5]), atol=1e-5
    )  # fmt: skip


def test_findings_and_patients_of_chest_xrays(prepared):
    found = load(prepared, "chestxray14")
    assert set(found.test.groups) == {str(k) for k in range(11, 16)}
    row = list(found.test.names).index("00000014_000.png")
    # number 26: a finding and hernia, which is what 26 % 14 and 26 % 3 make of it
    positive = np.array(found.class_names)[found.test.targets[row] == 1].tolist()
    assert positive == [found.class_names[12], "Hernia"]


MISSING = {
    "aptos2019": ("train.csv", "there is no train.csv in"),
    "chestxray14": ("test_list.txt", "there is no test_list.txt in"),
    "covid19_radiography": ("COVID-19_Radiography_Dataset/Normal/masks", "Normal/masks in"),
    "covid_ct": ("Data-split/COVID/valCT_COVID.txt", "no Data-split/COVID/valCT_COVID.txt"),
    "ead2019": ("trainingData_detection", r"no image with a \.txt of boxes"),
    "ham10000": ("HAM10000_images_part_2", "there is no HAM10000_images_part_2 in"),
    "isic2016": ("ISBI2016_ISIC_Part3_Test_GroundTruth.csv", "no ISBI2016_ISIC_Part3_Test_Gr"),
    "isic2017": ("ISIC-2017_Test_v2_Data", "there is no ISIC-2017_Test_v2_Data in"),
    "kvasir_seg": ("Kvasir-SEG/masks", "there is no masks in"),
    "messidor": ("Base11", None),
    "pneumoniamnist": ("pneumoniamnist.npz", r"no pneumoniamnist\.npz \(nor pneumoniamnist_224"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_file_is_named(prepared, tmp_path, name):
    import shutil

    what, message = MISSING[name]
    root = tmp_path / "originals"
    fakes.MAKERS[name](root)
    gone = root / what
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    if message is None:  # one base less is no error, an annotation that was not saved as csv is
        (root / "Base13").mkdir()
        (root / "Base13" / "Annotation_Base13.xls").write_bytes(b"")
        message = "no csv of Annotation_Base13.xls beside it; open it in a spreadsheet"
    with pytest.raises(FileNotFoundError, match=message):
        builders.prepare(builders.find(name), root, size=8, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("isic2016", "ISBI2016_ISIC_Part1_{}_GroundTruth"),
        ("isic2017", "ISIC-2017_{}_Part1_GroundTruth"),
    ],
)
def test_classes_of_isic_need_no_masks(tmp_path, name, folder):
    import shutil

    fakes.MAKERS[name](tmp_path)
    for which in ("Training", "Validation", "Test", "Test_v2"):
        shutil.rmtree(tmp_path / folder.format(which), ignore_errors=True)
    builders.prepare(builders.find(name), tmp_path, size=8, data_dir=tmp_path / "tfds")
    source = f"tfds:{tmp_path}/tfds/{name}"
    assert len(data.load(DataConfig(source=source)).splits["test"]) == 4
    with pytest.raises(ValueError, match="mask"):
        data.load(DataConfig(source=source, task="segmentation"))


def test_names_as_they_are_published(prepared):
    for name, known in (("APTOS-2019", "aptos2019"), ("Kvasir-SEG", "kvasir_seg"),
                        ("COVID-19 Radiography", "covid19_radiography")):  # fmt: skip
        assert builders.find(name).name == known
    assert len(load(prepared, "APTOS-2019").splits["test"]) == 5
    with pytest.raises(ValueError, match="unknown dataset 'aptos2018'; known: aptos2019"):
        builders.find("aptos2018")


def test_an_image_that_a_table_names_and_a_broken_one(tmp_path):
    fakes.aptos2019(tmp_path)
    recipe = builders.find("aptos2019")
    (tmp_path / "train_images" / "a03.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"a03.png: cannot be read as an image"):
        builders.prepare(recipe, tmp_path, size=8, data_dir=tmp_path / "out")
    # what failed is not taken for a prepared set
    (tmp_path / "train_images" / "a03.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train.csv names a03, but there is no such"):
        builders.prepare(recipe, tmp_path, size=8, data_dir=tmp_path / "out")


def test_the_split_is_always_the_same_and_keeps_lesions_together(tmp_path):
    fakes.ham10000(tmp_path)
    one, two = (builders.find("ham10000").records(tmp_path) for _ in range(2))
    for split, records in one.items():
        assert [r.name for r in records] == [r.name for r in two[split]]
    of = [{r.group for r in records} for records in one.values()]
    assert sum(map(len, of)) == 35


def test_a_published_split_of_kvasir_is_followed(tmp_path):
    fakes.kvasir_seg(tmp_path)
    fakes.text(tmp_path / "train.txt", [f"cju{k:02}" for k in range(15)])
    fakes.text(tmp_path / "test.txt", [f"cju{k:02}.jpg" for k in range(15, 20)])
    found = builders.find("kvasir_seg").records(tmp_path)
    assert {split: len(records) for split, records in found.items()} == {"train": 15, "test": 5}


def test_the_command_prepares_checks_and_lists(tmp_path, capsys, monkeypatch):
    fakes.kvasir_seg(tmp_path / "in")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match=r"kvasir_seg is not prepared .*--manual-dir DIR"):
        data.load(DataConfig(source="tfds:kvasir_seg"))
    words = ["data", "prepare", "kvasir_seg", "--manual-dir", str(tmp_path / "in"), "--size", "16"]
    assert main(words) == 0
    assert "use it as tfds:kvasir_seg" in capsys.readouterr().out
    assert main(["data", "check", "tfds:kvasir_seg"]) == 0
    assert "polyp" in capsys.readouterr().out
    assert main(words) == 0
    # the size that is not too small is read
    builders.prepare(builders.find("kvasir_seg"), tmp_path / "in", size=8)
    assert load_size(None) == load_size(12) == load_size(32) == 16
    assert load_size(8) == 8
    capsys.readouterr()
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in builders.RECIPES)
    for name in builders.RECIPES:
        assert main(["data", "list", name]) == 0
        page = capsys.readouterr().out
        assert all(f"**{word}" in page for word in ("Obtain", "Put", "Split", "Terms")), name
    assert main(["data", "prepare", "kvasir_seg"]) == 2
    assert main(["data", "prepare", "imagenet", "--manual-dir", str(tmp_path)]) == 1
    assert "unknown dataset 'imagenet'; known: aptos2019" in capsys.readouterr().err


def load_size(size):
    """Height of the prepared set that is read."""
    from advjax.data import _tfds

    folder = _tfds._find("kvasir_seg", builders.data_dirs(), size)
    return int(folder.parent.name.removesuffix("px"))


def test_no_tensorflow_is_loaded(prepared):
    code = (
        "import sys; from advjax import data; from advjax.config import DataConfig\n"
        f"data.load(DataConfig(source='tfds:{prepared}/tfds/kvasir_seg'))\n"
        "assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
