"""Find out how robust a medical image model is.

Attacks, defences and evaluation as pure functions that `jit`, `vmap`, `pmap` and `shard_map`:

    import jax, advjax
    from advjax import attacks, losses, threat

    @jax.jit
    def attacked(params, key, x, y, eps):
        objective = attacks.from_logits(lambda x: model.apply(params, x),
                                        loss=losses.cross_entropy)
        attack = attacks.pgd(objective, threat.linf(), num_steps=20, step_size=0.25)
        return attacks.run(attack, key, x, y, eps)

Importing `advjax` loads nothing that jax, numpy, optax and chex do not load; its packages are
imported when first used, so that the command line answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from advjax._version import __version__

if TYPE_CHECKING:
    from advjax import attacks, criteria, losses, random, threat, types
    from advjax.status import Status

_LAZY = ("analysis", "attacks", "checkpoint", "criteria", "data", "engine", "losses", "metrics",
         "models", "poisoning", "privacy", "random", "report", "status", "store", "testing",
         "threat", "training", "types")  # fmt: skip

__all__ = [
    "Status",
    "__version__",
    "attacks",
    "criteria",
    "losses",
    "random",
    "threat",
    "types",
]


def __getattr__(name: str) -> Any:
    """Import a package on first use, so that `import advjax` stays light."""
    if name in _LAZY:
        return importlib.import_module(f"advjax.{name}")
    if name == "Status":
        return importlib.import_module("advjax.status").Status
    raise AttributeError(f"module 'advjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LAZY])
