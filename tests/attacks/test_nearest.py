"""Among several boundaries the nearest, and of a wanted class all: linear models within bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from advjax import attacks, losses, threat
from advjax.attacks import _looks
from advjax.attacks._hyperplane import step_to_hyperplane
from tests.attacks.test_minimal import BALLS, build, distances, linear, optimum


def reach(w, x, z, y, norm):
    """Return the distance to the nearest boundary of a linear model within the bounds [0, 1]."""
    best = []
    for row, logits, label in zip(x.astype(np.float64), z, y, strict=True):
        ways = [
            step_to_hyperplane(norm, row.ravel(), w[:, c] - w[:, label], logits[c] - logits[label],
                               np.float64(0), np.float64(1))
            for c in np.delete(np.arange(w.shape[1]), label)
        ]  # fmt: skip
        best.append(min(BALLS[norm].distance(way, 0 * way) for way in ways))
    return np.asarray(best)


@pytest.mark.sample(4)
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize(
    ("name", "norm", "classes"),
    [("fmn", "l2", 3), ("fmn", "linf", 8), ("fmn", "l1", 3), ("fmn", "l1", 8), ("ddn", "l2", 5),
     ("cw_l2", "l2", 5), ("fab", "l2", 3), ("fab", "l1", 5), ("fab", "linf", 3)],
)  # fmt: skip
def test_the_nearest_of_several_classes(name, norm, classes, bounded, x64):
    fn, x, w, _ = linear(24, (5, 7, 3), classes=classes)
    if bounded:
        # dark backgrounds and bright spots: what moves inwards only
        x = np.clip(4 * x - 1.5, 0, 1).astype(np.float32)
    z = np.asarray(fn(x.astype(np.float64)))
    y = z.argmax(1)
    best = reach(w, x, z, y, norm)
    if bounded:
        assert (best > 1.02 * optimum(w, z, y, norm)).any()
    options = {"cw_l2": {"num_steps": 100, "num_constants": 3}}.get(name, {})
    result = distances(name, fn, BALLS[norm], x, y, **options)
    np.testing.assert_array_less(result.distance, 1.02 * best)
    np.testing.assert_array_less(0.995 * best, result.distance)


def beyond_all(w, z, wanted):
    """Return the l2 distance to where a linear model says `wanted` (no bound is active).

    The least distance at which several inequalities hold is a problem of non-negative least
    squares (Lawson and Hanson 1974, chapter 23.4).
    """
    best = []
    for logits, t in zip(z, wanted, strict=True):
        rest = np.delete(np.arange(w.shape[1]), t)
        system = np.vstack([w[:, [t]] - w[:, rest], logits[rest] - logits[t]])
        unit = np.eye(len(system))[-1]
        residual = system @ scipy.optimize.nnls(system, unit)[0] - unit
        best.append(np.linalg.norm(residual[:-1] / residual[-1]))
    return np.asarray(best)


# FMN's ball shrinks while the walk goes from one boundary to the next: it ends a fifth farther
@pytest.mark.parametrize(("name", "most"), [("ddn", 1.05), ("fmn", 1.25), ("cw_l2", 1.05)])
def test_towards_one_of_several_classes(name, most):
    fn, x, w, logits = linear(8, (5, 7, 3), classes=5)
    wanted = logits.argmin(1)
    options = {"cw_l2": {"num_steps": 300, "num_constants": 5}}.get(name, {})
    result = distances(name, fn, BALLS["l2"], x, wanted, targeted=True, **options)
    assert (jnp.argmax(fn(result.x_adv), -1) == wanted).all()
    best = beyond_all(w, logits, wanted)
    np.testing.assert_array_less(result.distance, most * best)
    np.testing.assert_array_less(0.995 * best, result.distance)


@pytest.mark.parametrize("name", ["ddn", "fmn", "cw_l2"])
def test_a_target_with_a_criterion_of_its_own_is_a_target(name):
    fn, x, _, logits = linear(8, (5, 7, 3), classes=5)
    options = {"cw_l2": {"num_steps": 300, "num_constants": 5}}.get(name, {})

    def reached(criterion):
        objective = attacks.from_logits(
            fn, loss=losses.cross_entropy, targeted=True, criterion=criterion
        )
        attack = attacks.ATTACKS[name](objective, BALLS["l2"], **options)
        call = jax.jit(lambda y: attacks.run(attack, jax.random.key(0), x, y, jnp.inf).distance)
        return call(logits.argmin(1))

    own = reached(lambda output, label: jnp.argmax(output) == label)
    assert jnp.isfinite(own).all()
    np.testing.assert_array_equal(own, reached(None))


@pytest.mark.parametrize(
    ("name", "norm"), [("fmn", "linf"), ("fmn", "l1"), ("ddn", "l2"), ("fab", "linf")]
)
def test_a_boundary_that_the_bounds_never_meet_hides_no_other(name, norm, x64):
    # by the rate of a pixel that soon stands at its bound, class 1 seems nearer than class 2
    w = np.asarray([[0, -40.0, -74], [0, -43, 20], [0, -13, 8]])
    bias = jnp.asarray([0, -4.2, -7.1])
    x = np.asarray([0, 0.03, 0]).reshape(1, 1, 3, 1)

    def fn(x):
        return x.reshape(len(x), -1) @ jnp.asarray(w) + bias

    z = np.asarray(fn(x))
    result = distances(name, fn, BALLS[norm], x, np.zeros(1, np.int32))
    best = reach(w[:, [0, 2]], x, z[:, [0, 2]], [0], norm)
    np.testing.assert_allclose(result.distance, best, rtol=0.02)


@pytest.mark.parametrize("name", ["ddn", "fmn", "cw_l2"])
def test_who_starts_elsewhere_does_not_look(name, monkeypatch):
    fn, x, _, logits = linear(12, (4, 3, 2), classes=8)
    y, start = logits.argmax(1), np.clip(x + 0.2, 0, 1)
    options = {"cw_l2": {"num_steps": 60, "num_constants": 1}}.get(name, {"num_steps": 60})

    def run(x_start):
        attack = build(name, fn, BALLS["l2"], **options)
        return attacks.run(attack, jax.random.key(0), x, y, jnp.inf, x_start=x_start).x_adv

    given, seen = run(jnp.asarray(start)), run(None)
    monkeypatch.setattr(_looks, "MOST", 1)
    np.testing.assert_array_equal(run(jnp.asarray(start)), given)
    assert (run(None) != seen).any()


@pytest.mark.parametrize("name", ["ddn", "fmn", "cw_l2", "fab"])
def test_geometries_that_an_attack_cannot_follow_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: goes the shortest way in pixels"):
        build(name, lambda x: x, threat.normalised("l2", 0.3))
    if name != "fab":
        with pytest.raises(ValueError, match=f"{name}: needs finite bounds"):
            build(name, lambda x: x, threat.l2((-np.inf, np.inf)))
