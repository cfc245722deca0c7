"""Defences of training against poisoned data.

found = poisoning.trim(x, y, num_kept=80, key=key)
"""

from advjax.poisoning._trim import TrimResult, trim

__all__ = ["TrimResult", "trim"]
