"""One attack, as a config and as the words of the command line."""

import math
import re
from dataclasses import dataclass
from typing import Any

# of an attack, as the command line writes them
TRAINING = ("images", "epochs", "width")
OPTIONS: dict[str, type] = dict.fromkeys(("norm", "version", "loss", "criterion", "goal"), str)
OPTIONS |= {"step_size": float} | dict.fromkeys(("num_steps", *TRAINING), int)


@dataclass(frozen=True)
class AttackConfig:
    """One attack: of an evaluation, or of the robust validation between epochs."""

    name: str = "pgd"
    """`fgsm | rs_fgsm | bim | pgd | apgd | mifgsm | nifgsm | difgsm | tifgsm | cw_linf | smia`; for
    masks and detectors also `segpgd | cospgd | dag | asma`; for the minimal norm `fab | deepfool |
    ddn | fmn | cw_l2`; without gradients `square | simba | spsa | nes | hopskipjump`; in
    evaluations `autoattack | uap | gap`."""
    norm: str = "linf"
    """`linf`, `l2` or `l1`."""
    num_steps: int | None = None
    """Steps; None: as `advjax evaluate --help` lists; fgsm and rs_fgsm take no other."""
    step_size: float | None = None
    """Step relative to eps, of some in pixel units; None: as `advjax evaluate --help` lists."""
    version: str | None = None
    """Of autoattack: `standard` (None), `plus` or `rand`; uap: `deepfool` (None) or `sign`; gap:
    `image` (None: one perturbation each) or `universal`."""
    loss: str | None = None
    """What it ascends; None: the loss of the task. One label `ce`, `margin` or `dlr`; several
    findings `bce` or `margin`; masks `ce` or `dice`; boxes `centernet` or `ce`."""
    criterion: str | None = None
    """What counts as broken. Several findings `any` (None), `all` or `flips2` to `flips5`; masks
    `dice50` (None: mean Dice of the classes below 0.5), `dice25`, `dice75`, or `pixels25`,
    `pixels50`, `pixels75` (share of right pixels below); boxes `missed50` (None: less than half of
    them found), `missed25`, `missed75`, `missed100`."""
    goal: str | None = None
    """Where it leads to; None: anywhere else. `class-NAME` (one label), `hide-NAME` or
    `fabricate-NAME` (a finding; others stay free), `erase` (a mask without any structure)."""
    images: int | None = None
    """Of uap and gap: training images, drawn with the seed; None: 256 and 512, or all there are."""
    epochs: int | None = None
    """Of uap and gap: most passes over them; None: 10, or 15 with `version=sign`."""
    width: int | None = None
    """Of gap: channels of the generator's first level; None: 16 (64 as published)."""

    @classmethod
    def parse(cls, text: str) -> "AttackConfig":
        """Read `NAME` or `NAME:OPTION=VALUE,...`, as the command line has it.

        A comma within a name (`goal=class-nevus\\, blue`) has a backslash before it.

        Raises:
          ValueError: an option is unknown or its value is no number.
        """
        name, _, rest = text.partition(":")
        options: dict[str, Any] = {}
        for part in filter(None, re.split(r"(?<!\\),", rest)):
            key, equals, value = part.replace("\\,", ",").partition("=")
            if key not in OPTIONS or not equals:
                raise ValueError(
                    f"attack {text!r}: {part!r} is no option; write NAME:norm=l2,num_steps=20, or "
                    f"autoattack:norm=l2,version=plus; options are {', '.join(OPTIONS)}; a comma "
                    "within a name is written \\,"
                )
            try:
                options[key] = OPTIONS[key](value)
            except ValueError:
                raise ValueError(f"attack {text!r}: {key} takes numbers") from None
        return cls(name=name, **options)

    def check(self, where: str) -> None:
        """Check norm and numbers; whether the name is known is for the attacks to say.

        Args:
          where: what messages begin with, such as the name of the field.

        Raises:
          ValueError: naming the number and what it may be.
        """
        if self.norm not in ("linf", "l2", "l1"):
            raise ValueError(f"{where}: unknown norm {self.norm!r}; use 'linf', 'l2' or 'l1'")
        for name in ("num_steps", *TRAINING):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{where}: {name} must be at least 1, got {value}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(
                f"{where}: step_size must be a positive number, such as 0.25, got {self.step_size}"
            )

    def label(self) -> str:
        """Return the short name that stands in rows and reports."""
        parts = [self.name]
        if self.version not in (None, "standard", "deepfool", "image"):
            parts.append(self.version)
        if self.num_steps is not None:
            parts.append(str(self.num_steps))
        if self.step_size is not None:
            parts.append(f"step{self.step_size:g}")
        if self.norm != "linf":
            parts.append(self.norm)
        parts += [text for text in (self.loss, self.criterion, self.goal) if text is not None]
        parts += [f"{name}{count}" for name in TRAINING if (count := getattr(self, name))]
        return "-".join(parts)
