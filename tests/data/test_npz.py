import zlib

import numpy as np
import pytest

from advjax import data
from advjax.config import DataConfig
from tests.data import made

REAL = (
    ("covid_ct_64", "single", 2, (64, 64, 1)),
    ("fundus_vessel_patches_64", "single", 2, (64, 64, 3)),
    ("kvasir_seg_64", "segmentation", 2, (64, 64, 3)),
    ("nih1000_64", "multi", 14, (64, 64, 1)),
    ("pneumoniamnist_28", "single", 2, (28, 28, 1)),
    ("wbc_64", "single", 5, (64, 64, 3)),
    ("ham10000_64", "single", 7, (64, 64, 3)),
)


@pytest.fixture
def load(tmp_path):
    """Write arrays, load them."""

    def write(arrays, **kwargs):
        path = tmp_path / "set.npz"
        np.savez(path, **arrays)
        return data.load(DataConfig(source=f"npz:{path}", **kwargs))

    return write


def test_a_valid_file(load):
    arrays = made.arrays()
    arrays["test_masks"] = np.zeros((6, 8, 8), np.uint8)
    arrays["test_masks"][0, 2] = 255
    found = load(arrays)
    assert (found.task, found.num_classes, found.image_shape) == ("single", 3, (8, 8, 3))
    assert found.class_names == ("0", "1", "2")
    assert {k: len(s) for k, s in found.splits.items()} == {"train": 12, "val": 4, "test": 6}
    np.testing.assert_array_equal(found.test.images, arrays["test_images"])
    np.testing.assert_array_equal(found.test.targets, arrays["test_labels"][:, 0])
    assert found.test.masks.max() == 1
    assert found.train.masks is None
    ids = np.concatenate([s.ids for s in found.splits.values()])
    assert ids.tolist() == list(range(22))
    assert data.class_counts(found)["train"] == {"0": 4, "1": 4, "2": 4}
    text = data.describe(found)
    assert "train" in text
    assert "12" in text
    assert data.fingerprint(found) == data.fingerprint(load(arrays))
    arrays["train_images"][0, 0, 0, 0] ^= 1
    assert data.fingerprint(found) != data.fingerprint(load(arrays))


def test_grey_float_flat_labels_and_class_names(load):
    arrays = made.arrays(channels=1)
    for k in ("train", "val", "test"):
        arrays[f"{k}_images"] = arrays[f"{k}_images"] / 255.0
        arrays[f"{k}_labels"] = arrays[f"{k}_labels"][:, 0].astype(np.int64)
    arrays["class_names"] = np.array(["a", "b", "c"])
    found = load(arrays)
    assert found.image_shape == (8, 8, 1)
    assert found.train.images.dtype == np.float32
    assert found.train.targets.dtype == np.int32
    assert found.class_names == ("a", "b", "c")


def test_multi_hot(load):
    arrays = made.arrays()
    for k in ("train", "val", "test"):
        hot = np.random.default_rng(0).integers(0, 2, (len(arrays[f"{k}_labels"]), 5), np.uint8)
        arrays[f"{k}_labels"] = hot
    arrays["val_labels"][:, 3] = 0
    found = load(arrays)
    assert (found.task, found.num_classes) == ("multi", 5)
    assert found.train.targets.shape == (12, 5)
    assert "val has no example of class 3" in found.notes
    with pytest.raises(ValueError, match=r"class_names has 2 names, but .* 5 classes"):
        load({**arrays, "class_names": np.array(["a", "b"])})


def set_row(key, row, value, dtype=None):
    def change(arrays):
        arrays[key] = arrays[key].astype(dtype or arrays[key].dtype)
        arrays[key][row] = value

    return change


def replace(key, value):
    return lambda arrays: arrays.__setitem__(key, value)


def floats(key, row, value):
    def change(arrays):
        arrays[key] = arrays[key] / 255.0
        arrays[key][row, 1, 2] = value

    return change


BAD = {
    "nan": (floats("test_images", 3, np.nan), r"test_images\[3\] has a NaN"),
    "inf": (floats("val_images", 1, np.inf), r"val_images\[1\] has a NaN or infinite"),
    "above 1": (floats("train_images", 5, 1.5), r"train_images\[5\].*outside of \[0, 1\]"),
    "below 0": (floats("train_images", 5, -0.5), r"train_images\[5\].*outside of \[0, 1\]"),
    "0 to 255 as float": (
        lambda a: a.update(train_images=a["train_images"].astype(np.float32)),
        r"train_images\[0\].*divide by the largest",
    ),
    "int images": (
        lambda a: a.update(train_images=a["train_images"].astype(np.int64)),
        "train_images has dtype int64; store images as uint8",
    ),
    "channels first": (
        lambda a: a.update(train_images=np.moveaxis(a["train_images"], -1, 1)),
        r"looks like \[N, C, H, W\]",
    ),
    "flat images": (
        lambda a: a.update(train_images=a["train_images"].reshape(12, -1)),
        "train_images has shape",
    ),
    "empty": (
        lambda a: a.update(
            test_images=a["test_images"][:0],
            test_labels=a["test_labels"][:0],
        ),
        "test_images is empty",
    ),
    "sizes differ": (
        lambda a: a.update(test_images=a["test_images"][:, :4]),
        r"test_images are \(4, 8, 3\), train_images are \(8, 8, 3\)",
    ),
    "kinds of label differ": (
        lambda a: a.update(test_labels=np.ones((6, 4), np.uint8)),
        "same kind of label",
    ),
    "label count": (
        lambda a: a.update(train_labels=a["train_labels"][:-1]),
        "train_labels has 11 rows, but the split has 12 images",
    ),
    "float labels": (
        lambda a: a.update(train_labels=a["train_labels"] * 1.0),
        "train_labels has dtype float64",
    ),
    "label shape": (
        lambda a: a.update(train_labels=np.zeros((12, 1, 1), np.uint8)),
        "train_labels has shape",
    ),
    "negative": (
        set_row("train_labels", 4, -1, np.int64),
        r"train_labels\[4\] is -1; expected a class",
    ),
    "gap": (set_row("train_labels", 7, 9), r"train_labels\[7\] is 9, .* class 3; number"),
    "huge": (
        set_row("train_labels", 7, 2_000_000_000, np.int64),
        r"train_labels\[7\] is 2000000000",
    ),
    "beyond int32": (set_row("val_labels", 2, 2**40, np.int64), r"val_labels\[2\] is 1099511"),
    "only in test": (
        set_row("test_labels", 5, 3),
        r"test_labels\[5\] is 3, but the training labels are 0\.\.2",
    ),
    "one class": (
        lambda a: a.update({f"{k}_labels": a[f"{k}_labels"] * 0 for k in ("train", "val", "test")}),
        "every image has the same class",
    ),
    "not multi-hot": (
        lambda a: a.update(train_labels=np.eye(12, 4, dtype=np.uint8) * 2),
        r"train_labels\[0\] is \[2, 0, 0, 0\]; expected 0 or 1",
    ),
    "no test": (lambda a: a.pop("test_images"), r"test_images is missing .*found: test_labels"),
    "no train labels": (lambda a: a.pop("train_labels"), "train_labels is missing"),
    "val labels only": (lambda a: a.pop("val_images"), "val_images is missing"),
    "mask shape": (
        replace("train_masks", np.zeros((12, 4, 4), np.uint8)),
        r"train_masks has shape \(12, 4, 4\), but the images need \(12, 8, 8\)",
    ),
    "mask values": (
        replace("train_masks", np.full((12, 8, 8), 0.5)),
        r"train_masks\[0\] is not made of integers",
    ),
    "ids length": (replace("test_ids", np.arange(5)), r"test_ids has shape \(5,\)"),
    "ids dtype": (replace("test_ids", np.arange(6) * 0.5), "test_ids has dtype float64"),
    "groups length": (replace("test_groups", np.arange(5)), r"test_groups has shape \(5,\)"),
    "objects": (
        replace("test_ids", np.array([{}] * 6, object)),
        "cannot read test_ids .*Python objects",
    ),
    "names": (replace("class_names", np.arange(3)), "class_names must be a list of strings"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_contents_are_one_line_that_names_file_and_place(load, name):
    change, message = BAD[name]
    arrays = made.arrays()
    change(arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load(arrays)
    assert "\n" not in str(caught.value)
    assert "set.npz" in str(caught.value)


def test_damaged_files(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **made.arrays())
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"set.npz: not a readable .npz file") as caught:
            data.load(DataConfig(source=f"npz:{path}"))
        assert "\n" not in str(caught.value)
    path.write_bytes(b"not an archive at all")
    with pytest.raises(ValueError, match=r"set.npz: not a readable .npz file"):
        data.load(DataConfig(source=f"npz:{path}"))
    # a flipped byte is found by the checksum, or hits something that does not matter
    refused = 0
    for place in range(40, len(whole) - 1, len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            data.load(DataConfig(source=f"npz:{path}"))
        except ValueError as error:
            refused += "set.npz" in str(error)
    assert refused >= 50
    with open(path, "wb") as file:
        np.save(file, np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"one .npy array, expected an .npz"):
        data.load(DataConfig(source=f"npz:{path}"))


def test_val_is_held_out_by_group(load):
    arrays = made.arrays(numbers=(60, 4, 6))
    del arrays["val_images"], arrays["val_labels"]
    groups = np.repeat(np.arange(20), 3)
    arrays["train_groups"] = groups.astype(str)
    arrays["train_ids"] = np.array([f"image {i}" for i in range(60)])
    arrays["test_ids"] = np.array([f"image {i}" for i in range(60, 66)])
    found = load(arrays)
    assert len(found.train) + len(found.val) == 60
    assert 4 <= len(found.val) <= 11
    assert not set(found.train.groups) & set(found.val.groups)
    assert any("held out for validation, by group" in note for note in found.notes)
    again, other = load(arrays), load(arrays, seed=1)
    np.testing.assert_array_equal(found.val.ids, again.val.ids)
    assert set(found.val.ids) != set(other.val.ids)
    arrays["train_groups"] = np.array(["same"] * 60)
    with pytest.raises(ValueError, match=r"cannot be divided; add .*val_images"):
        load(arrays)


def test_val_without_groups_keeps_the_classes(load):
    arrays = made.arrays(numbers=(48, 4, 6))
    del arrays["val_images"], arrays["val_labels"]
    found = load(arrays)
    assert np.bincount(found.val.targets).tolist() == [2, 2, 2]


def test_groups_in_two_splits_are_warned_of_by_name(load):
    arrays = made.arrays()
    for k, n in (("train", 12), ("val", 4), ("test", 6)):
        arrays[f"{k}_groups"] = np.array([f"{k}{i}" for i in range(n)])
    arrays["test_groups"] = np.array(["a", "b", "train7", "c", "d", "e"])
    with pytest.warns(UserWarning, match=r"set.npz: 1 group\(s\) are in both train and test"):
        found = load(arrays)
    assert any("train7" in note for note in found.notes)


def test_ids_of_strings_are_stable_and_unique(load):
    arrays = made.arrays()
    arrays["train_ids"] = np.array([f"case {i % 6}" for i in range(12)])
    arrays["val_ids"] = np.array([f"case {i}" for i in range(4)])
    arrays["test_ids"] = np.array([f"t{i}" for i in range(6)])
    found = load(arrays)
    ids = np.concatenate([s.ids for s in found.splits.values()])
    assert len(set(ids.tolist())) == 22
    assert ids.min() >= 0
    # CRC-32 of the name, in 31 bits: the same in every run and on every machine
    assert found.train.ids[0] == 0x7FFFFFFF & zlib.crc32(b"case 0")
    assert found.train.names[3] == "case 3"
    few = load(arrays, num_train=6)
    assert set(few.train.ids) < set(found.train.ids)
    arrays.update(train_ids=np.arange(50, 62), val_ids=np.arange(4), test_ids=np.arange(10, 16))
    assert load(arrays).train.ids.tolist() == list(range(50, 62))


def test_subsets_keep_the_classes_and_are_nested(load):
    arrays = made.arrays(numbers=(60, 30, 30))
    arrays["train_labels"] = np.sort(arrays["train_labels"], axis=0)
    small, large = load(arrays, num_train=9), load(arrays, num_train=21)
    assert np.bincount(small.train.targets).tolist() == [3, 3, 3]
    assert set(small.train.ids) < set(large.train.ids)
    assert len(load(arrays, num_train=1000).train) == 60


@pytest.mark.parametrize("channels", [1, 3])
def test_resize(load, channels):
    arrays = made.arrays(channels=channels)
    arrays["train_masks"] = np.zeros((12, 8, 8), np.uint8)
    arrays["train_masks"][:, :4] = 2
    found = load(arrays, size=4)
    assert found.image_shape == (4, 4, channels)
    assert found.train.images.dtype == np.uint8
    before, after = arrays["train_images"].mean(), found.train.images.mean()
    assert abs(before - after) < 3
    assert found.train.masks[0, :, 0].tolist() == [2, 2, 0, 0]


@pytest.mark.sample(1)
@pytest.mark.data
# the files share groups between their splits, of which another test has the warning
@pytest.mark.filterwarnings("ignore:.*group")
@pytest.mark.parametrize(("name", "task", "classes", "shape"), REAL)
def test_real_files_load(data_dir, name, task, classes, shape):
    found = data.load(DataConfig(source=f"npz:{data_dir / name}.npz"))
    assert (found.task, found.num_classes, found.image_shape) == (task, classes, shape)
    ids = np.concatenate([s.ids for s in found.splits.values()])
    assert len(np.unique(ids)) == len(ids)
    assert data.describe(found)


@pytest.mark.data
# the files share groups between their splits, of which another test has the warning
@pytest.mark.filterwarnings("ignore:.*group")
def test_floor_of_a_real_file(data_dir):
    found = data.load(DataConfig(source=f"npz:{data_dir / 'covid_ct_64.npz'}"))
    assert data.ridge_floor(found) == pytest.approx(0.62, abs=0.02)
