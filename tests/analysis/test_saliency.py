"""Saliency, taps, Grad-CAM and features, on networks whose answers are known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import analysis, models, testing

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 8, 8, 2)), jnp.float32)


class Sums(nn.Module):
    """Two feature maps of 4x4 cells; class k sees `weights[k]` of their means."""

    weights: tuple = ((2.0, 0.0), (0.0, -1.0), (-1.0, 1.0))

    @nn.compact
    def __call__(self, x):
        maps = Cells(name="cells")(x)
        return jnp.mean(maps, (1, 2)) @ jnp.asarray(self.weights).T


class Cells(nn.Module):
    """Means of the channels over 2x2 pixels, and a layer inside."""

    @nn.compact
    def __call__(self, x):
        x = Double(name="double")(x)
        return x.reshape(x.shape[0], 4, 2, 4, 2, 2).mean((2, 4))


class Double(nn.Module):
    """Twice the input."""

    @nn.compact
    def __call__(self, x):
        return 2 * x


MODEL = models.from_linen(Sums(), name="sums")


def test_saliency_of_a_linear_model_is_its_weights():
    fn, x, _, weights = testing.linear_problem(shape=(4, 5, 2), num_classes=3)
    found = analysis.saliency(lambda _, x: fn(x), {}, x, score=analysis.logit_of(1), percentile=100)
    expected = np.abs(weights[:, 1].reshape(4, 5, 2)).sum(-1)
    np.testing.assert_allclose(found, np.broadcast_to(expected / expected.max(), found.shape),
                               rtol=1e-5)  # fmt: skip
    clipped = analysis.saliency(lambda _, x: fn(x), {}, x, score=analysis.logit_of(1))
    limit = np.percentile(expected, 99)
    np.testing.assert_allclose(clipped[0], np.minimum(expected, limit) / limit, rtol=1e-5)


def test_saliency_is_of_the_predicted_class_by_default():
    fn, x, _, weights = testing.linear_problem(shape=(4, 5, 2), num_classes=3)
    label = np.argmax(fn(x), -1)
    found = analysis.saliency(lambda _, x: fn(x), {}, x, percentile=100)
    for i, k in enumerate(label):
        expected = np.abs(weights[:, k].reshape(4, 5, 2)).sum(-1)
        np.testing.assert_allclose(found[i], expected / expected.max(), rtol=1e-5)
    flat = analysis.saliency(lambda _, x: jnp.zeros((len(x), 2)), {}, x)
    assert (flat == 0).all()


def test_layers_are_listed_in_their_order():
    shapes = models.layer_shapes(MODEL, {}, X)
    assert shapes == {"cells/double": (3, 8, 8, 2), "cells": (3, 4, 4, 2)}
    assert list(shapes) == ["cells/double", "cells"]
    assert analysis.last_map(MODEL, {}, X) == "cells"


def test_a_tap_adds_and_tells():
    tapped = models.with_tap(MODEL, "cells")
    output, activation = tapped({}, X, jnp.zeros(()))
    np.testing.assert_array_equal(output, MODEL.apply({}, X))
    expected = 2 * np.asarray(X).reshape(3, 4, 2, 4, 2, 2).mean((2, 4))
    np.testing.assert_allclose(activation, expected, rtol=1e-6)
    moved, _ = tapped({}, X, jnp.ones((3, 4, 4, 2)) * jnp.asarray([1.0, 0.0]))
    np.testing.assert_allclose(moved - output, np.broadcast_to([2.0, 0, -1], (3, 3)), atol=1e-5)
    inner, _ = models.with_tap(MODEL, "cells/double")({}, X, jnp.asarray(1.0))
    np.testing.assert_allclose(inner - output, np.broadcast_to([2.0, -1, 0], (3, 3)), atol=1e-5)
    with pytest.raises(ValueError, match=r"no layer 'head'.*cells/double"):
        models.with_tap(MODEL, "head")({}, X, jnp.zeros(()))
    plain = models.from_fn(lambda variables, x: x.mean((1, 2)))
    with pytest.raises(ValueError, match="no Linen module"):
        models.with_tap(plain, "cells")({}, X, jnp.zeros(()))


def test_grad_cam_weighs_maps_by_their_mean_gradient():
    maps = 2 * np.asarray(X).reshape(3, 4, 2, 4, 2, 2).mean((2, 4))
    cam = analysis.grad_cam(MODEL, {}, X, "cells", score=analysis.logit_of(0))
    expected = jax.image.resize(jnp.asarray(maps[..., 0]), (3, 8, 8), "linear")
    np.testing.assert_allclose(cam, expected / expected.max((1, 2), keepdims=True), rtol=1e-5)
    # a class that only negative evidence speaks of has no map
    assert (analysis.grad_cam(MODEL, {}, X, "cells", score=analysis.logit_of(1)) == 0).all()
    # both together: what remains after the negative part is dropped
    cam = analysis.grad_cam(MODEL, {}, X, "cells", score=analysis.logit_of(2))
    low = jax.nn.relu(jnp.asarray(maps[..., 1] - maps[..., 0]))
    expected = jax.image.resize(low, (3, 8, 8), "linear")
    np.testing.assert_allclose(cam, expected / expected.max((1, 2), keepdims=True), atol=1e-5)


@pytest.mark.slow
def test_grad_cam_of_the_zoo():
    model = models.small_cnn(3, width=2)
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 16, 16, 1)), jnp.float32)
    variables = models.random_variables(model, 0, x)
    layer = analysis.last_map(model, variables, x)
    assert layer == "norm4"
    cam = jax.jit(lambda v, x: analysis.grad_cam(model, v, x, layer))(variables, x)
    assert cam.shape == (2, 16, 16)
    assert cam.min() >= 0
    np.testing.assert_allclose(cam.max((1, 2)), 1, rtol=1e-6)
    # rows do not see each other
    alone = analysis.grad_cam(model, variables, x[:1], layer)
    np.testing.assert_allclose(alone[0], cam[0], atol=1e-5)
    with pytest.raises(ValueError, match="Grad-CAM needs"):
        analysis.grad_cam(model, variables, x, "head")


def test_cam_shift():
    one = np.zeros((4, 2, 2))
    two = np.zeros((4, 2, 2))
    one[0, 0, 0], two[0, 0, 0] = 1, 0.5  # proportional
    one[1, 0, 0], two[1, 1, 1] = 1, 1  # disjoint
    one[2, 0, 0] = 1  # one is empty
    np.testing.assert_allclose(analysis.cam_shift(one, two), [0, 1, 1, 0], atol=1e-12)
    with pytest.raises(ValueError, match="maps"):
        analysis.cam_shift(one, two[:1])


def test_features_are_maps_averaged():
    found = analysis.features(MODEL, {}, np.asarray(X), "cells", batch_size=2)
    np.testing.assert_allclose(found, 2 * np.asarray(X).mean((1, 2)), rtol=1e-5)


def clusters(gap, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 40)
    return rng.normal(size=(40, 5)) + gap * labels[:, None], labels


@pytest.mark.parametrize("gap", [0.0, 1.0, 5.0])
def test_silhouette_against_scikit_learn(gap):
    metrics = pytest.importorskip("sklearn.metrics", reason="the reference is scikit-learn's")
    points, labels = clusters(gap)
    assert analysis.silhouette(points, labels) == pytest.approx(
        metrics.silhouette_score(points, labels)
    )
    # a class of one example
    labels[0] = 9
    assert analysis.silhouette(points, labels) == pytest.approx(
        metrics.silhouette_score(points, labels)
    )
    # Calinski and Harabasz is the Fisher ratio times degrees of freedom
    score = metrics.calinski_harabasz_score(points, labels)
    assert analysis.fisher_ratio(points, labels) == pytest.approx(score * 3 / (40 - 4))


def test_fisher_ratio():
    points = np.array([[0.0], [2.0], [10.0], [12.0]])
    assert analysis.fisher_ratio(points, [0, 0, 1, 1]) == pytest.approx(100 / 4)
    assert analysis.fisher_ratio(7 * points + 3, [0, 0, 1, 1]) == pytest.approx(100 / 4)
    assert analysis.fisher_ratio([[0.0], [0.0], [1.0]], [0, 0, 1]) == np.inf


def test_principal_axes():
    rng = np.random.default_rng(0)
    points = np.outer(rng.normal(size=30), [3.0, 4.0, 0.0]) + 0.01 * rng.normal(size=(30, 3)) + 7
    shown, shares = analysis.principal_axes(points, 1)
    along = (points - points.mean(0)) @ [0.6, 0.8, 0.0]
    np.testing.assert_allclose(shown[:, 0], along, atol=0.05)
    assert shares[0] > 0.99
    _, all_shares = analysis.principal_axes(points, 3)
    assert all_shares.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: analysis.saliency(lambda _, x: x, {}, X, percentile=0), "percentile"),
        (lambda: analysis.saliency(lambda _, x: x, {}, X[0]), "images"),
        (lambda: analysis.silhouette([[0.0], [1.0]], [0, 0]), "two classes"),
        (lambda: analysis.fisher_ratio([[0.0], [1.0]], [0, 1, 1]), "labels"),
        (lambda: analysis.principal_axes([[0.0], [1.0]], 2), "directions"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
