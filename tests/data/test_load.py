import numpy as np
import pytest

from advjax import data
from advjax.config import DataConfig
from advjax.data import _split
from tests.data import made


def test_relative_paths_look_in_the_working_directory_then_in_the_data_folder(
    tmp_path, monkeypatch
):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("ADVJAX_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match=r"x.npz in the working .*set ADVJAX_DATA_DIR"):
        data.load(DataConfig(source="npz:x.npz"))
    monkeypatch.setenv("ADVJAX_DATA_DIR", str(there))
    with pytest.raises(FileNotFoundError, match="neither in the working directory nor in ADVJAX"):
        data.load(DataConfig(source="npz:x.npz"))
    with pytest.raises(FileNotFoundError, match="correct the path"):
        data.load(DataConfig(source=f"npz:{tmp_path}/no.npz"))
    np.savez(there / "x.npz", **made.arrays())
    assert len(data.load(DataConfig(source="npz:x.npz")).train) == 12
    np.savez(here / "x.npz", **made.arrays(numbers=(15, 4, 6)))
    assert len(data.load(DataConfig(source="npz:x.npz")).train) == 15


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"source": "mnist"}, "unknown data source 'mnist'; write phantom:dermoscopy"),
        ({"source": "npz:"}, "unknown data source"),
        (
            {"source": "phantom:mri"},
            "unknown phantom 'mri'; known: ct, dermoscopy, endoscopy, fundus, xray",
        ),
        ({"num_train": 0}, "data.num_train must be at least 1"),
        ({"size": -3}, "data.size must be at least 1"),
        ({"size": 4}, r"size of a phantom must be in \[16, 1024\]"),
        ({"seed": -1}, "data.seed must be in"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises(ValueError, match=message):
        data.load(DataConfig(**kwargs))


def test_file_for_folder_and_the_reverse(tmp_path):
    np.savez(tmp_path / "x.npz", **made.arrays())
    with pytest.raises(ValueError, match="is a folder; write folder:"):
        data.load(DataConfig(source=f"npz:{tmp_path}"))
    with pytest.raises(ValueError, match="is a file; write npz:"):
        data.load(DataConfig(source=f"folder:{tmp_path}/x.npz"))


def test_clashing_hashes_get_other_ids():
    # a pair of strings with the same CRC-32
    one, two = "plumless", "buckeroo"
    ids = _split.to_ids([np.array([one, "x"]), np.array([two])], [2, 1])
    assert len({*ids[0].tolist(), *ids[1].tolist()}) == 3
    assert ids[0].dtype == np.int32
    mixed = _split.to_ids([np.array(["a"]), None], [1, 2])
    assert mixed[1].tolist() == [1, 2]


def test_stratified_order_keeps_shares_in_every_prefix():
    targets = np.array([0] * 60 + [1] * 30 + [2] * 10)
    order = _split.stratified_order(targets, seed=0)
    assert sorted(order) == list(range(100))
    for n in (10, 20, 50, 90):
        np.testing.assert_allclose(
            np.bincount(targets[order[:n]], minlength=3), n * np.array([0.6, 0.3, 0.1]), atol=1
        )


def test_hold_out_never_divides_a_group():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 200)
    targets = rng.integers(0, 2, 200)
    held = _split.hold_out(targets, groups, 0.2, seed=3)
    assert 25 <= held.sum() <= 60
    assert not set(groups[held]) & set(groups[~held])
    assert not _split.hold_out(targets, np.zeros(200, int), 0.2, seed=3).any()


def test_hold_out_takes_the_smallest_of_groups_that_are_all_too_large():
    groups = np.repeat(np.arange(6), [5, 5, 4, 5, 5, 6])
    held = _split.hold_out(np.zeros(30, int), groups, 0.05, seed=0)
    assert groups[held].tolist() == [2] * 4


def test_ridge_solves_what_is_linear_and_not_what_is_not():
    rng = np.random.default_rng(0)

    def dataset(images, targets, task="single"):
        rows = np.split(np.arange(len(images)), [300, 400])
        splits = {
            name: data.Split(images[r], targets[r], r.astype(np.int32))
            for name, r in zip(data.SPLITS, rows, strict=True)
        }
        classes = 2 if task == "single" else targets.shape[1]
        return data.Dataset("made", task, classes, tuple("ab"[:classes]), (20, 20, 1), splits)

    # a brighter upper half is linear; a pattern of random sign that is there or not is not
    noise = rng.random((600, 20, 20, 1), np.float32)
    linear, hidden = rng.integers(0, 2, 600), rng.integers(0, 2, 600)
    upper = np.zeros((1, 20, 20, 1), np.float32)
    upper[:, :10] = 1
    sign = rng.choice([-0.3, 0.3], (600, 1, 1, 1)).astype(np.float32)
    rows = (slice(None), None, None, None)
    images = 0.4 + 0.1 * noise + 0.1 * linear[rows] * upper + sign * hidden[rows] * (1 - upper)
    images = images.clip(0, 1).astype(np.float32)
    assert data.ridge_floor(dataset(images, linear)) > 0.95
    assert 0.35 < data.ridge_floor(dataset(images, hidden)) < 0.65
    hot = np.stack([linear, hidden], axis=1).astype(np.int32)
    assert 0.65 < data.ridge_floor(dataset(images, hot, "multi")) < 0.85
