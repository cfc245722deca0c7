"""Attacks by name, for the command line, the engine and the contract tests."""

import inspect
from collections.abc import Callable
from typing import Any

from advjax.attacks._aliases import bim, cw_linf, difgsm, fgsm, mifgsm, pgd, rs_fgsm, tifgsm
from advjax.attacks._apgd import apgd
from advjax.attacks._asma import asma
from advjax.attacks._cw_l2 import cw_l2
from advjax.attacks._ddn import ddn
from advjax.attacks._deepfool import deepfool
from advjax.attacks._dense import cospgd, dag, segpgd
from advjax.attacks._estimate import nes, spsa
from advjax.attacks._fab import fab
from advjax.attacks._fmn import fmn
from advjax.attacks._hopskipjump import hopskipjump
from advjax.attacks._nesterov import nifgsm
from advjax.attacks._simba import simba
from advjax.attacks._smia import smia
from advjax.attacks._square import square
from advjax.attacks._trained import gap, universal
from advjax.types import Attack, Ball, Objective

# those that compare logits of labels, and make nothing of masks and boxes
_OF_LABELS = ("cw_l2", "cw_linf", "ddn", "deepfool", "fab", "fmn")
# those that compare logits of classes, of an image or of a pixel, and make nothing of findings
_OF_CLASSES = ("asma", "cospgd", "cw_linf", "dag", "fab", "segpgd")

ATTACKS: dict[str, Callable[..., Attack]] = {
    "apgd": apgd,
    "asma": asma,
    "bim": bim,
    "cospgd": cospgd,
    "cw_l2": cw_l2,
    "cw_linf": cw_linf,
    "dag": dag,
    "ddn": ddn,
    "deepfool": deepfool,
    "difgsm": difgsm,
    "fab": fab,
    "fgsm": fgsm,
    "fmn": fmn,
    "gap": gap,
    "hopskipjump": hopskipjump,
    "mifgsm": mifgsm,
    "nes": nes,
    "nifgsm": nifgsm,
    "pgd": pgd,
    "rs_fgsm": rs_fgsm,
    "segpgd": segpgd,
    "simba": simba,
    "smia": smia,
    "spsa": spsa,
    "square": square,
    "tifgsm": tifgsm,
    "universal": universal,
}
"""Name -> factory `(objective, ball, *, ...) -> Attack`."""


def misfit(name: str, task: str) -> str | None:
    """Return why an attack makes nothing of the outputs of a task, and what does; None: it fits.

    Args:
      name: in `ATTACKS`.
      task: `"single"`, `"multi"`, `"segmentation"` or `"detection"`.
    """
    if task == "multi" and name in _OF_CLASSES:
        return "compares the logits of classes, which findings do not have; use pgd:loss=margin"
    if task in ("segmentation", "detection") and name in _OF_LABELS:
        what = "masks" if task == "segmentation" else "boxes"
        return (
            f"compares the logits of labels, which {what} do not have; use pgd, apgd, smia, "
            "segpgd, cospgd, dag or asma"
        )
    return None


def by_name(name: str, objective: Objective, ball: Ball, **options: Any) -> Attack:
    """Build an attack from its name; an option that is None is left at its default.

    Raises:
      ValueError: the attack is unknown, or it has no such option.
    """
    if name not in ATTACKS:
        raise ValueError(f"attack {name!r} is unknown; known: {', '.join(sorted(ATTACKS))}")
    given = {k: v for k, v in options.items() if v is not None}
    known = set(inspect.signature(ATTACKS[name]).parameters) - {"objective", "ball"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(
            f"attack {name!r} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    return ATTACKS[name](objective, ball, **given)
