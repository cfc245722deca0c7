"""Common perturbations: ranges and directions, frame by frame, on images that show them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.analysis import perturbations
from advjax.analysis.perturbations import _geometry, _read, _weather
from advjax.random import example_keys

SIZE = 16
IDS = jnp.asarray([3, 7])
KEYS = example_keys(jax.random.key(0), IDS)
X = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, (2, SIZE, SIZE, 3)), jnp.float32)

X_NUMPY = np.asarray(X)


@functools.cache
def frames(name):
    return np.asarray(perturbations.video(name, KEYS, X, reference_size=56))


def test_they_are_the_fourteen_of_the_paper():
    assert len(perturbations.PERTURBATIONS) == 14


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", sorted(perturbations.PERTURBATIONS))
def test_videos(name):
    found = frames(name)
    assert found.shape == (2, 10, SIZE, SIZE, 3)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
    # something changes along the video
    assert np.abs(np.diff(found, axis=1)).max() > 1e-5
    if name in perturbations.NOISES:
        np.testing.assert_array_equal(found[:, 0], X)


@pytest.mark.parametrize("name", ["gaussian_noise", "snow", "spatter"])
def test_what_is_drawn_depends_on_the_example_only(name):
    again = np.asarray(perturbations.video(name, KEYS[::-1], X[::-1], reference_size=56))
    np.testing.assert_allclose(again[::-1], frames(name), atol=1e-6)
    one = KEYS[jnp.asarray([0, 0])]
    same = np.asarray(perturbations.video(name, one, X, reference_size=56))
    np.testing.assert_allclose(same[0], frames(name)[0], atol=1e-6)
    assert np.abs(same[1] - frames(name)[1]).max() > 0.01


def test_strength_of_noise():
    grey = jnp.full((1, 48, 48, 3), 0.5)
    key = jax.random.key(1)
    for name, sigma in (("gaussian_noise", 0.03), ("speckle_noise", 0.025),
                        ("shot_noise", (0.5 / 300) ** 0.5)):  # fmt: skip
        found = perturbations.video(name, key, grey)[0, 1:]
        np.testing.assert_allclose(found.std((1, 2, 3)), sigma, rtol=0.05)
        np.testing.assert_allclose(found.mean((1, 2, 3)), 0.5, atol=0.005)


def test_brightness_adds_to_the_value():
    top = np.asarray(X).max(-1)
    for frame, shift in ((0, -0.30), (9, -0.12)):
        found = frames("brightness")[:, frame]
        np.testing.assert_allclose(found.max(-1), np.clip(top + shift, 0, 1), atol=1e-6)
    # hue and saturation stay: the ratios of the channels
    bright = top > 0.35
    found = frames("brightness")[:, 0]
    ratios = [image[bright] / image[bright].max(-1, keepdims=True) for image in (found, X_NUMPY)]
    np.testing.assert_allclose(*ratios, rtol=1e-4)


def test_translation_is_to_the_left_by_whole_pixels_of_the_paper():
    found = np.asarray(perturbations.video("translate", KEYS, X, reference_size=None))
    # frame 9: 11 pixels to the left, black comes in
    np.testing.assert_allclose(found[:, 9, :, : SIZE - 11], np.asarray(X)[:, :, 11:], atol=1e-5)
    assert (found[:, 9, :, SIZE - 11 :] == 0).all()
    # scaled to the image: 14 reference pixels are one of these
    scaled = np.asarray(perturbations.video("translate", KEYS, X))
    assert SIZE * 14 == perturbations.REFERENCE_SIZE
    np.testing.assert_allclose(scaled[:, 6, :, :-1], np.asarray(X)[:, :, 1:], atol=1e-5)


def test_rotation_is_clockwise_around_the_centre():
    # from three o'clock, 90 degrees clockwise lead to six
    quarter = _geometry.rotate(105, SIZE, SIZE, 1.0)
    np.testing.assert_allclose(quarter @ [SIZE - 1, (SIZE - 1) / 2, 1],
                               [(SIZE - 1) / 2, SIZE - 1, 1], atol=1e-9)  # fmt: skip
    image = X[0]
    np.testing.assert_allclose(_read.warp(image, quarter[None])[0], jnp.rot90(image, -1), atol=1e-4)
    np.testing.assert_allclose(_geometry.rotate(15, 8, 9, 1.0), np.eye(3), atol=1e-12)


def test_shear_scale_and_tilt():
    # 45 degrees: a row is moved by its distance from the centre
    sheared = _geometry.shear(60, 9, 9, 1.0)
    np.testing.assert_allclose(sheared @ [4, 6, 1], [2, 6, 1], atol=1e-9)
    np.testing.assert_allclose(_geometry.scale(24, 9, 7, 1.0), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(_geometry.scale(0, 9, 9, 1.0) @ [8, 8, 1], [5.6, 5.6, 1])
    shrunk = frames("scale")
    assert (shrunk[:, 0, :3] == 0).all()
    assert (shrunk[:, 9, 4:-4, 4:-4] > 0).all()
    # without an angle the plane is parallel to the screen, a little behind it
    size = 2.0**0.5 * SIZE
    flat = _geometry.tilt(15, SIZE, SIZE, 1.0) @ [SIZE, SIZE / 2, 1]
    np.testing.assert_allclose(flat[:2] / flat[2], [SIZE / 2 * (1 + size / (1 + size)), SIZE / 2])
    # turned to the left and back: mirror images
    left, right = (_geometry.tilt(i, SIZE, SIZE, 1.0) for i in (5, 25))
    point = np.array([SIZE / 2 + 3, SIZE / 2 + 2, 1])
    other = np.array([SIZE / 2 - 3, SIZE / 2 - 2, 1])
    a, b = left @ point, right @ other
    np.testing.assert_allclose(a[:2] / a[2] + b[:2] / b[2], [SIZE, SIZE], atol=0.5)


def test_blurs_keep_what_is_constant_and_the_mean():
    flat = jnp.full((1, SIZE, SIZE, 1), 0.4)
    for name in ("gaussian_blur", "motion_blur", "zoom_blur"):
        found = perturbations.video(name, KEYS[:1], flat, reference_size=None)
        np.testing.assert_allclose(found, 0.4, atol=1e-5)
    spread = [frames("gaussian_blur")[:, i].std() for i in (0, 9)]
    assert spread[0] >= spread[1]
    dot = jnp.zeros((1, 41, 41, 1)).at[0, 20, 20, 0].set(1)
    blurred = np.asarray(perturbations.video("gaussian_blur", KEYS[:1], dot, reference_size=None))
    far = (np.arange(41) - 20) ** 2
    shape = np.exp(-far / 2 / 0.565**2)
    np.testing.assert_allclose(blurred[0, 9, 20, :, 0] / blurred[0, 9, 20, 20, 0], shape, atol=1e-5)


def test_motion_blur_is_half_a_gaussian_in_its_direction():
    dot = jnp.zeros((41, 41, 1)).at[20, 20, 0].set(1)
    right, down = np.asarray(_read.motion(dot, 10, 3.0, np.array([0.0, 90.0])))[..., 0]
    weights = np.exp(-0.5 * (np.arange(21) / 3.0) ** 2)
    weights /= weights.sum()
    # a pixel gathers what lies to its right, so that the dot trails to the left
    np.testing.assert_allclose(right[20, 20::-1], weights, atol=1e-6)
    np.testing.assert_allclose(down[20::-1, 20], weights, atol=1e-6)
    np.testing.assert_allclose(right.sum(), 1, atol=1e-5)


def test_zoom_blur_is_a_running_mean():
    found = frames("zoom_blur")
    np.testing.assert_allclose(found[:, 0], X, atol=1e-6)
    second = 2 * found[:, 1] - found[:, 0]
    place = _geometry.zoom(1.004, SIZE, SIZE)[None]
    np.testing.assert_allclose(second[0], _read.warp(X[0], place, "edge")[0], atol=1e-5)


def test_drops_run_down_as_numpy_convolves():
    liquid = jnp.asarray(np.random.default_rng(2).random((9, 4, 1)), jnp.float32)
    drip = np.array([0.05, 0.1, 0.15, 0.7])
    columns = np.asarray(liquid)[..., 0].T
    expected = np.stack([np.convolve(column, drip, "same") for column in columns], axis=1)
    np.testing.assert_allclose(_weather._run_down(liquid)[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [32, 96])
def test_drops_cover_a_share_that_does_not_depend_on_the_size(size):
    black = jnp.zeros((8, size, size, 1))
    found = perturbations.video("spatter", jax.random.key(2), black, num_frames=2)[:, 0]
    # beyond 1.94 standard deviations of a normal distribution: 2.6 per cent
    assert 0.01 < float((found > 0).mean()) < 0.06
    assert float(found.max()) <= 0.6


def test_snow_brightens():
    assert (frames("snow") >= np.asarray(X)[:, None] - 1e-6).all()


def test_flip_rate_knows_what_noise_is_compared_with():
    turning = np.tile([0, 1], (3, 5))
    assert perturbations.flip_rate("rotate", turning) == 1
    assert perturbations.flip_rate("shot_noise", turning) == pytest.approx(5 / 9)
    assert perturbations.flip_rate("rotate", np.zeros((3, 10), int)) == 0
    findings = np.zeros((1, 10, 2), bool)
    findings[0, 1:, 0] = True
    # 9 changes of 2 findings, not divided by the frames
    assert perturbations.flip_rate("shot_noise", findings) == 4.5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: perturbations.video("fog", KEYS, X), "fog"),
        (lambda: perturbations.video("snow", KEYS, X[0]), r"\[B, H, W, C\]"),
        (lambda: perturbations.video("snow", KEYS, X, num_frames=1), "num_frames"),
        (lambda: perturbations.flip_rate("fog", [[0, 1]]), "fog"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
