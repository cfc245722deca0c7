"""Whole robustness curves: the smallest budget that breaks each example.

`sweep` runs a pool of slots in one compiled loop: an example that is decided leaves, the next one
enters, and budgets that follow from others are never computed. `reference` is the brute force:
every example, every budget, every step; slow and simple on purpose, the oracle of the rest.
"""

from advjax.engine._autoattack import VERSIONS, AutoAttackResult, autoattack
from advjax.engine._binarisation import BinarisationResult, binarisation_test
from advjax.engine._plan import ORDERS, Verdict
from advjax.engine._reference import MakeAttack, ReferenceRows, evaluate_clean, reference
from advjax.engine._results import SweepResult, with_flags
from advjax.engine._stage import Progress, Tables
from advjax.engine._state import Finished
from advjax.engine._sweep import sweep, sweep_models
from advjax.engine._transfer import TransferResult, transfer_check
from advjax.engine._trust import SIGNS, Flag, Trust, worst_verdict

__all__ = [
    "ORDERS",
    "SIGNS",
    "VERSIONS",
    "AutoAttackResult",
    "BinarisationResult",
    "Finished",
    "Flag",
    "MakeAttack",
    "Progress",
    "ReferenceRows",
    "SweepResult",
    "Tables",
    "TransferResult",
    "Trust",
    "Verdict",
    "autoattack",
    "binarisation_test",
    "evaluate_clean",
    "reference",
    "sweep",
    "sweep_models",
    "transfer_check",
    "with_flags",
    "worst_verdict",
]
