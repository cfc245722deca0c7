"""What can be said of a training config before anything is loaded or compiled."""

import dataclasses
import inspect
import math

import numpy as np

from advjax import attacks, data, losses, models, threat
from advjax.config import TrainConfig
from advjax.tasks import TASKS, get_task
from advjax.training import _overfitting, methods
from advjax.training._config_io import config_from_dict, config_to_dict

SELECT_BY = ("auto", "clean", "robust")
# methods without an attack
UNATTACKED = ("standard", "distillation", "gradient")


def with_defaults(config: TrainConfig) -> TrainConfig:
    """Return a config whose validation fits: the norm of training, no steps for FGSM, pixels.

    What was left at its default follows; what was set is kept.
    """
    attack, default = config.val_attack, TrainConfig().val_attack
    if attack.norm == default.norm and config.val_eps is None and config.norm in threat.BALLS:
        attack = dataclasses.replace(attack, norm=config.norm)
    if attack.num_steps == default.num_steps and attack.name in attacks.ATTACKS:
        options = inspect.signature(attacks.ATTACKS[attack.name]).parameters
        if "num_steps" not in options:
            attack = dataclasses.replace(attack, num_steps=None)
    config = dataclasses.replace(config, val_attack=attack)
    if config.space == "normalised" and config.val_eps is None:
        config = dataclasses.replace(config, val_eps=pixel_eps(config))
    return config


def pixel_eps(config: TrainConfig) -> float:
    """Return the budget of training in pixel units, of the channel that may move furthest."""
    if config.space != "normalised":
        return config.eps
    return float(config.eps * np.max(config.model.std))


def check_config(config: TrainConfig) -> None:
    """Check numbers and names; the data is not looked at.

    Raises:
      ValueError: naming the field and the remedy.
    """
    config_from_dict(config_to_dict(config), type(config))  # the types of all fields
    for name in ("epochs", "batch_size", "checkpoint_every", "devices"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(config, name)}")
    if config.batch_size % config.devices:
        raise ValueError(
            f"batch_size: {config.batch_size} cannot be split over {config.devices} devices; "
            f"use a multiple, for instance {-(-config.batch_size // config.devices)} per device: "
            f"{-(-config.batch_size // config.devices) * config.devices}"
        )
    if config.ema is not None and not 0 < config.ema < 1:
        raise ValueError(f"ema: must be in (0, 1), got {config.ema}; None switches it off")
    if config.seed < 0 or config.seed > 2**32 - 1:
        raise ValueError(f"seed: must be in [0, 2**32), got {config.seed}")
    if config.select_by not in SELECT_BY:
        raise ValueError(
            f"select_by: unknown {config.select_by!r}; use one of {', '.join(SELECT_BY)}"
        )
    if config.on_overfitting not in _overfitting.POLICIES:
        raise ValueError(
            f"on_overfitting: unknown {config.on_overfitting!r}; use one of "
            f"{', '.join(_overfitting.POLICIES)}"
        )
    # building them is cheap, and says what is unknown before any data is loaded
    methods.build(config, config.data.task if config.data.task in TASKS else "single")
    models.build(config.model, num_classes=2)
    _check_validation(config)


def check_channels(config: TrainConfig, channels: int) -> None:
    """Check that mean and std are one number, or one for each channel of the images.

    Raises:
      ValueError: they are not.
    """
    for name in ("mean", "std"):
        given = np.size(getattr(config.model, name))
        if given not in (1, channels):
            raise ValueError(
                f"model.{name}: gives {given} numbers, but the images have {channels} channel(s); "
                "give one, or one for each"
            )


def _check_validation(config: TrainConfig) -> None:
    attack = config.val_attack
    if attack.name not in attacks.ATTACKS:
        raise ValueError(
            f"val_attack.name: unknown {attack.name!r}; use one of "
            f"{', '.join(sorted(attacks.ATTACKS))}"
        )
    attack.check("val_attack")
    plain = attacks.from_logits(lambda x: x, loss=losses.cross_entropy)
    attacks.by_name(
        attack.name, plain, threat.by_name(attack.norm),
        num_steps=attack.num_steps, step_size=attack.step_size,
    )  # fmt: skip
    if config.val_eps is None and attack.norm != config.norm:
        raise ValueError(
            f"val_attack.norm is {attack.norm!r} but norm is {config.norm!r}, so that eps cannot "
            "serve both; make them equal or set val_eps"
        )
    if config.val_eps is not None and not 0 <= config.val_eps < math.inf:
        raise ValueError(f"val_eps: must not be negative nor infinite, got {config.val_eps}")
    if config.val_examples is not None and config.val_examples < 0:
        raise ValueError(f"val_examples: must not be negative, got {config.val_examples}")
    if config.val_examples == 0 and selects_robust(config):
        raise ValueError(
            "val_examples: 0 switches robust validation off, but the best checkpoint is chosen "
            "by it; set select_by='clean' or give some examples"
        )


def uses_eps(config: TrainConfig) -> bool:
    """Whether `eps` is a budget of training: not of methods without an attack or with a range."""
    other = dataclasses.replace(config, eps=config.eps + 1)
    moves = methods.trained_eps(config) != methods.trained_eps(other)
    return config.method not in UNATTACKED and moves


def uses_beta(config: TrainConfig) -> bool:
    """Whether the method weighs by `beta`."""
    return config.method in ("trades", "mart", "maadvt", "hat")


def selects_robust(config: TrainConfig) -> bool:
    """Whether the robust score of the validation split picks the best checkpoint."""
    if config.select_by == "auto":
        return config.method not in UNATTACKED
    return config.select_by == "robust"


def score_name(config: TrainConfig, task: str) -> str:
    """Return the record that picks the best checkpoint, for instance `val_accuracy`.

    Mean AUROC for several labels, Dice for masks, mean average precision for boxes; balanced
    accuracy where sampling is balanced; else accuracy.
    """
    kind = "balanced_accuracy" if config.balanced else get_task(task).score
    return f"robust_{kind}" if selects_robust(config) else f"val_{kind}"


def check_splits(config: TrainConfig, task: str, sizes: dict[str, int], num_classes: int) -> None:
    """Check that there is enough to train on and to select by.

    Raises:
      ValueError: a split is missing or too small, there is one class only, or sampling cannot be
        balanced.
    """
    if task == "single" and num_classes < 2:
        raise ValueError(
            f"data.source: every image of {config.data.source!r} has the same class; a classifier "
            "needs at least two"
        )
    for name in ("train", "val"):
        if not sizes.get(name):
            raise ValueError(
                f"data.source: {config.data.source!r} has no {name!r} split; training needs "
                "'train' to fit and 'val' to select by (never 'test')"
            )
    if sizes["train"] < config.batch_size:
        raise ValueError(
            f"batch_size: {config.batch_size} is more than the {sizes['train']} training images; "
            f"use at most {sizes['train']}"
        )
    gives = models.output_of(config.model.name)
    if gives == "image":
        raise ValueError(
            f"model.name: {config.model.name} makes perturbations; `advjax evaluate --attacks gap` "
            "trains one against a model; use a network of labels or masks"
        )
    if task != "detection" and gives != "boxes" and (gives == "pixels") != (task == "segmentation"):
        name = config.model.name
        raise ValueError(
            f"model.name: {name} gives {gives}, but {config.data.source} has masks; use unet or "
            "segnet, or data.task single where it has labels too"
            if task == "segmentation"
            else f"model.name: {name} gives {gives}, but the data have labels; use another one, or "
            "data.task segmentation where they have masks too"
        )
    boxes = gives == "boxes"
    if boxes != (task == "detection"):
        raise ValueError(
            f"model.name: {config.model.name} finds boxes, which {task} data do not have; use "
            "another one, or data.task detection"
            if boxes
            else f"model.name: {config.model.name} finds no boxes; use centernet for data.task "
            "detection"
        )
    why = attacks.misfit(config.val_attack.name, task)
    if why:
        raise ValueError(f"val_attack.name: {config.val_attack.name} {why}")
    if config.balanced and task != "single":
        raise ValueError("balanced: class-balanced sampling needs single-label data; leave it off")


def check_detection(config: TrainConfig, boxes: np.ndarray) -> None:
    """Check what only detectors need.

    Args:
      config: of the run.
      boxes: `[N, M, 5]` of the validation split.

    Raises:
      ValueError: augmentations that boxes cannot follow, or no box to select by.
    """
    data.check_boxes(config.augment)
    if not (boxes[..., 0] >= 0).any():
        raise ValueError(
            "the validation split has no box, so that no average precision exists to select by; "
            "take more validation images (data.num_val)"
        )


def check_ranking(targets: np.ndarray) -> None:
    """Check that a mean AUROC exists for a multi-label validation split.

    Raises:
      ValueError: no label has both a positive and a negative example.
    """
    if not ((targets > 0).any(0) & (targets == 0).any(0)).any():
        raise ValueError(
            "the validation split has no label with both a positive and a negative example, so "
            "that no AUROC exists to select by; take more validation images (data.num_val)"
        )
