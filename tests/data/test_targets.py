"""Masks and boxes as targets."""

import numpy as np
import pytest

from advjax import data
from advjax.config import DataConfig
from tests.data import made


@pytest.fixture
def load(tmp_path):
    """Write arrays, load them."""

    def write(arrays, **kwargs):
        path = tmp_path / "set.npz"
        np.savez(path, **arrays)
        return data.load(DataConfig(source=f"npz:{path}", **kwargs))

    return write


def with_masks(labels=True, top=3):
    arrays = made.arrays()
    rng = np.random.default_rng(2)
    for k in data.SPLITS:
        n = len(arrays[f"{k}_images"])
        arrays[f"{k}_masks"] = rng.integers(0, top, (n, 8, 8), np.uint8)
        if not labels:
            del arrays[f"{k}_labels"]
    return arrays


def with_boxes():
    arrays = made.arrays()
    for k in data.SPLITS:
        boxes = np.full((len(arrays[f"{k}_images"]), 2, 5), -1.0)
        boxes[:, 0] = (0, 1, 2, 5, 8)
        boxes[::2, 1] = (1, 0, 0, 8, 2.5)
        arrays[f"{k}_boxes"] = boxes
        del arrays[f"{k}_labels"]
    return arrays


def test_masks_are_the_targets_when_asked_for(load):
    arrays = with_masks()
    assert load(arrays).task == "single"
    arrays["train_masks"][0, 0] = data.IGNORE
    found = load(arrays, task="segmentation")
    assert (found.task, found.num_classes) == ("segmentation", 3)
    assert found.class_names == ("0", "1", "2")
    assert found.train.masks is None
    for name, split in found.splits.items():
        assert split.targets.dtype == np.int32
        np.testing.assert_array_equal(split.targets, arrays[f"{name}_masks"])
    batch = next(data.batches(found.val, 3))
    np.testing.assert_array_equal(batch.target, arrays["val_masks"][:3])
    assert data.class_counts(found)["train"] == {"0": 12, "1": 12, "2": 12}
    assert "one class per pixel" in data.describe(found)
    named = load({**arrays, "mask_names": np.array(["a", "b", "c", "d"])}, task="segmentation")
    assert named.class_names == ("a", "b", "c", "d")
    assert "train has no example of class d" in named.notes


def test_masks_alone_and_masks_beside_dummy_labels_are_the_targets(load):
    arrays = with_masks(labels=False, top=2)
    alone = load(arrays)
    assert (alone.task, alone.num_classes) == ("segmentation", 2)
    assert alone.class_names == ("background", "foreground")
    for k in data.SPLITS:
        arrays[f"{k}_labels"] = np.zeros((len(arrays[f"{k}_images"]), 1), np.uint8)
    assert load(arrays).task == "segmentation"
    assert load(arrays, task="single").num_classes == 1
    del arrays["val_masks"]
    with pytest.raises(ValueError, match=r"'segmentation' needs val_masks, which are missing"):
        load(arrays, task="segmentation")


def test_black_and_white_is_decided_over_all_splits(load):
    arrays = with_masks(labels=False, top=2)
    for k in data.SPLITS:
        arrays[f"{k}_masks"] *= 255
    white = load(arrays)
    np.testing.assert_array_equal(white.test.targets, arrays["test_masks"] // 255)
    # a 1 anywhere: then 255 is what does not count, also in splits without a 1
    arrays["train_masks"][3, 2, 2] = 1
    found = load(arrays)
    np.testing.assert_array_equal(found.test.targets, arrays["test_masks"])
    assert found.num_classes == 2


def test_smoothed_edges_are_no_classes(load):
    arrays = with_masks(labels=False, top=2)
    for k in data.SPLITS:
        arrays[f"{k}_masks"] *= 255
    arrays["train_masks"][0] = np.arange(64).reshape(8, 8)
    with pytest.raises(ValueError, match="whose edges were smoothed; cut them at one half"):
        load(arrays)
    # numbers of classes that nobody smoothed
    for k in data.SPLITS:
        arrays[f"{k}_masks"][:] = np.arange(64).reshape(8, 8)
    assert load(arrays).num_classes == 64


def test_boxes(load):
    arrays = with_boxes()
    found = load(arrays)
    assert (found.task, found.num_classes) == ("detection", 2)
    np.testing.assert_array_equal(found.train.targets, arrays["train_boxes"].astype(np.float32))
    assert data.class_counts(found)["train"] == {"0": 12, "1": 6}
    assert next(data.batches(found.train, 4)).target.shape == (4, 2, 5)
    half = load(arrays, size=4)
    np.testing.assert_allclose(half.train.targets[0], [[0, 0.5, 1, 2.5, 4], [1, 0, 0, 4, 1.25]])
    assert (half.train.targets[1, 1] == -1).all()
    named = load({**arrays, "box_names": np.array(["tool", "bubble"])})
    assert named.class_names == ("tool", "bubble")
    with pytest.raises(ValueError, match="floor is that of a classifier"):
        data.ridge_floor(found)


def test_masks_are_resized_by_the_nearest_pixel(load):
    arrays = with_masks(labels=False)
    for k in data.SPLITS:
        arrays[f"{k}_masks"] = np.kron(arrays[f"{k}_masks"][:, ::2, ::2], np.ones((2, 2), np.uint8))
    found = load(arrays, size=4)
    np.testing.assert_array_equal(found.test.targets, arrays["test_masks"][:, ::2, ::2])


def test_val_is_held_out_of_masks(load):
    arrays = with_masks(labels=False)
    del arrays["val_images"], arrays["val_masks"]
    found = load(arrays, num_test=3)
    assert len(found.train) + len(found.val) == 12
    assert len(found.val) == 2
    assert len(found.test) == 3


def test_unknown_findings(load):
    arrays = made.arrays()
    rng = np.random.default_rng(0)
    for k in data.SPLITS:
        arrays[f"{k}_labels"] = rng.integers(0, 2, (len(arrays[f"{k}_images"]), 3)).astype(np.int8)
    arrays["train_labels"][:4, 1] = -1
    found = load(arrays)
    assert found.task == "multi"
    assert found.train.targets[:4, 1].tolist() == [-1] * 4
    counts = data.class_counts(found)["train"]
    assert counts["1"] == (arrays["train_labels"][4:, 1] == 1).sum()
    assert 0 <= data.ridge_floor(found) <= 1


def test_one_hot_rows_become_classes_when_asked(load):
    arrays = made.arrays()
    for k in data.SPLITS:
        arrays[f"{k}_labels"] = np.eye(3, dtype=np.uint8)[arrays[f"{k}_labels"][:, 0]]
    assert load(arrays).task == "multi"
    found = load(arrays, task="single")
    assert found.train.targets.tolist() == [0, 1, 2] * 4
    arrays["val_labels"][2] = (1, 1, 0)
    with pytest.raises(ValueError, match=r"val_labels\[2\] is \[1, 1, 0\], not one class"):
        load(arrays, task="single")


@pytest.mark.parametrize(
    ("arrays", "change", "task", "message"),
    [
        (made.arrays, {}, "multi", "train_labels hold one class per image; set data.task"),
        (made.arrays, {}, "detection", "needs train_boxes, which are missing"),
        (made.arrays, {}, "regression", "data.task must be single, multi, segmentation"),
        (with_masks, {"train_masks": np.full((12, 8, 8), 7)}, "segmentation", "no training pixel"),
        (with_masks, {"test_masks": np.full((6, 8, 8), 7)}, "segmentation", r"test_masks\[0\] has"),
        (with_boxes, {"train_boxes": np.zeros((12, 5))}, None, r"expected \(12, M, 5\)"),
        (with_boxes, {"val_boxes": np.zeros((4, 2, 5))}, None, r"val_boxes\[0, 0\] is \[0.0, 0.0"),
        (with_boxes, {"val_boxes": np.tile((0, 0, 0, 9, 2), (4, 2, 1))}, None, "y1 <= 8"),
        (with_boxes, {"test_boxes": np.full((6, 3, 5), -1)}, None, "same kind of label"),
        (with_boxes, {"test_boxes": np.tile((2, 0, 0, 8, 2), (6, 2, 1))}, None, "has class 2, but"),
    ],
)
def test_bad_targets(load, arrays, change, task, message):
    with pytest.raises(ValueError, match=message) as caught:
        load({**arrays(), **change}, task=task)
    assert "\n" not in str(caught.value)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("name", "values"), [("endoscopy", 2), ("fundus", 3)])
def test_masks_of_phantoms_are_targets(name, values):
    config = DataConfig(
        source=f"phantom:{name}", size=16, num_train=3, num_val=2, num_test=2, task="segmentation"
    )
    found = data.load(config)
    assert found.train.targets.shape == (3, 16, 16)
    assert found.train.targets.dtype == np.int32
    assert (
        set(np.unique(found.train.targets)) == set(range(values)) == set(range(found.num_classes))
    )
    assert all((split.targets > 0).any(axis=(1, 2)).all() for split in found.splits.values())
    assert found.class_names[0] == "background"


def test_boxes_of_phantoms_are_targets():
    found = data.load(
        DataConfig(
            source="phantom:endoscopy", size=16, num_train=3, num_val=2, num_test=2,
            task="detection",
        )
    )  # fmt: skip
    assert found.train.targets.shape == (3, 8, 5)
    assert found.class_names == data.phantoms.ARTEFACTS
    assert found.train.masks is not None
    with pytest.raises(ValueError, match="phantom:ct has no targets for the task 'detection'"):
        data.load(DataConfig(source="phantom:ct", task="detection"))
