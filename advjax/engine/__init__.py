"""Evaluation of attacks over many budgets.

`reference` is the brute force: every example, every budget, every step. It is slow and simple on
purpose, and stays as the oracle of everything faster.
"""

from advjax.engine._reference import MakeAttack, ReferenceRows, evaluate_clean, reference

__all__ = ["MakeAttack", "ReferenceRows", "evaluate_clean", "reference"]
