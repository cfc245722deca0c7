"""Universal adversarial perturbations: one perturbation that fools a model on most images."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, threat, tree
from advjax.types import Array, Attack, Ball, Output, PyTree, Target

MakeAttack = Callable[[PyTree], Attack]
Decide = Callable[[Output], Target]

# step of the sign version relative to the budget: 0.0024 of 0.08, as Hirano et al. have it
_STEP = 0.03


class UapResult(NamedTuple):
    """What training found; NumPy.

    Attributes:
      perturbation: `[H, W, C]` float32, of the pass with the highest rate.
      rate: its share of the images fooled (untargeted) or brought to the target.
      rates: `[P]`, the share after each pass over the images.
      updates: how many batches moved it, over all passes.
    """

    perturbation: np.ndarray
    rate: float
    rates: np.ndarray
    updates: int


def train_uap(
    make_attack: MakeAttack,
    params: PyTree,
    x: Any,
    *,
    eps: float,
    key: Array,
    ball: Ball | None = None,
    target: Any = None,
    attack_eps: float | None = None,
    delta: float = 0.2,
    max_passes: int = 10,
    batch_size: int = 1,
    accept: str = "always",
    decide: Decide | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> UapResult:
    """Train a universal perturbation (Moosavi-Dezfooli et al. 2017; Hirano et al. 2021).

    In passes over the images, in random order: an image that `x + v` does not fool yet is attacked
    from there, and v moves to where that led, projected onto the ball. It ends when the share of
    images fooled reaches `1 - delta`, or after `max_passes`.

    The attack is any: `deepfool(objective, threat.l2(), num_steps=10, search_steps=0)` is the
    version of 2017, `fgsm(objective, threat.linf())` that of 2021, targeted where the objective is.
    They took one image at a time, delta 0.2 and 10 passes, or delta 1e-6 and 15.

    Args:
      make_attack: `params -> Attack`; its criterion says what is fooled.
      params: the argument of `make_attack`, typically the variables of a model.
      x: `[N, H, W, C]`, uint8, or floats within the bounds.
      eps: norm of the perturbation, in pixel units (`uap_radius` has the scale of Hirano et al.).
      key: one key, for the order of the images and the attack.
      ball: what the perturbation is projected onto; None: that of the attack.
      target: what the attack is told of each image. None: what the model says of it (`decide`).
        One wanted class, or `[K]` wanted findings, for all; or `[N, ...]`, one for each.
      attack_eps: budget of each attack; None: unbounded for one for the minimal norm, else 0.03
        of `eps`.
      delta: share of images that need not be fooled.
      max_passes: over the images.
      batch_size: images at a time; v moves by the mean of their moves. 1 is as published; more is
        faster and blunter.
      accept: `"always"`; or `"success"`: v moves only where the attack succeeded, as published,
        which leaves it at zero where the steps are too short.
      decide: `output -> target` of one example; None: the class or classes of the largest output.
        For findings: `lambda logits: (logits > 0).astype(int)`.
      progress: called with the number of passes done and the rate.

    Returns:
      `UapResult`; `attacks.universal(objective, ball, perturbation=...)` evaluates it.

    Raises:
      ValueError: an argument is out of range, or the sizes do not fit.
    """
    spec = make_attack(params).spec
    images = _images(x)
    attacks.check_pixels(np.asarray(images), spec.ball.bounds)
    _check(len(images), eps, delta, max_passes, batch_size, accept)
    if attack_eps is None:
        attack_eps = np.inf if spec.minimal else _STEP * eps
    programs = _cached(make_attack, ball, batch_size, accept, decide or _largest)
    _check_target(make_attack, params, images, target)
    targets = _targets(programs[2], params, images, target, batch_size)
    v = jnp.zeros(images.shape[1:], images.dtype)
    best = (-1.0, np.asarray(v))
    rates, updates = [], 0
    reach = jnp.asarray([eps, attack_eps], images.dtype)
    for number in range(max_passes):
        order_key, attack_key = jax.random.split(jax.random.fold_in(key, number))
        order = np.asarray(jax.random.permutation(order_key, len(images)))
        rows, valid = _rows(order, batch_size)
        v, moved = programs[0](params, v, images, targets, rows, valid, attack_key, reach)
        rate = _rate(programs[1], params, v, images, targets, batch_size)
        rates.append(rate)
        updates += int(moved)
        if rate > best[0]:
            best = (rate, np.asarray(v))
        if progress is not None:
            progress(number + 1, rate)
        if rate >= 1 - delta:
            break
    return UapResult(best[1], best[0], np.asarray(rates), updates)


def uap_radius(x: Any, zeta: float = 0.04, norm: str = "l2") -> float:
    """Return the norm of a perturbation as Hirano et al. (2021) have it: zeta times the mean norm.

    Args:
      x: `[N, H, W, C]` images, uint8 or floats in [0, 1].
      zeta: 0.04 is their default.
      norm: name of a ball, `"l2"` or `"linf"`.

    Raises:
      ValueError: the norm is unknown, zeta is not positive, or there is no image.
    """
    images = _images(x)
    if zeta <= 0:
        raise ValueError(f"zeta: must be positive, got {zeta}")
    distance = threat.over_rows(threat.by_name(norm)).distance
    return zeta * float(np.mean(np.asarray(distance(images, jnp.zeros_like(images)))))


@functools.lru_cache(maxsize=32)
def _programs(
    make_attack: MakeAttack, ball: Ball | None, batch_size: int, accept: str, decide: Decide
) -> tuple[Callable[..., Any], ...]:
    """Compile once per attack: one pass, the share of a batch fooled, and what the model says."""

    @jax.jit
    def one_pass(
        params: PyTree, v: Array, x: Array, target: Target, rows: Array, valid: Array,
        key: Array, reach: Array,
    ) -> tuple[Array, Array]:  # fmt: skip
        attack = make_attack(params)
        own = attack.spec.ball if ball is None else ball

        def body(carry: tuple[Array, Array], part: Any) -> tuple[tuple[Array, Array], None]:
            v, count = carry
            at, counted, number = part
            told = jax.tree.map(lambda leaf: leaf[at], target)
            own_key = jax.random.fold_in(key, number)
            v, moved = _move(attack, own, accept, x[at], told, counted, own_key, v, reach)
            return (v, count + moved), None

        parts = (rows, valid, jnp.arange(len(rows)))
        return jax.lax.scan(body, (v, jnp.int32(0)), parts)[0]

    @jax.jit
    def fooled(params: PyTree, v: Array, x: Array, target: Target) -> Array:
        attack = make_attack(params)
        return _fooled(attack, _shift(attack.spec.ball, x, v), target)

    @jax.jit
    def decided(params: PyTree, x: Array) -> Target:
        output = make_attack(params).spec.objective.apply(x, _keys(jax.random.key(0), len(x)))
        return jax.vmap(decide)(output)

    return one_pass, fooled, decided


def _move(
    attack: Attack, ball: Ball, accept: str, x: Array, target: Target, valid: Array, key: Array,
    v: Array, reach: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Move v by one batch; return it, and whether it moved at all."""
    shifted = _shift(attack.spec.ball, x, v)
    waits = valid & ~_fooled(attack, shifted, target)

    def attacked(v: Array) -> tuple[Array, Array]:
        budget = jnp.broadcast_to(reach[1], x.shape[:1])
        found = attacks.run(attack, _keys(key, len(x)), shifted, target, budget, stop="budget")
        counts = waits & (found.success if accept == "success" else True)
        # a failed search for the minimal norm returns its start
        moves = tree.where(counts, found.x_adv - shifted, jnp.zeros_like(x))
        total = jnp.sum(counts)
        mean = jnp.sum(moves, 0) / jnp.maximum(total, 1).astype(x.dtype)
        return _project(ball, v + mean, reach[0]), (total > 0).astype(jnp.int32)

    # most images are fooled after a pass or two, and a DeepFool of nothing costs as much as any
    return jax.lax.cond(jnp.any(waits), attacked, lambda v: (v, jnp.int32(0)), v)


def _cached(
    make_attack: MakeAttack, ball: Ball | None, *rest: Any
) -> tuple[Callable[..., Any], ...]:
    """Return programs that are compiled once, but for a ball with arrays, which has no hash."""
    try:
        hash(ball)
    except TypeError:
        return _programs.__wrapped__(make_attack, ball, *rest)
    return _programs(make_attack, ball, *rest)


def _project(ball: Ball, v: Array, eps: Array) -> Array:
    """Project a perturbation: around the middle of the pixel range, where no bound is near."""
    low, high = (jnp.asarray(b, v.dtype) for b in ball.bounds)
    middle = jnp.where(jnp.isfinite(low) & jnp.isfinite(high), (low + high) / 2, 0)
    centre = jnp.broadcast_to(middle, v.shape)
    return ball.project(centre + v, centre, eps) - centre


def _shift(ball: Ball, x: Array, v: Array) -> Array:
    low, high = (jnp.asarray(b, x.dtype) for b in ball.bounds)
    return jnp.clip(x + v, low, high)


def _fooled(attack: Attack, x: Array, target: Target) -> Array:
    objective = attack.spec.objective
    return objective.judge(x, target, _keys(jax.random.key(0), len(x))).success


def _keys(key: Array, num: int) -> Array:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num))


def _largest(output: Array) -> Array:
    return jnp.argmax(output, -1).astype(jnp.int32)


def _images(x: Any) -> Array:
    images = np.asarray(x)
    if images.ndim < 2 or not len(images):
        raise ValueError(f"x: expected images [N, H, W, C], got shape {images.shape}")
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    return jnp.asarray(images)


def _check(
    total: int, eps: float, delta: float, max_passes: int, batch_size: int, accept: str
) -> None:
    if not 0 < eps < np.inf:
        raise ValueError(f"eps: must be positive, in pixel units, got {eps}")
    if not 0 <= delta < 1:
        raise ValueError(f"delta: must be in [0, 1), got {delta}")
    if max_passes < 1 or not 1 <= batch_size <= total:
        raise ValueError(
            f"max_passes must be at least 1 and batch_size 1 to {total}, the number of images; "
            f"got {max_passes} and {batch_size}"
        )
    if accept not in ("always", "success"):
        raise ValueError(f"accept: {accept!r} is unknown; use always or success")


def _check_target(make_attack: MakeAttack, params: PyTree, x: Array, target: Any) -> None:
    """Refuse a target that is no class of a model with outputs `[C]`."""

    def outputs(params: PyTree, x: Array) -> Output:
        return make_attack(params).spec.objective.apply(x, _keys(jax.random.key(0), len(x)))

    given, shapes = np.asarray(target), jax.tree.leaves(jax.eval_shape(outputs, params, x[:1]))
    classes = target is not None and given.shape in ((), (len(x),)) and given.dtype.kind in "iu"
    if not classes or len(shapes) != 1 or shapes[0].ndim != 2:
        return
    count = shapes[0].shape[1]
    if given.shape != (count,) and ((given < 0) | (given >= count)).any():
        raise ValueError(f"target: the model has classes 0 to {count - 1}, got {given.max()}")


def _targets(
    decided: Callable[..., Target], params: PyTree, x: Array, target: Any, batch_size: int
) -> Target:
    """Return what the attack is told of every image, `[N, ...]`."""
    if target is None:
        chunks = [decided(params, chunk) for chunk, _ in _chunks(x, batch_size)]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts)[: len(x)], *chunks)
    given = np.asarray(target)
    if given.dtype.kind not in "iub":
        raise ValueError(f"target: expected integers, got {given.dtype}")
    each = given.ndim > 0 and len(given) == len(x)
    return jnp.asarray(given if each else np.broadcast_to(given, (len(x), *given.shape)))


def _rate(
    fooled: Callable[..., Array], params: PyTree, v: Array, x: Array, target: Target,
    batch_size: int,
) -> float:  # fmt: skip
    found = [
        fooled(params, v, chunk, jax.tree.map(lambda leaf, at=rows: leaf[at], target))
        for chunk, rows in _chunks(x, batch_size)
    ]
    return float(np.concatenate([np.asarray(part) for part in found])[: len(x)].mean())


def _chunks(x: Array, batch_size: int) -> Any:
    """Yield equal chunks and their rows; the last one repeats the last image."""
    size = max(batch_size, min(len(x), 128))
    for start in range(0, len(x), size):
        rows = np.minimum(np.arange(start, start + size), len(x) - 1)
        yield x[rows], rows


def _rows(order: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return batches of rows `[S, B]`, and which of them count."""
    steps = -(-len(order) // batch_size)
    filled = np.resize(order, steps * batch_size).reshape(steps, batch_size)
    valid = np.arange(steps * batch_size).reshape(filled.shape) < len(order)
    return filled, valid
