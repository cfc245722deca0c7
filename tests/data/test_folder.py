import io
import shutil
import subprocess
import sys

import numpy as np
import pytest

from advjax import data
from advjax.config import DataConfig

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")


def write(path, seed=0, size=(10, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if mode in ("RGB", "P") else size
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(pixels)
    image.convert(mode).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    """Two classes in train, val and test; grey."""
    root = tmp_path / "scans"
    for k, (split, n) in enumerate((("train", 4), ("val", 2), ("test", 3))):
        for c, name in enumerate(("benign", "malignant")):
            for i in range(n):
                write(root / split / name / f"{i}.png", 100 * k + 10 * c + i, mode="L")
    (root / "train" / "benign" / "readme.txt").write_text("not an image")
    (root / ".cache").mkdir()
    return root


def load(root, **kwargs):
    return data.load(DataConfig(source=f"folder:{root}", **kwargs))


def test_split_folders(folder):
    found = load(folder)
    assert found.class_names == ("benign", "malignant")
    assert found.image_shape == (10, 10, 1)
    assert {k: len(s) for k, s in found.splits.items()} == {"train": 8, "val": 4, "test": 6}
    assert found.test.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test.names[4] == "test/malignant/1.png"
    expected = np.random.default_rng(211).integers(0, 256, (10, 10), np.uint8)
    np.testing.assert_array_equal(found.test.images[4, ..., 0], expected)
    ids = np.concatenate([s.ids for s in found.splits.values()])
    assert len(set(ids.tolist())) == 18


def test_ids_survive_a_copy_and_new_files(folder, tmp_path):
    before = load(folder)
    shutil.copytree(folder, tmp_path / "copy")
    write(tmp_path / "copy/train/benign/0a.png", 999, mode="L")
    after = load(tmp_path / "copy")
    assert set(before.train.ids) < set(after.train.ids)
    np.testing.assert_array_equal(before.test.ids, after.test.ids)


def test_validation_by_another_name_or_held_out(folder):
    (folder / "val").rename(folder / "validation")
    assert len(load(folder).val) == 4
    shutil.rmtree(folder / "validation")
    found = load(folder)
    assert len(found.train) + len(found.val) == 8
    assert any("held out" in note for note in found.notes)


def test_flat_folder_is_divided_by_class(tmp_path):
    root = tmp_path / "flat"
    for c, (name, n) in enumerate((("a", 40), ("b", 20))):
        for i in range(n):
            write(root / name / "deep" / f"{i}.png", 100 * c + i, mode="L")
    found = load(root)
    counts = {k: np.bincount(s.targets).tolist() for k, s in found.splits.items()}
    assert counts == {"train": [28, 14], "val": [4, 2], "test": [8, 4]}
    assert any("divided 70/10/20" in note for note in found.notes)
    again, other = load(root), load(root, seed=1)
    np.testing.assert_array_equal(found.test.ids, again.test.ids)
    assert set(found.test.ids) != set(other.test.ids)
    ids = np.concatenate([s.ids for s in found.splits.values()])
    assert len(set(ids.tolist())) == 60


def test_sizes_colour_and_formats(folder):
    write(folder / "train/benign/wide.jpg", 5, (14, 20))
    with pytest.raises(ValueError, match=r"train/benign/wide.jpg is 20x14 pixels.*data.size"):
        load(folder)
    write(folder / "train/benign/palette.gif", 5, (9, 9), mode="P")
    found = load(folder, size=8)
    assert found.image_shape == (8, 8, 3)
    grey = found.test.images[0]
    assert (grey[..., 0] == grey[..., 1]).all()
    wide = found.train.images[found.train.names == "train/benign/wide.jpg"]
    assert np.ptp(wide[..., 0].astype(int) - wide[..., 1]) > 0


def test_bad_files_are_named(folder):
    path = folder / "val/malignant/1.png"
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"val/malignant/1.png: cannot be read") as caught:
            load(folder)
        assert "\n" not in str(caught.value)
    buffer = io.BytesIO()
    Image.fromarray(np.full((10, 10), 4000, np.uint16)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"1.png: I;16.* pixels .*8 bits"):
        load(folder)


def test_bad_layouts(folder, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no class folders inside"):
        load(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ValueError, match="empty: no class folders inside"):
        load(".")
    (folder / "test/other").mkdir()
    with pytest.raises(ValueError, match=r"test/other: the training folder has no class 'other'"):
        load(folder)
    (folder / "test/other").rmdir()
    (folder / "train/other").mkdir()
    with pytest.raises(ValueError, match=r"train/other: no image inside"):
        load(folder)
    (folder / "train/other").rmdir()
    (folder / "valid").mkdir()
    with pytest.raises(ValueError, match="val and valid both exist"):
        load(folder)
    (folder / "valid").rmdir()
    shutil.rmtree(folder / "test")
    with pytest.raises(ValueError, match="there is no test folder beside"):
        load(folder)
    for name in ("one", "two"):
        write(tmp_path / "few" / name / "0.png")
    with pytest.raises(ValueError, match="2 images are too few to divide"):
        load(tmp_path / "few")


def test_importing_data_loads_no_reader():
    code = (
        "import sys, jax, numpy, optax, chex; before = set(sys.modules); import advjax.data; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - {'advjax'}; "
        "print(sorted(new - set(sys.stdlib_module_names) - {m.split('.')[0] for m in before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
