import functools

import jax
import numpy as np
import pytest

from advjax import data
from advjax.config import DataConfig
from advjax.data import phantoms

CLASSES = {"dermoscopy": 7, "xray": 14, "ct": 2, "fundus": 5, "endoscopy": 2}
N = 128  # one chunk


def spec_of(name, **kwargs):
    return phantoms.PhantomSpec(name, size=16, **kwargs)


@functools.cache
def batch(name, **kwargs):
    return phantoms.make_many(jax.random.key(0), spec_of(name, **kwargs), N)


@jax.jit
def make_as(keys, spec, targets):
    return jax.vmap(lambda k, t: phantoms.make(k, spec, target=t))(keys, targets)


def of_each_class(name):
    """Targets of every class or single finding, twelve of each; x-ray also without finding."""
    rows = np.eye(14, dtype=np.int32) if name == "xray" else np.arange(CLASSES[name])
    return np.repeat(rows, 12, axis=0)


def of_no_class(name, spec):
    """The same images but for the class: that of the row before, or no finding."""
    targets = of_each_class(name)
    others = targets * 0 if name == "xray" else np.roll(targets, 12)
    keys = jax.random.split(jax.random.key(1), len(targets))
    one, two = make_as(keys, spec, targets), make_as(keys, spec, others)
    return np.asarray(one.image), np.asarray(two.image)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", CLASSES)
def test_shapes_ranges_and_targets(name):
    spec, found = spec_of(name), batch(name)
    assert found.image.shape == (N, 16, 16, spec.channels)
    assert found.image.dtype == found.mask.dtype == np.uint8
    assert found.image.std(axis=(1, 2, 3)).min() > 5
    assert found.mask.shape == (N, 16, 16)
    assert set(np.unique(found.mask)) == ({0, 1, 2} if name == "fundus" else {0, 1})
    assert found.target.dtype == np.int32
    assert len(spec.class_names) == CLASSES[name]
    if name == "xray":
        assert found.target.shape == (N, 14)
        assert 1 < found.target.sum(axis=1).mean() < 3.5
        assert found.target.sum(axis=1).max() >= 3
    else:
        assert set(found.target.tolist()) == set(range(CLASSES[name]))


@pytest.mark.slow
def test_masks_mark_what_they_should():
    skin, chest, slices = batch("dermoscopy"), batch("xray"), batch("ct")
    assert (skin.mask.mean(axis=(1, 2)) > 0.05).all()
    assert (chest.mask.mean(axis=(1, 2)) > 0.05).all()
    # lungs are darker than the rest of the middle rows
    middle = np.zeros((16, 16), bool)
    middle[4:12, 4:12] = True
    darker = [
        image[mask > 0].mean() < image[(mask == 0) & middle].mean()
        for image, mask in zip(chest.image, chest.mask, strict=True)
    ]
    assert np.mean(darker) > 0.8
    assert (slices.mask[slices.target == 0] == 0).all()
    assert (slices.mask[slices.target == 1].sum(axis=(1, 2)) > 0).mean() > 0.9


def test_each_grade_of_retinopathy_has_more_lesions_than_the_one_before():
    eyes = batch("fundus")
    area = (eyes.mask == 2).mean(axis=(1, 2))
    assert (area[eyes.target == 0] == 0).all()
    assert (area[eyes.target > 0] > 0).mean() > 0.9
    by_grade = [area[eyes.target == grade].mean() for grade in range(4)]
    assert by_grade == sorted(by_grade)
    # every eye has vessels, and they are darker than what is two pixels away
    vessel = eyes.mask == 1
    assert (vessel.mean(axis=(1, 2)) > 0.01).all()
    beside = np.roll(vessel, 2, axis=2) & (eyes.mask == 0) & (eyes.image.max(axis=-1) > 60)
    red = eyes.image[..., 1]
    assert red[vessel].mean() < 0.9 * red[beside].mean()


def test_polyps_and_their_masks():
    views = batch("endoscopy")
    area = views.mask.mean(axis=(1, 2))
    assert (area[views.target == 0] == 0).all()
    assert (area[views.target == 1] > 0.03).all()


@pytest.mark.slow
def test_boxes_of_artefacts():
    spec = spec_of("endoscopy", task="detection", difficulty=0.0)
    made = phantoms.make_many(jax.random.key(0), spec, N)
    assert made.target.shape == (N, 8, 5)
    assert made.target.dtype == np.float32
    assert spec.class_names == phantoms.ARTEFACTS
    there = made.target[..., 0] >= 0
    assert there.any(axis=1).all()
    assert (np.diff(there.astype(int), axis=1) <= 0).all()
    assert (made.target[~there] == -1).all()
    kind, y0, x0, y1, x1 = made.target[there].T
    assert set(kind) == set(range(5))
    for low, high in ((y0, y1), (x0, x1)):
        assert ((low >= 0) & (low < high) & (high <= 16) & (low == np.round(low))).all()
    # a box holds what it names: without artefacts the picture differs inside of it
    plain = phantoms.make_many(jax.random.key(0), spec_of(
        "endoscopy", task="detection", difficulty=0.0, signal=0.0), N)  # fmt: skip
    change = np.abs(made.image.astype(int) - plain.image).max(axis=-1)
    for row, boxes in enumerate(made.target.astype(int)):
        for _, top, left, bottom, right in boxes[there[row]]:
            assert change[row, top:bottom, left:right].max() > 16
    assert (plain.target == -1).all()


@pytest.mark.parametrize("name", CLASSES)
def test_deterministic_by_key(name):
    spec, many = spec_of(name), batch(name)
    raw = phantoms.make_many(jax.random.key_data(jax.random.key(0)), spec, 5)
    np.testing.assert_array_equal(raw.image, many.image[:5])
    np.testing.assert_array_equal(raw.target, many.target[:5])
    np.testing.assert_array_equal(raw.mask, many.mask[:5])
    assert len({image.tobytes() for image in many.image}) == N
    other = phantoms.make_many(jax.random.key(1), spec, 5)
    assert (other.image != raw.image).any()


@pytest.mark.slow
def test_one_image_is_the_same_alone_in_a_batch_and_in_chunks():
    key, spec = jax.random.key(0), spec_of("ct")
    many = phantoms.make_many(key, spec, N + 2)
    few = jax.jit(phantoms.make_batch, static_argnames="n")(key, spec, n=3)
    assert few.image.dtype == np.float32
    assert float(few.image.min()) >= 0
    assert float(few.image.max()) <= 1
    np.testing.assert_allclose(few.image, many.image[:3] / 255, atol=0.51 / 255)
    np.testing.assert_array_equal(few.target, many.target[:3])
    one = jax.jit(phantoms.make)(jax.random.fold_in(key, N + 1), spec)
    np.testing.assert_allclose(one.image, many.image[N + 1] / 255, atol=0.51 / 255)
    assert int(one.target) == many.target[N + 1]
    np.testing.assert_array_equal(one.mask, many.mask[N + 1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_without_signal_and_texture_the_class_is_invisible(name):
    one, two = of_no_class(name, spec_of(name, signal=0.0, texture=0.0))
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", CLASSES)
def test_the_evidence_is_far_larger_than_the_budgets(name):
    one, two = of_no_class(name, spec_of(name, texture=0.0))
    change = np.abs(one - two).max(axis=(1, 2, 3)).reshape(-1, 12)
    assert np.median(change, axis=1).min() > 16 / 255


@pytest.mark.parametrize("name", CLASSES)
def test_texture_is_weak(name):
    # no difficulty, so that no gain or gamma scales it
    targets = of_each_class(name)
    keys = jax.random.split(jax.random.key(1), len(targets))
    plain, woven = (
        make_as(keys, spec_of(name, texture=t, difficulty=0.0), targets).image for t in (0.0, 1.0)
    )
    change = np.abs(np.asarray(woven - plain)).max(axis=(1, 2, 3))
    assert change.min() > 1 / 255
    assert change.max() < 6 / 255


@pytest.mark.parametrize("name", CLASSES)
def test_difficulty_adds_variation(name):
    easy, hard = (batch(name, difficulty=d).image.mean(axis=(1, 2, 3)).std() for d in (0.0, 1.0))
    assert hard > 1.5 * easy


def test_one_program_serves_every_difficulty():
    keys, targets = jax.random.split(jax.random.key(0), 24), np.arange(24) % 2
    sizes = []
    for difficulty in (0.1, 0.2, 0.3):
        make_as(keys, spec_of("ct", difficulty=difficulty), targets)
        sizes.append(make_as._cache_size())
    assert sizes[0] == sizes[2]


def test_bad_specs():
    with pytest.raises(ValueError, match="unknown phantom 'mri'"):
        phantoms.PhantomSpec("mri")
    with pytest.raises(ValueError, match="phantom:ct has no targets for the task 'detection'"):
        phantoms.ct(task="detection")
    for kwargs in ({"size": 8}, {"difficulty": 1.5}, {"signal": -1.0}, {"texture": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            phantoms.dermoscopy(**kwargs)
    with pytest.raises(ValueError, match="n must be at least 1"):
        phantoms.make_many(jax.random.key(0), spec_of("ct"), 0)


def test_loading_phantoms():
    config = DataConfig(source="phantom:ct", size=16, num_train=130, num_val=3, num_test=5)
    seen = []

    def progress(items):
        seen.append(len(items))
        return items

    found = data.load(config, progress=progress)
    assert {k: len(s) for k, s in found.splits.items()} == {"train": 130, "val": 3, "test": 5}
    assert found.image_shape == (16, 16, 1)
    assert found.train.images.dtype == found.train.masks.dtype == np.uint8
    assert seen == [2, 1, 1]
    ids = np.concatenate([s.ids for s in found.splits.values()])
    assert len(set(ids.tolist())) == 138
    fewer = data.load(DataConfig(source="phantom:ct", size=16, num_train=4, num_val=2, num_test=2))
    np.testing.assert_array_equal(fewer.train.images, found.train.images[:4])
    np.testing.assert_array_equal(fewer.test.ids, found.test.ids[:2])
    other = data.load(
        DataConfig(source="phantom:ct", size=16, num_train=4, num_val=2, num_test=2, seed=1)
    )
    assert (other.train.images != fewer.train.images).any()
    assert (found.test.images[:3] != found.val.images).any()


@pytest.mark.slow
def test_a_linear_model_does_not_solve_the_phantoms():
    config = DataConfig(size=16, num_train=1024, num_val=128, num_test=256)
    floor = data.ridge_floor(data.load(config))
    assert 1 / 7 < floor < 0.5
