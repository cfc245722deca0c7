"""Attacks as compositions of an objective, a direction, a ball and a start.

    objective = attacks.from_logits(lambda x: model.apply(params, x), loss=losses.cross_entropy)
    attack = attacks.pgd(objective, threat.linf(), num_steps=20, step_size=0.25)
    result = attacks.run(attack, key, x, y, eps)

An attack of your own is a chain of optax transforms:

    direction = optax.chain(optax.scale_by_adam(), attacks.scale_by_eps(0.1))
    attack = attacks.build_attack(objective, direction, threat.linf(), num_steps=40)
"""

from advjax.attacks._aliases import bim, cw_linf, difgsm, fgsm, mifgsm, pgd, rs_fgsm, tifgsm
from advjax.attacks._apgd import apgd
from advjax.attacks._asma import asma
from advjax.attacks._cw_l2 import cw_l2
from advjax.attacks._ddn import ddn
from advjax.attacks._deepfool import deepfool
from advjax.attacks._dense import cospgd, dag, segpgd
from advjax.attacks._directions import (
    normalise_by_max_abs,
    normalise_by_mean_abs,
    scale_by_eps,
    scale_by_step_size_abs,
    smooth_gradient,
    steepest,
)
from advjax.attacks._estimate import nes, spsa
from advjax.attacks._fab import fab
from advjax.attacks._fmn import fmn
from advjax.attacks._gradient import input_gradient
from advjax.attacks._hopskipjump import hopskipjump
from advjax.attacks._kernel import build_attack
from advjax.attacks._nesterov import nifgsm
from advjax.attacks._objective import from_logits
from advjax.attacks._runners import check_pixels, run
from advjax.attacks._simba import simba
from advjax.attacks._smia import smia, with_stabilisation
from advjax.attacks._square import square
from advjax.attacks._table import ATTACKS, by_name, misfit
from advjax.attacks._trained import gap, perturbed, universal
from advjax.attacks._view import with_view
from advjax.attacks._wrappers import ensemble, with_ascent, with_eot, with_input_diversity
from advjax.types import Attack, AttackResult, AttackSpec, AttackState, Cost, Eval, Objective

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackResult",
    "AttackSpec",
    "AttackState",
    "Cost",
    "Eval",
    "Objective",
    "apgd",
    "asma",
    "bim",
    "build_attack",
    "by_name",
    "check_pixels",
    "cospgd",
    "cw_l2",
    "cw_linf",
    "dag",
    "ddn",
    "deepfool",
    "difgsm",
    "ensemble",
    "fab",
    "fgsm",
    "fmn",
    "from_logits",
    "gap",
    "hopskipjump",
    "input_gradient",
    "mifgsm",
    "misfit",
    "nes",
    "nifgsm",
    "normalise_by_max_abs",
    "normalise_by_mean_abs",
    "perturbed",
    "pgd",
    "rs_fgsm",
    "run",
    "scale_by_eps",
    "scale_by_step_size_abs",
    "segpgd",
    "simba",
    "smia",
    "smooth_gradient",
    "spsa",
    "square",
    "steepest",
    "tifgsm",
    "universal",
    "with_ascent",
    "with_eot",
    "with_input_diversity",
    "with_stabilisation",
    "with_view",
]
