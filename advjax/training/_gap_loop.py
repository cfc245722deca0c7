"""Training of generators: epochs, the best one of each budget, checkpoints."""

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import attacks, data, threat
from advjax.checkpoint import Checkpoints
from advjax.data import Split
from advjax.models import Model
from advjax.training._gap import (
    ApplyFn,
    GapState,
    Goal,
    Parts,
    gap_score,
    gap_step,
    gap_targets,
    init_gap,
    least_likely,
)
from advjax.training._sums import NonFiniteLossError
from advjax.types import Array, Ball, LossFn, PyTree

# learning rate of Poursaeed et al. (2018) and of Xu et al. (2021)
LEARNING_RATE = 2e-4
_STACKS = ("auto", "vmap", "off")


class GapResult(NamedTuple):
    """Generators that were trained, one for each budget.

    Attributes:
      eps: `[E]`.
      variables: E variables of the generator, each of the epoch with the best score.
      scores: `[E]`, how far the goal is reached on the held-out images, in [0, 1]; untargeted one
        minus the accuracy there.
      history: a record for each epoch: `epoch`, and `loss` and `score`, each `[E]`.
      resumed_from: epochs that were done before this call.
    """

    eps: np.ndarray
    variables: tuple[PyTree, ...]
    scores: np.ndarray
    history: list[dict[str, Any]]
    resumed_from: int


class _Group(NamedTuple):
    """Generators that are trained by one program: one, or several with a leading axis."""

    state: GapState
    eps: Array


def train_gap(
    generator: Model,
    fn: ApplyFn,
    params: PyTree,
    train: Split,
    held_out: Split,
    *,
    eps: float | Sequence[float],
    loss: LossFn,
    goal: Goal = least_likely,
    ball: Ball | None = None,
    optimizer: optax.GradientTransformation | None = None,
    epochs: int = 10,
    batch_size: int = 16,
    batches_per_epoch: int = 100,
    universal: bool = False,
    straight_through: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    stack: str = "auto",
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> GapResult:
    """Train generators of perturbations (GAP, Poursaeed et al. 2018; as in Xu et al. 2021).

    A generator maps an image to a perturbation in [-1, 1], which is divided by what it is too long
    for the ball, channel by channel (`attacks.perturbed`). It descends the loss of the perturbed
    images towards what the goal names; the model that is attacked stays as it is. Xu et al. let
    the generator make values in [0, 1] from which the mean of the pixels is taken; here zero is
    no perturbation.

    Several budgets (the magnitudes lambda of the papers) are trained in one call, each from the
    same start, on the same batches.

    Args:
      generator: `[B, H, W, C]` images to `[B, H, W, C]`, such as `models.gap_unet(channels)`.
      fn: `(params, x) -> output` of the model that is attacked, in evaluation mode.
      params: its variables.
      train: images to train on; their targets play no part.
      held_out: images that choose the epoch, by their targets. Not those of the final evaluation.
      eps: one budget or several, in pixel units.
      loss: of one example, towards the target of the goal: `losses.cross_entropy` or
        `losses.binary_cross_entropy`.
      goal: `least_likely` (classes, masks), `flip_predictions` (findings) or `towards(target)`.
      ball: the threat model; None: `threat.linf()`.
      optimizer: None: Adam with rate 2e-4 (decays 0.9 and 0.999; the original GAP has 0.5).
      epochs: at most `batches_per_epoch` batches each, other images each epoch.
      batch_size: images a step.
      batches_per_epoch: 100 in Xu et al.
      universal: the generator sees one fixed noise and makes one perturbation for all images.
      straight_through: the gradient takes no notice of the division and of the pixel range, as in
        the published code.
      seed: of parameters, dropout, order and noise.
      out: folder of checkpoints: a killed call goes on from its last epoch; None: none are kept.
      stack: budgets at once (`vmap`), one after the other (`off`), or by the device (`auto`).
      progress: called with the record of each epoch.

    Returns:
      `GapResult`. `attacks.gap(objective, ball, generate=lambda x: training.generated(generator,
      variables, x))` evaluates one.

    Raises:
      ValueError: an argument is out of range, or the folder holds another training.
      NonFiniteLossError: the loss became NaN.
    """
    ball = threat.linf() if ball is None else ball
    budgets = _check(eps, ball, train, held_out, epochs, batch_size, batches_per_epoch, stack)
    optimizer = optax.adam(LEARNING_RATE) if optimizer is None else optimizer
    parts = Parts(generator, fn, ball, loss, goal, optimizer, universal, straight_through)
    identity = {
        "eps": budgets, "goal": goal.name, "ball": ball.name, "generator": generator.name,
        "universal": universal, "straight_through": straight_through, "seed": seed,
        "batch_size": batch_size, "batches_per_epoch": batches_per_epoch,
        "images": [len(train), len(held_out)], "image_shape": list(train.images.shape[1:]),
    }  # fmt: skip
    stacked = stack == "vmap" or (stack == "auto" and jax.default_backend() != "cpu")
    run = _Run(parts, params, budgets, seed, stacked, train, held_out, batch_size)
    if out is None:
        return run.train(epochs, batches_per_epoch, None, identity, progress)
    with Checkpoints(out) as store:
        return run.train(epochs, batches_per_epoch, store, identity, progress)


def load_gap(out: str | Path, generator: Model) -> GapResult:
    """Read what `train_gap(generator, ..., out=out)` found; its last epoch.

    Raises:
      FileNotFoundError: nothing was trained there.
      ValueError: it was another generator.
    """
    with Checkpoints(out, read_only=True) as store:
        step = store.latest_step()
        info = store.info(step)
        told = info["identity"]
        if told["generator"] != generator.name:
            raise ValueError(
                f"{out}: holds a generator {told['generator']!r}, not {generator.name!r}"
            )
        image = jnp.zeros((1, *told["image_shape"]), jnp.float32)
        like = jax.eval_shape(generator.init, jax.random.key(0), image)
        names = [f"best{i}" for i in range(len(told["eps"]))]
        found = store.restore(step, dict.fromkeys(names, like))
    best = tuple(found[name] for name in names)
    history = info["history"]
    return GapResult(np.asarray(told["eps"]), best, np.asarray(info["scores"]), history, step or 0)


class _Run:
    """One training of one or several generators."""

    def __init__(
        self, parts: Parts, victim: PyTree, budgets: list[float], seed: int, stacked: bool,
        train: Split, held_out: Split, batch_size: int,
    ) -> None:  # fmt: skip
        """Build the programs; compiles nothing yet."""
        self.parts, self.victim, self.budgets, self.seed = parts, victim, budgets, seed
        self.split, self.held_out, self.batch_size = train, held_out, batch_size
        self.stacked = stacked and len(budgets) > 1
        shape = tuple(train.images.shape[1:])
        self.init = functools.partial(init_gap, parts, seed, shape)
        step = functools.partial(gap_step, parts, seed)
        score = functools.partial(gap_score, parts, seed)
        if self.stacked:
            step = jax.vmap(step, in_axes=(None, 0, 0, None, None))
            score = jax.vmap(score, in_axes=(None, 0, 0, None))
        self.targets = jax.jit(functools.partial(gap_targets, parts))
        self.step = jax.jit(step, donate_argnums=1)
        self.score = jax.jit(score)
        self.keep = jax.jit(jax.vmap(_keep_best) if self.stacked else _keep_best, donate_argnums=0)

    def train(
        self, epochs: int, batches_per_epoch: int, store: Checkpoints | None,
        identity: dict[str, Any], progress: Callable[[dict[str, Any]], None] | None,
    ) -> GapResult:  # fmt: skip
        """Train what is left to train."""
        done = 0
        history: list[dict[str, Any]] = []
        one = jax.jit(self.init)()
        members = [jax.tree.map(jnp.copy, one) for _ in self.budgets]
        if store is not None and store.latest_step() is not None:
            done = store.latest_step() or 0
            members, history = _restore(store, done, members, identity)
        groups = self._group(members)
        for epoch in range(done + 1, epochs + 1):
            groups, losses = self._epoch(groups, epoch, batches_per_epoch)
            scores = [self._score(group) for group in groups]
            groups = [
                group._replace(state=self.keep(group.state, score))
                for group, score in zip(groups, scores, strict=True)
            ]
            record = {"epoch": epoch, "loss": losses, "score": _flat(scores)}
            history = [*history, record]
            if store is not None:
                _save(store, epoch, self._ungroup(groups), identity, history)
            if progress is not None:
                progress(record)
        members = self._ungroup(groups)
        best = np.asarray([float(m.best_score) for m in members])
        variables = tuple(m.best for m in members)
        return GapResult(np.asarray(self.budgets), variables, best, history, done)

    def _group(self, members: list[GapState]) -> list[_Group]:
        budgets = jnp.asarray(self.budgets, jnp.float32)
        if self.stacked:
            return [_Group(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members), budgets)]
        return [_Group(state, eps) for state, eps in zip(members, budgets, strict=True)]

    def _ungroup(self, groups: list[_Group]) -> list[GapState]:
        if not self.stacked:
            return [group.state for group in groups]
        count = range(len(self.budgets))
        return [jax.tree.map(lambda leaf, i=i: leaf[i], groups[0].state) for i in count]

    def _epoch(
        self, groups: list[_Group], epoch: int, most: int
    ) -> tuple[list[_Group], list[float]]:
        """Train one epoch; return the mean loss of each generator."""
        batches = data.batches(
            self.split, self.batch_size, seed=self.seed, epoch=epoch, shuffle=True
        )
        found = []
        for batch in itertools.islice(batches, most):
            target = self.targets(self.victim, batch)
            pairs = [
                self.step(self.victim, group.state, group.eps, batch, target) for group in groups
            ]
            groups = [
                group._replace(state=state) for group, (state, _) in zip(groups, pairs, strict=True)
            ]
            found.append([loss for _, loss in pairs])
        losses = np.mean([_flat(row) for row in jax.device_get(found)], axis=0)
        if not np.isfinite(losses).all():
            raise NonFiniteLossError(
                f"gap: the loss is {losses.tolist()} in epoch {epoch}; lower the learning rate of "
                f"the optimizer ({LEARNING_RATE:g} by default), or look at the outputs of the model"
            )
        return groups, [float(value) for value in losses]

    def _score(self, group: _Group) -> Array:
        """Return how far the goal is reached on the held-out images, `[]` or `[E]`."""
        state = group.state
        variables = {"params": state.params, **state.model_state}
        reached, count = 0.0, 0.0
        for batch in data.batches(self.held_out, self.batch_size):
            sums = self.score(self.victim, variables, group.eps, batch)
            reached, count = reached + sums[0], count + sums[1]
        return jnp.asarray(reached / count, jnp.float32)


def _keep_best(state: GapState, score: Array) -> GapState:
    """Keep the variables where no score before was higher: of equal ones the later."""
    better = score >= state.best_score
    now = {"params": state.params, **state.model_state}
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), now, state.best)
    return state._replace(best=best, best_score=jnp.maximum(score, state.best_score))


def _flat(values: Sequence[Any]) -> list[float]:
    return [float(v) for value in values for v in np.ravel(np.asarray(value))]


def _trees(members: Sequence[GapState]) -> dict[str, PyTree]:
    """Return the trees of a checkpoint: the best variables apart, all that attacks need."""
    trees: dict[str, PyTree] = {}
    for number, member in enumerate(members):
        rest = member._asdict()
        trees[f"best{number}"] = rest.pop("best")
        trees[f"training{number}"] = rest
    return trees


def _save(
    store: Checkpoints, epoch: int, members: list[GapState], identity: dict[str, Any],
    history: list[dict[str, Any]],
) -> None:  # fmt: skip
    scores = [float(m.best_score) for m in members]
    info = {"identity": identity, "history": history, "scores": scores}
    store.save(epoch, _trees(members), score=float(np.mean(scores)), info=info)


def _restore(
    store: Checkpoints, epoch: int, members: list[GapState], identity: dict[str, Any]
) -> tuple[list[GapState], list[dict[str, Any]]]:
    info = store.info(epoch)
    other = [name for name, value in identity.items() if info["identity"].get(name) != value]
    if other:
        raise ValueError(
            f"{store.folder}: holds another training, which differs in {', '.join(other)}; choose "
            "another folder, or remove this one"
        )
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), _trees(members))
    found = store.restore(epoch, like)
    restored = [
        GapState(best=found[f"best{i}"], **found[f"training{i}"]) for i in range(len(members))
    ]
    return restored, info["history"]


def _check(
    eps: float | Sequence[float], ball: Ball, train: Split, held_out: Split, epochs: int,
    batch_size: int, batches_per_epoch: int, stack: str,
) -> list[float]:  # fmt: skip
    budgets = [float(e) for e in np.ravel(np.asarray(eps, np.float64))]
    if not budgets or not all(0 < e < np.inf for e in budgets):
        raise ValueError(f"eps: expected positive budgets in pixel units, got {eps}")
    threat.check_radius(ball, max(budgets))
    for split in (train, held_out):
        images = np.asarray(split.images)
        if images.dtype != np.uint8:
            attacks.check_pixels(images, ball.bounds)
    if ball.rows is not None:
        raise ValueError("ball: a generator is trained in one ball, not in one for each image")
    if not len(train) or not len(held_out):
        raise ValueError("train and held_out: both need images")
    for name, value in (("epochs", epochs), ("batch_size", batch_size),
                        ("batches_per_epoch", batches_per_epoch)):  # fmt: skip
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    if stack not in _STACKS:
        raise ValueError(f"stack: {stack!r} is unknown; use {', '.join(_STACKS)}")
    return budgets
