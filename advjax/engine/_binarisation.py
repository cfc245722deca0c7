"""The decision-boundary binarisation test: an attack against models that surely can be broken.

Zimmermann, Brendel, Tramèr, Carlini (2022), "Increasing confidence in adversarial robustness
evaluations". A linear read-out of the model's features tells points inside of the ball (class 0)
from a point on its surface (class 1). The point on the surface is an adversarial image by
construction, so that an attack that breaks nothing has missed it, whatever the model is.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, losses, threat
from advjax.engine import _trust
from advjax.engine._inputs import check_examples
from advjax.engine._readout import Readout, Wanted, fit, score
from advjax.engine._reference import batches, join
from advjax.random import example_keys
from advjax.types import Array, Attack, Ball, LossFn, Objective, Output, PyTree

Features = Callable[[PyTree, Array], Any]
MakeBinary = Callable[[Objective, Ball], Attack]

INNER = 0.95  # radius of the inner points, of eps
RANDOM_SOLVES = 0.5  # share that random points solve above which the test says nothing


class BinarisationResult(NamedTuple):
    """What the test found; shares are of the images that could be tested.

    Attributes:
      attack_success: share that the attack broke; near 1 for an attack that can be believed. NaN
        if no image could be tested.
      random_success: share that random points on the surface of the ball broke, as many as there
        are inner points; where it is not small, the test says nothing.
      num_tested: images whose read-out has an adversarial image for sure.
      flag: the sign `binarisation_unsolved`. It is suspicious too where the test says nothing.
      tested: `[N]` bool; `solved`: `[N]` bool, broken by the attack; `random_solved`: `[N]` bool.
    """

    attack_success: float
    random_success: float
    num_tested: int
    flag: _trust.Flag
    tested: np.ndarray
    solved: np.ndarray
    random_solved: np.ndarray


def binarisation_test(
    make_attack: MakeBinary,
    features: Features,
    params: PyTree,
    x: Any,
    *,
    eps: float,
    key: Array,
    norm: str = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    num_inner: int = 100,
    num_boundary: int = 1,
    closeness: float = 0.999,
    ids: Any = None,
    batch_size: int = 64,
) -> BinarisationResult:
    """Test whether an attack finds adversarial images that surely exist.

    Of each image: the image and `num_inner` random points within 0.95 eps are class 0; of as many
    points on the surface of the ball the `num_boundary` whose features are least like those are
    class 1. (The paper takes any point of the surface; the least likely one keeps the test hard
    where there are few features, such as the logits of three classes.) A logistic regression on
    the features separates the two, its threshold close to class 1. Images where it does not
    separate them are left out. All others have an adversarial image within eps, and the attack,
    which starts from the clean image, should break all of them.

    The attack sees two logits, the label 0 and the features' own gradients; a loss of its own
    (`attacks.cw_linf`) works on the two logits. Attacks that read class labels from their targets
    cannot be tested: the target of a row is its read-out, so that all images share one program.

    Args:
      make_attack: `(objective, ball) -> Attack`, such as `lambda objective, ball:
        attacks.pgd(objective, ball, num_steps=20)`: the attack under test, with its settings.
      features: `(params, x [B, H, W, C]) -> [B, D]`, or any `[B, ...]`: what the last layer of the
        model reads, or its logits. It must be deterministic.
      params: the argument of `features`.
      x: `[N, H, W, C]` clean images, uint8, or floats within the bounds; some dozens will do.
      eps: budget in pixel units.
      key: one key; an image's points depend on it and on its id only.
      norm: `"linf"` or `"l2"`.
      bounds: `(low, high)` of valid pixels.
      num_inner: random inner points of each image.
      num_boundary: points of class 1 of each image.
      closeness: where the threshold lies between the highest inner score (0) and the lowest score
        of class 1 (1); the paper has 0.999. Images where rounding spoils it are left out.
      ids: `[N]` unique integers, identities of the images; None: 0..N-1.
      batch_size: images of one program, which is compiled once for the callables (keep them) and
        the shapes. 3 num_inner + 1 forward passes of each image are spent beside the attack.

    Returns:
      `BinarisationResult`; `with_flags(result, found.flag)` puts it into the trust report.

    Raises:
      ValueError: sizes, pixels, the norm or options make no sense.
    """
    _check(eps, num_inner, num_boundary, closeness)
    examples = check_examples(x, np.zeros(len(x), np.int32), ids, bounds)
    bounds = (float(bounds[0]), float(bounds[1]))
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm: {norm!r} is unknown; known: linf, l2")
    described = _described(features, norm, bounds)
    attacked = _attacked(make_attack, features, norm, bounds)
    # the image itself, inner points, points on the surface that may be class 1, random points
    surface = np.repeat([False, True], [1 + num_inner, 2 * num_inner])
    radius = np.append(0.0, np.full(3 * num_inner, INNER))
    wanted = Wanted(1 + num_inner, num_inner, num_boundary, closeness)
    parts = []
    for rows, image, numbers in batches(examples.images, examples.ids, examples.ids, batch_size):
        keys = example_keys(key, numbers, 0, "binarisation")
        budget = jnp.full(len(rows), eps, image.dtype)
        found = np.asarray(described(params, keys, image, budget, radius, surface), np.float64)
        fits = [fit(one, wanted) for one in found]
        readout = Readout(
            *(
                np.stack(leaves).astype(image.dtype)
                for leaves in zip(*(one.readout for one in fits), strict=True)
            )
        )
        place = jnp.asarray([one.place for one in fits])
        start = example_keys(key, numbers, 1, "binarisation")
        certain, solved = attacked(params, keys, start, image, readout, budget, place)
        separable = np.array([one.separable for one in fits])
        chance = np.array([one.random_solves for one in fits])
        parts.append((separable & np.asarray(certain), solved, chance))
    tested, solved, chance = join(parts, len(examples.images))
    return _result(tested, tested & solved, tested & chance)


def _check(eps: float, num_inner: int, num_boundary: int, closeness: float) -> None:
    if np.ndim(eps) != 0 or not 0 < eps < np.inf:
        raise ValueError(f"eps: must be one positive number, got {eps}")
    if num_inner < 1 or not 1 <= num_boundary <= num_inner:
        raise ValueError(
            "num_inner must be at least 1 and num_boundary between 1 and num_inner, got "
            f"{num_inner} and {num_boundary}"
        )
    if not 0 < closeness < 1:
        raise ValueError(f"closeness: must be between 0 and 1, got {closeness}")


def _result(tested: np.ndarray, solved: np.ndarray, chance: np.ndarray) -> BinarisationResult:
    """Turn what happened to each image into shares and a flag."""
    count, total = int(tested.sum()), len(tested)
    attack, random = (
        float(some.sum() / count) if count else float("nan") for some in (solved, chance)
    )
    flag = _trust.judge({"binarisation_unsolved": (count - int(solved.sum()), count)}).flags[0]
    said = None
    if not count:
        said = (
            f"no read-out of {total} images separates a point on the surface of the ball from "
            "points inside, so that the binarisation test says nothing: a layer that makes the "
            "features constant hides all gradients; else take wider features, from before the last "
            "layer"
        )
    elif flag.verdict == "ok" and random > RANDOM_SOLVES:
        said = (
            f"random points solve {int(chance.sum())} of {count} images of the binarisation test "
            "too, so that it says nothing: take wider features, from before the last layer, or "
            "more inner points"
        )
    if said is not None:
        flag = flag._replace(verdict="suspicious", text=said)
    return BinarisationResult(attack, random, count, flag, tested, solved, chance)


@functools.lru_cache(maxsize=64)
def _described(features: Features, norm: str, bounds: tuple[float, float]) -> Callable[..., Any]:
    """Compile the features of all points once, for all attacks."""
    ball = threat.by_name(norm, bounds)
    rows = threat.over_rows(ball)

    @jax.jit
    def described(
        params: PyTree, keys: Array, x: Array, eps: Array, radius: Array, surface: Array
    ) -> Array:
        def one(point: tuple[Array, Array, Array]) -> Array:
            place, size, outer = point
            mine = _keys_of(keys, jnp.broadcast_to(place, eps.shape))
            inside = rows.sample(mine, x, eps * size.astype(eps.dtype))
            output = features(params, jnp.where(outer, _on_surface(ball, mine, x, eps), inside))
            return jnp.reshape(output, (x.shape[0], -1))

        points = (jnp.arange(len(radius)), jnp.asarray(radius), jnp.asarray(surface))
        return jnp.swapaxes(jax.lax.map(one, points), 0, 1)

    return described


@functools.lru_cache(maxsize=64)
def _attacked(
    make_attack: MakeBinary, features: Features, norm: str, bounds: tuple[float, float]
) -> Callable[..., Any]:
    """Compile once per attack, features and shape; read-outs and budgets are arguments."""
    ball = threat.by_name(norm, bounds)
    rows = threat.over_rows(ball)

    @jax.jit
    def attacked(
        params: PyTree, keys: Array, start: Array, x: Array, readout: Readout, eps: Array,
        place: Array,
    ) -> tuple[Array, Array]:  # fmt: skip
        objective = binary_objective(lambda points: features(params, points))
        found = attacks.run(make_attack(objective, ball), start, x, readout, eps)
        sure = _on_surface(ball, _keys_of(keys, place), x, eps)
        clean, exists, solved = (
            objective.judge(points, readout, start).success
            for points in (x, sure, rows.project(found.x_adv, x, eps))
        )
        return exists & ~clean, solved

    return attacked


def _keys_of(keys: Array, place: Array) -> Array:
    """Return the keys `[B]` of point number `place` `[B]` of each image."""
    return jax.vmap(jax.random.fold_in)(keys, place)


def _on_surface(ball: Ball, keys: Array, x: Array, eps: Array) -> Array:
    """Return a random point of the surface for each row: a corner of the l-infinity ball."""

    def one(key: Array, x0: Array, eps: Array) -> Array:
        low, high = (jnp.asarray(bound, x0.dtype) for bound in ball.bounds)
        move = eps * ball.steepest(jax.random.normal(key, x0.shape, x0.dtype))
        # away from the bounds, where clipping would take the point off the surface
        outside = (x0 + move < low) | (x0 + move > high)
        return ball.project(jnp.where(outside, x0 - move, x0 + move), x0, eps)

    return jax.vmap(one)(keys, x, eps)


def binary_objective(fn: Callable[[Array], Output]) -> Objective:
    """Return the objective of the two-class model whose read-outs `Readout` are the targets.

    Its losses get the logits of the two classes `[2]` and the label 0.
    """

    def of_two(loss: LossFn) -> LossFn:
        def read(output: Output, readout: Readout) -> Array:
            half = score(output, readout) / 2
            return loss(jnp.stack([-half, half]), jnp.int32(0))

        return read

    def crossed(output: Output, readout: Readout) -> Array:
        value = score(output, readout)
        return jnp.isfinite(value) & (value > 0)

    plain = attacks.from_logits(fn, loss=of_two(losses.cross_entropy), criterion=crossed)

    def with_loss(loss: LossFn) -> Objective:
        return plain.with_loss(of_two(loss))._replace(with_loss=with_loss)

    return plain._replace(with_loss=with_loss)
