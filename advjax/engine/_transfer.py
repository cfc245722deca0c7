"""Whether images made for other models break what an attack left standing."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import threat
from advjax.engine import _trust
from advjax.engine._inputs import check_examples
from advjax.engine._reference import MakeAttack, batches, join, outcome
from advjax.engine._results import SweepResult
from advjax.random import example_keys
from advjax.types import Array, PyTree

# by how much of a budget rounding may carry an image out of it; it is projected back
ROUNDING = 1e-4


class TransferResult(NamedTuple):
    """What images made for other models did; NumPy, in the order of the examples.

    Attributes:
      flag: the sign `transfer_better`: how many examples fell, of those that `result` calls
        standing at the budget of one of their images.
      broken: `[N]` bool, which fell.
      eps: `[N]`, the smallest budget at which each fell; inf where none did.
    """

    flag: _trust.Flag
    broken: np.ndarray
    eps: np.ndarray


@functools.lru_cache(maxsize=64)
def _program(make_attack: MakeAttack) -> Callable[..., Any]:
    """Compile once per attack and shape: params, data and budgets are arguments."""

    @jax.jit
    def judged(
        params: PyTree, keys: Array, x: Array, x_adv: Array, y: PyTree, levels: Array
    ) -> tuple[Array, Array]:
        spec = make_attack(params).spec
        ball = threat.over_rows(spec.ball)
        distance = ball.distance(x_adv, x)
        fits = distance[:, None] <= levels * (1 + ROUNDING)
        # the number of budgets where none is large enough, or where nothing was moved: a sweep
        # returns the clean image of what it did not break
        some = fits.any(1) & (distance > 0)
        budget = jnp.where(some, jnp.argmax(fits, 1), levels.shape[0])
        inside = ball.project(x_adv, x, levels[jnp.minimum(budget, levels.shape[0] - 1)])
        return budget, outcome(spec.objective, inside, y, keys)[2]

    return judged


def transfer_check(
    make_attack: MakeAttack,
    params: PyTree,
    x: Any,
    y: PyTree,
    result: SweepResult,
    x_adv: Any,
    *,
    key: Array,
    ids: Any = None,
    batch_size: int = 128,
) -> TransferResult:
    """Try adversarial images of other models on the examples that stood.

    A white-box attack that loses to transferred images is a sign of masked gradients (Athalye et
    al. 2018, "Obfuscated gradients give a false sense of security"). Each image is judged at the
    smallest budget of the sweep that holds it, projected onto that ball; images beyond the
    largest budget, and images that are the clean ones, are left out.

    Args:
      make_attack: `params -> Attack`, whose objective and ball judge; the program is cached by
        its identity.
      params: the argument of `make_attack`.
      x: `[N, H, W, C]`, the clean images of the sweep, uint8, or floats within the bounds.
      y: `[N]` labels, or a pytree with leading `[N]`.
      result: what `sweep` found for this model on these examples.
      x_adv: `[N, H, W, C]` images made for another model from the same clean images, in their
        order (`sweep(..., return_x_adv=True).x_adv`), or `[S, N, H, W, C]`, of several models.
      key: one key, for objectives that draw random numbers.
      ids: `[N]` unique integers, identities of the examples; None: 0..N-1.
      batch_size: rows of one program; the last batch is padded.

    Returns:
      `TransferResult`; `with_flags(result, found.flag)` puts it into the trust report.

    Raises:
      ValueError: sizes or pixels make no sense.
    """
    examples = check_examples(x, y, ids, make_attack(params).spec.ball.bounds)
    given = _surrogates(x_adv, examples.images)
    total, num_budgets = len(examples.images), len(result.epsilons)
    if len(result.min_eps) != total:
        raise ValueError(f"result: is about {len(result.min_eps)} examples, x has {total}")
    judged = _program(make_attack)
    levels = jnp.asarray(result.epsilons, given.dtype)
    stood, eps = np.zeros(total, bool), np.full(total, np.inf)
    for number, images in enumerate(given):
        parts = []
        target = (images, examples.targets)
        for rows, image, (moved, label) in batches(
            examples.images, target, examples.ids, batch_size
        ):
            keys = example_keys(key, jnp.asarray(examples.ids[rows]), number, "transfer")
            parts.append(judged(params, keys, image, moved, label, levels))
        budget, success = join(parts, total)
        # nothing stands beyond the last budget: the sweep says nothing there
        at = np.append(result.epsilons, np.inf)[budget]
        standing = (budget < num_budgets) & (result.min_eps > at)
        stood |= standing
        eps = np.where(standing & success, np.minimum(eps, at), eps)
    broken = np.isfinite(eps)
    trust = _trust.judge({"transfer_better": (int(broken.sum()), int(stood.sum()))})
    return TransferResult(trust.flags[0], broken, eps)


def _surrogates(x_adv: Any, images: np.ndarray) -> np.ndarray:
    """Return the images of each other model as floats of the precision of the clean ones."""
    given = np.asarray(x_adv)
    if given.shape == images.shape:
        given = given[None]
    if given.shape[1:] != images.shape or not len(given):
        raise ValueError(
            f"x_adv: expected images of the shape of x {list(images.shape)}, or those of several "
            f"models with one more axis in front, got {list(given.shape)}"
        )
    floats = given.astype(np.float32 if images.dtype == np.uint8 else images.dtype)
    if given.dtype == np.uint8:
        floats /= 255
    if not np.isfinite(floats).all():
        model, example = np.argwhere(~np.isfinite(floats))[0][:2]
        raise ValueError(f"x_adv: image {example} of model {model} has NaN or infinite pixels")
    return floats
