"""Attacks that were trained before: one perturbation for all images, or a network that makes one.

Both are one move, which costs neither a gradient nor a look at the model that is attacked.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax.attacks._kernel import Proposal, assemble, make_spec, with_row_ball
from advjax.types import Array, Attack, AttackState, Ball, Cost, Eval, Objective, Target

# ball of one example, its image and budget, its perturbation -> image
_Fit = Callable[[Ball, Array, Array, Array], Array]


def universal(
    objective: Objective,
    ball: Ball,
    *,
    perturbation: Any = None,
    scale: bool = True,
    seed: int = 0,
) -> Attack:
    """A universal perturbation (Moosavi-Dezfooli et al. 2017): the same one for every image.

    Args:
      objective: from `attacks.from_logits`; judges, and is not differentiated.
      ball: the threat model.
      perturbation: `[H, W, C]`, from `training.train_uap`. None: the control of Hirano et al.
        (2021), a random one of the same norm: uniform on the cube, or on the sphere.
      scale: lengthen or shorten it to the norm eps, so that every budget is used in full; False:
        as it is, and projected where it is longer.
      seed: of the random perturbation.

    Returns:
      An `Attack` of one move that costs one forward pass.

    Raises:
      ValueError: `ball` is no `Ball`, `scale` with an l0 ball, or (when the attack is traced) a
        perturbation of another shape than the images.
    """
    norm = _norm(ball)
    if norm == "l0" and scale:
        raise ValueError("universal: what counts in an l0 ball has no length: give scale=False")

    def fit(ball_: Ball, x0: Array, eps: Array, v: Array) -> Array:
        if scale:
            length = ball_.distance(v, jnp.zeros_like(v))
            v = v * (eps / jnp.where(length > 0, length, 1))
        return ball_.project(x0 + v, x0, eps)

    def make(x0: Array) -> Array:
        shape = x0.shape[1:]
        v = _random(norm, seed, shape) if perturbation is None else jnp.asarray(perturbation)
        if v.shape != shape:
            raise ValueError(
                f"perturbation: expected the shape of one image {list(shape)}, got {list(v.shape)}"
            )
        return jnp.broadcast_to(v.astype(x0.dtype), x0.shape)

    return _one_move(objective, ball, make, fit, "universal")


def gap(
    objective: Objective,
    ball: Ball,
    *,
    generate: Callable[[Array], Array] | None = None,
) -> Attack:
    """A generative adversarial perturbation (GAP, Poursaeed et al. 2018): a network makes it.

        generate = lambda x: generator.apply(generator_variables, x)

    Args:
      objective: from `attacks.from_logits`; judges, and is not differentiated.
      ball: the threat model. What is generated is made as small as it allows (`perturbed`).
      generate: `x [B, H, W, C] -> [B, H, W, C]` in [-1, 1], from `training.train_gap`.

    Returns:
      An `Attack` of one move that costs one forward pass of the model, and one of the generator.

    Raises:
      ValueError: `ball` is no `Ball`, there is no `generate`, or (when the attack is traced) what
        it makes has not the shape of the images.
    """
    _norm(ball)
    if not callable(generate):
        raise ValueError(
            "gap: needs the generator that training.train_gap trained: give "
            "generate=lambda x: generator.apply(variables, x)"
        )

    def fit(ball_: Ball, x0: Array, eps: Array, made: Array) -> Array:
        return perturbed(ball_, made, x0, eps)

    def make(x0: Array) -> Array:
        made = generate(x0)
        if made.shape != x0.shape:
            raise ValueError(
                f"generate: expected perturbations {list(x0.shape)}, got {list(made.shape)}"
            )
        return made.astype(x0.dtype)

    return _one_move(objective, ball, make, fit, "gap")


def perturbed(ball: Ball, made: Array, x0: Array, eps: Array) -> Array:
    """Add what a generator made to ONE image, as small as the ball allows.

    The perturbation is divided by what it is too long (Poursaeed et al. 2018): in an l-infinity
    ball every channel by itself, in others the image as a whole. One that is short stays so.

    Args:
      ball: of one example.
      made: `[H, W, C]`, in pixel units.
      x0: `[H, W, C]`, the image.
      eps: `[]`.

    Returns:
      `[H, W, C]`, inside of ball and bounds.
    """
    zero = jnp.zeros_like(made)
    if _norm(ball) == "linf" and made.ndim == 3:
        own = jnp.eye(made.shape[2], dtype=bool)
        length = jax.vmap(lambda c: ball.distance(jnp.where(c, made, 0), zero))(own)
    else:
        length = ball.distance(made, zero)
    share = jnp.minimum(1, eps / jnp.where(length > 0, length, 1))
    return ball.project(x0 + made * share, x0, eps)


def _one_move(
    objective: Objective, ball: Ball, make: Callable[[Array], Array], fit: _Fit, name: str
) -> Attack:
    """Compose an attack that moves once, wherever it started, and is judged there."""
    # the model itself is asked: there are no claims to confirm
    objective = objective._replace(approximate=False)
    spec = make_spec(objective, ball, 1, "last", name, cost=Cost(0, 0))._replace(deterministic=True)

    def propose(state: AttackState, x0: Array, target: Target, eps: Array, keys: Array) -> Proposal:
        del target, keys
        x = with_row_ball(ball, fit)(x0, eps, make(x0))
        unknown = jnp.full_like(state.best_loss, -jnp.inf)
        unseen = Eval(unknown, jnp.zeros_like(state.success), unknown)
        return Proposal(x, unseen, jnp.zeros_like(state.status), (), state.objective_state)

    return assemble(propose, lambda x0: (), spec, random_start=False)


def _norm(ball: Ball) -> str:
    if not isinstance(ball, Ball):
        raise ValueError(f"ball: expected a Ball such as threat.linf(), got {ball!r}")
    return ball.name.split("-")[0]


def _random(norm: str, seed: int, shape: tuple[int, ...]) -> Array:
    """Draw a direction: uniform in the cube, or on the sphere once it is brought to a length."""
    key = jax.random.key(seed)
    if norm == "linf":
        return jax.random.uniform(key, shape, minval=-1, maxval=1)
    return jax.random.laplace(key, shape) if norm == "l1" else jax.random.normal(key, shape)
