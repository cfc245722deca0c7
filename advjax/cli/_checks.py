"""What can be said of an evaluation before a model is loaded or a file written."""

import math
from pathlib import Path

from advjax import attacks, engine
from advjax.cli._main import warn
from advjax.cli._subjects import AUTOATTACK, TRAINED
from advjax.cli._torch import check_torch
from advjax.config import TRAINING, AttackConfig, EvaluateConfig, SweepConfig

# below this, an l2 ball is smaller than what any image shows: the budgets were meant for linf
_SMALL_L2 = 0.1
GRADIENT_DTYPES = ("float32", "bfloat16")


def check_evaluation(config: EvaluateConfig | SweepConfig) -> None:
    """Check folders, names and numbers; warn of budgets that mean little.

    Raises:
      ValueError: naming the field and the remedy.
    """
    if isinstance(config, EvaluateConfig):
        check_torch(config)
    _check_folders(config)
    for name in ("restarts", "batch_size", "bootstrap", "num_examples"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    for name in ("panels", "seed"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name}: must not be negative, got {getattr(config, name)}")
    if config.gradient_dtype not in GRADIENT_DTYPES:
        known = " or ".join(GRADIENT_DTYPES)
        raise ValueError(f"gradient_dtype: {config.gradient_dtype!r} is unknown; use {known}")
    wanted = [_attack(text) for text in config.attacks]
    if not wanted:
        raise ValueError("attacks: name at least one, such as --attacks pgd")
    exact = [a.name for a in wanted if a.name in (AUTOATTACK, *TRAINED)]
    if config.gradient_dtype != "float32" and exact:
        raise ValueError(f"gradient_dtype: {exact[0]} takes float32; evaluate it on its own")
    _check_budgets(config.epsilons, wanted)


def check_sweep(config: SweepConfig) -> None:
    """Check folders, names and numbers of a sweep.

    Raises:
      ValueError: naming the field and the remedy.
    """
    check_evaluation(config)
    trained = [text for text in config.attacks if AttackConfig.parse(text).name in TRAINED]
    if trained:
        raise ValueError(
            f"attacks: {trained[0]} is trained for each budget by itself, so that there is nothing "
            "to search for; use advjax evaluate"
        )
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise ValueError(f"seeds: expected different numbers from 0 on, got {config.seeds}")
    if config.order not in engine.ORDERS:
        raise ValueError(f"order: {config.order!r} is unknown; use {', '.join(engine.ORDERS)}")
    if config.warm_start and config.order != "ascending":
        raise ValueError(
            f"warm_start: only a climb goes on from its last failure: use order ascending, not "
            f"{config.order}"
        )
    if config.quantise not in (None, 8, 12, 16):
        raise ValueError(f"quantise: must be 8, 12 or 16 bits, got {config.quantise}")
    if config.stack not in ("auto", "vmap", "map", "off"):
        raise ValueError(f"stack: {config.stack!r} is unknown; use auto, vmap, map or off")
    for name, least in (("slots", 1), ("memory_limit_mb", 1), ("devices", 0), ("stack_size", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name}: must be at least {least}, got {value}")
    shard_of(config.shard)


def shard_of(text: str) -> tuple[int, int]:
    """Read `i/n`.

    Raises:
      ValueError: it is not 0 <= i < n.
    """
    first, _, second = text.partition("/")
    if first.isdecimal() and second.isdecimal() and int(first) < int(second):
        return int(first), int(second)
    raise ValueError(f"shard: expected i/n with 0 <= i < n, such as 0/4, got {text!r}")


def _check_folders(config: EvaluateConfig | SweepConfig) -> None:
    """Refuse a run named twice, and to write into the folder of a run."""
    torch = isinstance(config, EvaluateConfig) and config.torch_weights is not None
    if not config.runs and not torch:
        raise ValueError("runs: name at least one folder that `advjax train` wrote: --runs FOLDER")
    places = [Path(run).resolve() for run in config.runs]
    for index, (run, place) in enumerate(zip(config.runs, places, strict=True)):
        if place in places[:index]:
            raise ValueError(f"runs: {run} is named twice; name each run once")
    out = Path(config.out)
    holds_run = (out / "checkpoints").exists() or (out / "metrics.jsonl").exists()
    if out.resolve() in places or holds_run:
        raise ValueError(
            f"out: {out} is the folder of a training run, which the evaluation would overwrite; "
            f"choose another one, such as --out {out}-robustness"
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; name a folder")


def _attack(text: str) -> AttackConfig:
    found = AttackConfig.parse(text)
    if found.name == AUTOATTACK:
        if found.num_steps is not None or found.step_size is not None:
            raise ValueError(f"attacks: {text}: autoattack has the steps that were published")
        if (found.loss, found.criterion, found.goal) != (None, None, None):
            raise ValueError(f"attacks: {text}: autoattack has the losses that were published")
        if found.version not in (None, *engine.VERSIONS):
            known = ", ".join(engine.VERSIONS)
            raise ValueError(f"attacks: {text}: unknown version; known: {known}")
    elif found.name in TRAINED:
        _check_trained(text, found)
    elif found.version is not None:
        raise ValueError(f"attacks: {text}: only autoattack, uap and gap have versions")
    elif found.name not in attacks.ATTACKS:
        known = ", ".join(sorted({*attacks.ATTACKS, *TRAINED, AUTOATTACK}))
        raise ValueError(f"attacks: {found.name!r} is unknown; known: {known}")
    extra = [name for name in TRAINING if getattr(found, name) is not None]
    if extra and found.name not in TRAINED:
        raise ValueError(f"attacks: {text}: only uap and gap are trained; leave {extra[0]} out")
    found.check(f"attacks: {text}")
    return found


def _check_trained(text: str, found: AttackConfig) -> None:
    """Refuse options that a trained attack would not heed."""
    versions = {"uap": ("deepfool", "sign"), "gap": ("image", "universal")}[found.name]
    if found.version not in (None, *versions):
        raise ValueError(f"attacks: {text}: unknown version; known: {', '.join(versions)}")
    if found.num_steps is not None:
        raise ValueError(f"attacks: {text}: it moves once; epochs says how long it is trained")
    if found.name == "gap":
        if found.images == 1:
            raise ValueError(f"attacks: {text}: needs 2 images, of which one chooses the epoch")
        return
    if found.width is not None:
        raise ValueError(f"attacks: {text}: only gap has a network with a width")
    given = [name for name in ("step_size", "loss", "goal") if getattr(found, name) is not None]
    if given and found.version != "sign":
        raise ValueError(
            f"attacks: {text}: DeepFool has no {given[0]}; use uap:version=sign,{given[0]}=..."
        )


def _check_budgets(epsilons: tuple[float, ...], wanted: list[AttackConfig]) -> None:
    steps = zip((0.0, *epsilons), epsilons, strict=False)
    if not epsilons or not all(0 <= a < b < math.inf for a, b in steps):
        raise ValueError(
            "epsilons: must be positive and strictly increasing, in [0, 1] pixel units"
        )
    largest = epsilons[-1]
    if largest > 1 and any(attack.norm == "linf" for attack in wanted):
        raise ValueError(
            f"epsilons: {largest:g} is more than the whole range of pixels; budgets are in [0, 1] "
            "pixel units, for instance 8/255 = 0.0314"
        )
    small = [attack.label() for attack in wanted if attack.norm == "l2"]
    if small and largest < _SMALL_L2:
        warn(
            f"{', '.join(small)}: the largest budget, {largest:.3g}, is very small for the l2 norm "
            "of a whole image; evaluate l2 attacks on their own, such as --epsilons 0.25 0.5 1 2"
        )
