"""An attack that follows other targets than those it is judged by."""

from collections.abc import Callable
from typing import Any

from advjax.types import Array, Attack, AttackResult, AttackState, Objective, Target


def with_view(attack: Attack, view: Callable[[Any], Target], objective: Objective) -> Attack:
    """Return an attack on targets of which it sees a view only.

    Args:
      attack: on what `view` returns.
      view: targets with a leading `[B]` -> targets with a leading `[B]`.
      objective: on the whole targets; what judges the results of the attack.
    """

    def init(
        keys: Array, x0: Array, target: Any, eps: Array, x_start: Array | None = None
    ) -> AttackState:
        return attack.init(keys, x0, view(target), eps, x_start)

    def step(
        state: AttackState, x0: Array, target: Any, eps: Array, freeze: bool = False
    ) -> AttackState:
        return attack.step(state, x0, view(target), eps, freeze)

    def finalize(
        state: AttackState, x0: Array, target: Any, eps: Array, freeze: bool = False
    ) -> AttackResult:
        return attack.finalize(state, x0, view(target), eps, freeze)

    return Attack(init, step, finalize, attack.spec._replace(objective=objective))
