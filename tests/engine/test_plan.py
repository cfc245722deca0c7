"""The planner alone, played by hand against tables of verdicts; no model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.engine import _plan
from advjax.engine._plan import Verdict

E = 16
RUN = {
    order: jax.jit(lambda v, b, f, o=order: _plan.next_run(o, v, b, f)) for order in _plan.ORDERS
}


def play(order, truth, first=0, restarts=1):
    """Follow the plan where `truth[restart, budget]` says what succeeds; return best and visits."""
    verdicts = np.zeros((restarts, E), np.int8)
    best, visited = E, []
    for _ in range(restarts * E + 1):
        restart, budget = map(int, RUN[order](verdicts, jnp.int32(best), jnp.int32(first)))
        if budget < 0:
            return best, visited
        assert verdicts[restart, budget] == Verdict.UNKNOWN, "nothing is computed twice"
        visited.append((restart, budget))
        won = truth[restart, budget]
        verdicts[restart, budget] = Verdict.CLAIMED if won else Verdict.FAILED
        best = min(best, budget) if won else best
    raise AssertionError("the plan does not end")


def monotone(best):
    return (np.arange(E) >= best)[None]


@pytest.mark.parametrize("order", _plan.ORDERS)
@pytest.mark.parametrize("first", [0, 7, E - 1])
@pytest.mark.parametrize("best", range(E + 1))
def test_the_smallest_solved_budget_is_found(order, first, best):
    found, visited = play(order, monotone(best), first)
    assert found == best
    if order == "exhaustive":
        assert len(visited) == E
    if order == "ascending":
        assert visited == [(0, e) for e in range(min(best + 1, E))]
    if order == "search":
        # the verdict rests on a success at `best` and on a failure just below
        assert best in (0,) or (0, best - 1) in visited
        assert best == E or (0, best) in visited


def test_a_good_estimate_costs_two_runs():
    for best in range(1, E):
        assert len(play("search", monotone(best), best)[1]) == 2


def test_a_climb_never_misses_what_the_exhaustive_order_finds():
    rng = np.random.default_rng(0)
    for _ in range(50):
        truth = rng.uniform(size=(3, E)) < 0.3  # not monotone at all
        assert play("ascending", truth, restarts=3)[0] == play("exhaustive", truth, restarts=3)[0]


def test_what_one_restart_solved_no_other_sees():
    truth = np.stack([np.arange(E) >= 9, np.arange(E) >= 5])
    for order in ("ascending", "search"):
        best, visited = play(order, truth, 8, restarts=2)
        assert best == 5
        assert all(budget < 9 for restart, budget in visited if restart == 1)


def test_a_rejected_success_counts_as_a_failure():
    verdicts = np.zeros((1, E), np.int8)
    verdicts[0, 6] = Verdict.REJECTED
    verdicts[0, 9] = Verdict.VERIFIED
    _, budget = RUN["search"](verdicts, jnp.int32(9), jnp.int32(0))
    assert 6 < budget < 9


def test_estimates_become_budgets():
    epsilons = jnp.linspace(0.01, 0.16, E)
    at = [int(_plan.first_index(jnp.float32(e), epsilons)) for e in (0, 0.05, 1, jnp.inf)]
    assert at[0] == 0
    assert 4 < at[1] < 9
    assert at[2:] == [E - 1, E - 1]
