import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import data, random
from advjax.config import AugmentConfig

ALL = AugmentConfig(flip_horizontal=True, flip_vertical=True, rotate_degrees=20.0, crop_padding=2)
EXACT = AugmentConfig(flip_horizontal=True, flip_vertical=True, crop_padding=2)


@functools.partial(jax.jit, static_argnames="config")
def augment(key, images, config):
    return data.augment(key, images, config)


def images(n=16, height=9, width=12, channels=3):
    return np.random.default_rng(0).random((n, height, width, channels), np.float32)


def test_all_off_is_the_identity():
    x = jnp.asarray(images())
    assert data.augment(jax.random.key(0), x, AugmentConfig()) is x


@pytest.mark.sample(2)
@pytest.mark.parametrize("config", [ALL, EXACT, AugmentConfig(rotate_degrees=20.0)])
def test_shape_range_and_change(config):
    x = images()
    y = np.asarray(augment(jax.random.key(1), x, config))
    assert y.shape == x.shape
    assert y.dtype == np.float32
    low, high = x.min(axis=(1, 2, 3)), x.max(axis=(1, 2, 3))
    assert (y.min(axis=(1, 2, 3)) >= low).all()
    assert (y.max(axis=(1, 2, 3)) <= high).all()
    assert (np.abs(y - x).max(axis=(1, 2, 3)) > 0).mean() > 0.5


def test_flips_and_crops_move_pixels_exactly():
    x = images(64, 6, 6, 1)
    y = np.asarray(augment(jax.random.key(2), x, EXACT))
    seen = set()
    for before, after in zip(x, y, strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        options = {
            (up, left, v, h): padded[i : i + 6, j : j + 6][:: 1 - 2 * v, :: 1 - 2 * h]
            for up, i in enumerate(range(5))
            for left, j in enumerate(range(5))
            for v in (0, 1)
            for h in (0, 1)
        }
        hits = [k for k, image in options.items() if np.array_equal(image, after)]
        assert len(hits) == 1
        seen.add(hits[0])
    assert {k[2:] for k in seen} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert {k[0] for k in seen} == {k[1] for k in seen} == set(range(5))


def test_one_flip_at_a_time():
    x = images(64, 6, 6, 1)
    for config, axis in (
        (AugmentConfig(flip_horizontal=True), 2),
        (AugmentConfig(flip_vertical=True), 1),
    ):
        y = np.asarray(augment(jax.random.key(0), x, config))
        kept = (y == x).all(axis=(1, 2, 3))
        turned = (y == np.flip(x, axis)).all(axis=(1, 2, 3))
        assert (kept | turned).all()
        assert 20 <= turned.sum() <= 44


def test_rotation_turns_about_the_centre_by_at_most_the_angle():
    yy, xx = np.mgrid[:33, :33] - 16.0
    x = np.exp(-((xx - 10) ** 2 + yy**2) / 8)[None, ..., None].repeat(64, 0).astype(np.float32)
    y = np.asarray(augment(jax.random.key(5), x, AugmentConfig(rotate_degrees=20.0)))[..., 0]
    mass = y.sum(axis=(1, 2))
    cy, cx = (y * yy).sum(axis=(1, 2)) / mass, (y * xx).sum(axis=(1, 2)) / mass
    angle = np.degrees(np.arctan2(cy, cx))
    assert np.abs(angle).max() <= 20.5
    assert np.abs(angle).max() > 15
    assert angle.min() < -5 < 5 < angle.max()
    np.testing.assert_allclose(np.hypot(cy, cx), 10, atol=0.2)


@functools.partial(jax.jit, static_argnames="config")
def augment_pair(key, images, masks, config):
    return data.augment_pair(key, images, masks, config)


@pytest.mark.sample(1)
@pytest.mark.parametrize("config", [ALL, EXACT])
def test_a_mask_moves_with_its_image(config):
    x = images()
    masks = np.random.default_rng(1).integers(0, 3, x.shape[:3]).astype(np.int32)
    y, moved = augment_pair(jax.random.key(1), x, masks, config)
    np.testing.assert_array_equal(y, augment(jax.random.key(1), x, config))
    moved = np.asarray(moved)
    assert moved.dtype == np.int32
    # what is read at whole pixels is the same in a picture of the mask, where that is no reflection
    picture = np.asarray(augment(jax.random.key(1), masks[..., None].astype(np.float32), config))
    inside = moved != data.IGNORE
    if config == EXACT:
        np.testing.assert_array_equal(moved[inside], picture[..., 0][inside])
        # two rows and two columns at most are outside
        assert inside.mean(axis=(1, 2)).min() >= 7 / 9 * 10 / 12
        assert inside.mean() < 1
    else:
        assert set(np.unique(moved)) == {0, 1, 2, data.IGNORE}
        flat = np.full_like(masks, 2)
        turned = np.asarray(augment_pair(jax.random.key(1), x, flat, config)[1])
        np.testing.assert_array_equal(turned == data.IGNORE, ~inside)


def test_a_turned_mask_covers_the_turned_structure():
    yy, xx = np.mgrid[:33, :33] - 16.0
    mask = (((xx - 8) ** 2 / 25 + yy**2 / 9) < 1).astype(np.int32)[None].repeat(8, 0)
    config = AugmentConfig(rotate_degrees=20.0)
    picture, turned = augment_pair(
        jax.random.key(5), mask[..., None].astype(np.float32), mask, config
    )
    there = np.asarray(picture)[..., 0] > 0.5
    both = (there & (np.asarray(turned) == 1)).sum(axis=(1, 2))
    assert (2 * both / (there.sum(axis=(1, 2)) + (turned == 1).sum(axis=(1, 2))) > 0.95).all()


def test_a_constant_image_stays_constant():
    x = np.full((16, 9, 12, 3), 0.3, np.float32)
    np.testing.assert_array_equal(augment(jax.random.key(0), x, ALL), x)


def test_keys_of_examples_do_not_depend_on_the_batch():
    x, ids = images(), np.arange(16) * 7 % 16
    keys = random.example_keys(jax.random.key(3), ids)
    whole = np.asarray(augment(keys, x, ALL))
    order = np.arange(16)[::-1]
    moved = np.asarray(augment(keys[order], x[order], ALL))
    np.testing.assert_array_equal(moved, whole[order])
    same = np.repeat(np.arange(8), 2)
    twins = np.asarray(augment(keys[same], x[same], ALL))
    np.testing.assert_array_equal(twins[::2], twins[1::2])
    one_key = np.asarray(augment(jax.random.key(3), x[same], ALL))
    assert np.abs(one_key[::2] - one_key[1::2]).max() > 0


def test_bad_arguments():
    key, x = jax.random.key(0), images()
    with pytest.raises(ValueError, match="rotate_degrees must be in"):
        data.augment(key, x, AugmentConfig(rotate_degrees=-1.0))
    with pytest.raises(ValueError, match="rotate_degrees must be in"):
        data.augment(key, x, AugmentConfig(rotate_degrees=float("nan")))
    with pytest.raises(ValueError, match=r"crop_padding must be in \[0, 9\)"):
        data.augment(key, x, AugmentConfig(crop_padding=9))
    with pytest.raises(ValueError, match=r"\[B, H, W, C\] floats"):
        data.augment(key, x[0], ALL)
    with pytest.raises(ValueError, match=r"masks must be integers \[16, 9, 12\]"):
        data.augment_pair(key, x, x[..., 0], ALL)
    with pytest.raises(ValueError, match=r"\[B, H, W, C\] floats"):
        data.augment(key, (x * 255).astype(np.uint8), ALL)


def test_boxes_follow_flips_exactly():
    """Boxes that are drawn and then flipped are where flipped boxes are drawn."""
    rng, flips = np.random.default_rng(1), AugmentConfig(flip_horizontal=True, flip_vertical=True)
    low = rng.integers(0, 5, (32, 1, 2))
    high = low + rng.integers(1, 5, (32, 1, 2))
    boxes = np.concatenate([np.full((32, 1, 1), 2), low, high], -1).astype(np.float32)
    boxes = np.concatenate([boxes, np.full((32, 1, 5), -1, np.float32)], 1)

    def draw(boxes):
        y, x = np.mgrid[:9, :12]
        _, y0, x0, y1, x1 = boxes[:, 0].T[..., None, None]
        return ((y >= y0) & (y < y1) & (x >= x0) & (x < x1)).astype(np.float32)[..., None]

    key, pictures = jax.random.key(4), draw(boxes)
    moved, found = data.augment_boxes(key, pictures, boxes, flips)
    np.testing.assert_array_equal(moved, data.augment(key, pictures, flips))
    np.testing.assert_array_equal(draw(np.asarray(found)), moved)
    np.testing.assert_array_equal(found[:, 1], boxes[:, 1])
    np.testing.assert_array_equal(found[:, 0, 0], boxes[:, 0, 0])
    # both flips, one of them, and none
    same = np.asarray(found[:, 0]) == boxes[:, 0]
    assert len({(bool(row[1:4:2].all()), bool(row[2:5:2].all())) for row in same}) == 4
    assert data.augment_boxes(key, pictures, boxes, AugmentConfig())[1] is boxes
    for change in ({"rotate_degrees": 5.0}, {"crop_padding": 1}):
        with pytest.raises(ValueError, match=f"augment.{next(iter(change))}: boxes follow flips"):
            data.augment_boxes(key, pictures, boxes, AugmentConfig(**change))
    with pytest.raises(ValueError, match="boxes must be"):
        data.augment_boxes(key, pictures, boxes[..., :4], flips)
