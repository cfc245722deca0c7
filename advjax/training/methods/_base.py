"""What a training method is, what it attacks with, and the loss that the plain methods share."""

from collections.abc import Callable
from typing import Any, NamedTuple

from advjax.training.methods._draws import Draws
from advjax.types import Array, Attack, Batch, Objective, PyTree

CLEAN = "clean"


class Aux(NamedTuple):
    """What a loss returns besides its value.

    Attributes:
      model_state: the collections after this step (running statistics).
      method_state: the method's state after this step.
      metrics: name -> `[B]`, one value per example (padding rows included; the step masks them).
    """

    model_state: PyTree
    method_state: PyTree
    metrics: dict[str, Array]


class Method(NamedTuple):
    """A training method: which loss the parameters descend.

    `loss` is `objective` after `prepare`; a wrapper (`awp`) takes the two apart.

    Attributes:
      name: for reports.
      init: `(params) -> method_state`, a pytree of arrays (may be empty).
      loss: `(apply, params, model_state, batch, key, method_state) -> (loss [], Aux)`; pure,
        differentiable in `params`. The loss is the mean over the valid rows of the batch.
        `key` is one key, or `[B]` keys, one per example.
      prepare: of the same arguments: whatever is made without a gradient, such as attacked
        images.
      objective: of the same arguments and what `prepare` returned: the loss.
      replays: updates that one step makes with its batch.
      learn: None, or `(method_state, gradient, batch) -> method_state`: the step then
        differentiates the loss in the method's state too, by the same backward pass.
    """

    name: str
    init: Callable[[PyTree], PyTree]
    loss: Callable[..., tuple[Array, Aux]]
    prepare: Callable[..., PyTree]
    objective: Callable[..., tuple[Array, Aux]]
    replays: int = 1
    learn: Callable[[PyTree, PyTree, Batch], PyTree] | None = None


def compose(
    name: str,
    init: Callable[[PyTree], PyTree],
    prepare: Callable[..., PyTree],
    objective: Callable[..., tuple[Array, Aux]],
) -> Method:
    """Make a method of its two halves; see `Method`."""

    def loss(*args: Any) -> tuple[Array, Aux]:
        return objective(*args, prepare(*args))

    return Method(name, init, loss, prepare, objective)


def no_preparation(*args: Any) -> dict[str, Array]:
    """Prepare nothing."""
    del args
    return {}


class Inner(NamedTuple):
    """The attack inside a training method.

    Attributes:
      name: folded into the keys, so that two attacks do not share their starts.
      make: `(objective) -> Attack`; called inside the traced step.
      eps: budget in the units of the ball. It lives in the method's state under the name of the
        version, as an array, so that `vmap` over budgets needs no new trace.
      batch_norm: `"eval"`: attack the network as it is deployed (running statistics);
        `"batch"`: as it trains (statistics of the attacked batch).
      noise: None: the attack's own start; else the standard deviation, in pixel units, of the
        Gaussian noise that it starts with.
      draws: None: `eps` and all steps for every row; else what each row draws.
    """

    name: str
    make: Callable[[Objective], Attack]
    eps: float
    batch_norm: str = "eval"
    noise: float | None = None
    draws: Draws | None = None


class Helper(NamedTuple):
    """Another model that a method looks at: HAT's standard model, the teacher of distillation.

    Attributes:
      apply: of the model, called in evaluation mode.
      variables: of the model; they live in the method's state.
    """

    apply: Callable[..., Any]
    variables: PyTree


class Context(NamedTuple):
    """What a method may have to know besides its config.

    Attributes:
      image_shape: `(H, W, C)`; `free` needs it.
      helper: `hat` and `distillation` need it.
    """

    image_shape: tuple[int, ...] | None = None
    helper: Helper | None = None
