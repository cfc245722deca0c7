"""Two classes out of many: closed forms on a few images, and what is refused."""

import numpy as np
import pytest

from advjax import data
from advjax.cli import main
from advjax.cli._parse import parse
from advjax.config import DataConfig, TrainConfig
from advjax.training import config_from_dict, config_to_dict
from tests.data import fakes, made

GRADES = ("grade 0", "grade 1", "grade 2", "grade 3")
FINDINGS = ("Mass", "Nodule", "Hernia")
# what each row is for Mass or Nodule: 1, 0, or None where it cannot be told
ROWS = np.array(
    [[1, 0, 0], [1, -1, 0], [-1, 1, -1], [0, 0, 1], [0, 0, -1], [0, -1, 1], [-1, -1, 0], [-1, 0, 0]]
)
TOLD = [1, 1, 1, 0, 0, None, None, None]


@pytest.fixture
def graded(tmp_path):
    arrays = made.arrays(classes=4) | {"class_names": np.array(GRADES)}
    arrays |= {f"{k}_ids": 100 * i + np.arange(n) for i, (k, n) in enumerate(_numbers())}
    np.savez(tmp_path / "grades.npz", **arrays)
    return f"npz:{tmp_path / 'grades.npz'}"


@pytest.fixture
def found(tmp_path):
    arrays = made.arrays(numbers=(8, 8, 8)) | {"class_names": np.array(FINDINGS)}
    arrays |= {f"{k}_labels": ROWS for k in data.SPLITS}
    arrays |= {f"{k}_ids": 100 * i + np.arange(8) for i, k in enumerate(data.SPLITS)}
    arrays |= {f"{k}_masks": np.ones((8, 8, 8), np.uint8) for k in data.SPLITS}
    np.savez(tmp_path / "findings.npz", **arrays)
    return f"npz:{tmp_path / 'findings.npz'}"


def _numbers():
    return zip(data.SPLITS, (12, 4, 6), strict=True)


def load(source, *positive, **kwargs):
    return data.load(DataConfig(source=source, positive=positive, **kwargs))


@pytest.mark.parametrize(
    ("positive", "names", "classes"),
    [
        (("grade 2",), ("not grade 2", "grade 2"), [0, 0, 1, 0]),
        (("grade 3", "grade 0"), ("other", "grade 3 or grade 0"), [1, 0, 0, 1]),
        (GRADES[1:], ("grade 0", "grade 1 or grade 2 or grade 3"), [0, 1, 1, 1]),
    ],
)
def test_classes_against_the_rest(graded, positive, names, classes):
    whole, two = data.load(DataConfig(source=graded)), load(graded, *positive)
    assert (two.task, two.num_classes, two.class_names) == ("single", 2, names)
    assert two.image_shape == whole.image_shape
    for split, n in _numbers():
        before, after = whole.splits[split], two.splits[split]
        assert after.targets.dtype == np.int32
        assert after.targets.tolist() == [classes[k % 4] for k in range(n)]
        np.testing.assert_array_equal(after.images, before.images)
        np.testing.assert_array_equal(after.ids, before.ids)
    assert two.notes[-1] == f"two classes made of 4: positive is {' or '.join(positive)}"
    assert data.fingerprint(two) != data.fingerprint(whole)
    assert data.fingerprint(two) == data.fingerprint(load(graded, *positive))


def test_findings_of_which_it_cannot_be_told_are_left_out(found):
    whole, two = data.load(DataConfig(source=found)), load(found, "Mass", "Nodule")
    assert (two.task, two.class_names) == ("single", ("other", "Mass or Nodule"))
    told = [k for k, value in enumerate(TOLD) if value is not None]
    for split, after in two.splits.items():
        before = whole.splits[split]
        assert after.targets.tolist() == [TOLD[k] for k in told]
        assert after.targets.dtype == np.int32
        assert after.masks is not None
        for name in ("images", "ids", "masks", "names"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name)[told])
    assert two.notes[-2] == "two classes made of 3 findings: positive has Mass or Nodule"
    assert two.notes[-1].startswith("9 images were left out (train 3, val 3, test 3): no finding")
    assert data.class_counts(two)["test"] == {"other": 2, "Mass or Nodule": 3}


def test_any_finding(tmp_path, found):
    arrays = made.arrays() | {"class_names": np.array(FINDINGS)}
    rows = np.array([[0, 0, 0], [0, 0, 1], [-1, 1, 0], [0, 0, -1]])
    arrays |= {f"{k}_labels": rows[np.arange(n) % 4] for k, n in _numbers()}
    np.savez(tmp_path / "any.npz", **arrays)
    two = load(f"npz:{tmp_path / 'any.npz'}", "any")
    assert two.class_names == ("no finding", "any finding")
    assert two.train.targets.tolist() == [0, 1, 1] * 3
    assert two.train.ids.tolist() == [k for k in range(12) if k % 4 != 3]
    assert two.notes[-2].endswith("positive has any")
    # what is named so is meant
    arrays["class_names"] = np.array(["any", "Nodule", "Hernia"])
    arrays |= {f"{k}_labels": np.eye(3, dtype=int)[np.arange(n) % 3] for k, n in _numbers()}
    np.savez(tmp_path / "any.npz", **arrays)
    two = load(f"npz:{tmp_path / 'any.npz'}", "any")
    assert two.class_names == ("not any", "any")
    assert two.train.targets.tolist() == [1, 0, 0] * 4
    # all findings by name leave images without one, so that this is no mistake
    arrays["train_labels"][0] = arrays["val_labels"][0] = arrays["test_labels"][0] = 0
    np.savez(tmp_path / "any.npz", **arrays)
    named = load(f"npz:{tmp_path / 'any.npz'}", "Hernia", "Nodule", "any")
    assert named.train.targets.tolist() == [0] + [1] * 11


def test_a_folder_and_many_names(tmp_path):
    names = ("a", "b", "c", "d", "e", "f")
    for split in data.SPLITS:
        for k, name in enumerate(names):
            fakes.picture(tmp_path / split / name / "0.png", seed=k, size=(8, 8), grey=True)
    two = load(f"folder:{tmp_path}", "f", "b", "c", "d")
    assert two.class_names == ("other", "positive")
    assert two.test.targets.tolist() == [0, 1, 1, 1, 0, 1]
    assert two.test.names.tolist() == [f"test/{name}/0.png" for name in names]
    assert "positive is f or b or c or d" in two.notes[-1]


@pytest.mark.parametrize(
    ("positive", "kwargs", "message"),
    [
        ((), {}, "data.positive is empty; name classes"),
        (("grade 1", "grade 1"), {}, "data.positive names 'grade 1' twice; name it once"),
        (("Grade 1",), {}, "grades.npz has no class 'Grade 1'; it has grade 0, grade 1, .*grade 3"),
        (("any",), {}, "has no class 'any'; it has grade 0"),
        (GRADES, {}, r"names every class of npz:.*grade 3\), so that none is negative; leave one"),
        (("grade 1",), {"task": "detection"}, "the targets are boxes .task detection.; leave it"),
    ],
)
def test_names_that_divide_nothing(graded, positive, kwargs, message):
    with pytest.raises(ValueError, match=message):
        load(graded, *positive, **kwargs)


@pytest.mark.parametrize("positive", ["grade 1", (1, 2)])
def test_names_are_a_list_of_texts(graded, positive):
    with pytest.raises(ValueError, match=r"data\.positive must be a list of names, got"):
        data.load(DataConfig(source=graded, positive=positive))


def test_findings_that_divide_nothing(found, tmp_path):
    with pytest.raises(ValueError, match=r"no finding 'Edema'; .* Hernia, or any alone"):
        load(found, "Mass", "Edema")
    with pytest.raises(ValueError, match=r"targets are masks \(task segmentation"):
        load(found, "Mass", task="segmentation")
    arrays = made.arrays(channels=1)
    for split, n in _numbers():
        del arrays[f"{split}_labels"]
        arrays[f"{split}_masks"] = (np.indices((n, 8, 8))[1] > 3).astype(np.uint8)
    np.savez(tmp_path / "masks.npz", **arrays)
    with pytest.raises(ValueError, match=r"targets are masks \(task segmentation"):
        load(f"npz:{tmp_path / 'masks.npz'}", "foreground")


def test_a_split_with_one_class(tmp_path):
    arrays = made.arrays(classes=4)
    np.savez(tmp_path / "x.npz", **arrays | {"val_labels": np.array([0, 0, 3, 1])})
    expected = (
        r"the val split of npz:.*x.npz has no image of class '2' \(4 of 'not 2'\); name other "
        r"classes or findings \(0, 1, 2, 3\), or take more images \(data.num_val\)"
    )
    with pytest.raises(ValueError, match=expected):
        load(f"npz:{tmp_path / 'x.npz'}", "2")
    rows = np.array([[1, 0], [0, 1]])
    arrays = {**arrays, "test_labels": rows[[0, 0, 0, 1, 1, 1]], "train_labels": rows[[0, 1] * 6]}
    np.savez(tmp_path / "y.npz", **arrays | {"val_labels": rows[[0, 1, 0, 1]]})
    with pytest.raises(ValueError, match=r"train split .* no image of class 'no finding' \(12 of"):
        load(f"npz:{tmp_path / 'y.npz'}", "any")


def test_configs_of_earlier_runs_lack_the_field():
    new = config_to_dict(TrainConfig(data=DataConfig(positive=("a", "b"))))
    assert config_from_dict(new).data.positive == ("a", "b")
    new["data"]["positive"] = ["a", "b"]  # as JSON has it
    assert config_from_dict(new) == TrainConfig(data=DataConfig(positive=("a", "b")))
    del new["data"]["positive"]
    assert config_from_dict(new) == TrainConfig()
    assert hash(DataConfig(positive=("a",))) != hash(DataConfig())


def test_the_command_line(graded, capsys):
    words = ["--positive", "grade 2", "grade 3", "--num-train", "8"]
    assert main(["data", "check", graded, *words]) == 0
    said = capsys.readouterr().out
    assert "2 classes, one class per image" in said
    assert "  grade 2 or grade 3         4         2         2\n" in said
    assert "note: two classes made of 4: positive is grade 2 or grade 3" in said
    assert main(["data", "check", graded, "--positive", "grade 9"]) == 1
    assert "advjax: --positive: npz:" in capsys.readouterr().err
    assert main(["train", "--data", graded, "--data.positive", *GRADES]) == 1
    assert "data.positive names every class" in capsys.readouterr().err
    line = ["--data.positive", "grade 2", "grade 3", "--method", "pgd"]
    parsed = parse(TrainConfig, line, command="train", description="")
    assert parsed.data.positive == ("grade 2", "grade 3")
