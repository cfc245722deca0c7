"""Attacks against those of Foolbox, torchattacks and ART on the same nets."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import _golden_nets
import jax
import jax.numpy as jnp
import numpy as np
from _parity_goldens import Measured, Net, distances, fgsm, judged, mifgsm, pgd, pgd_l2, run

from advjax import attacks, losses, threat

EXACT = 1e-6  # of points, where both are in float64
CLOSE = 1e-3  # of losses, and of pixels that differ, where the peer has float32 only
CW_STEPS = 300  # for each of 9 constants

# what is compared point by point from the clean image: our attack, and the golden's budget
FIXED = {
    ("fgsm", "linf"): (fgsm, "fgsm/eps"),
    ("pgd", "linf"): (pgd, "pgd/eps"),
    ("pgd", "l2"): (pgd_l2, "pgd_l2/eps"),
    ("mifgsm", "linf"): (mifgsm, "fgsm/eps"),
}
# what is compared by distances
MINIMAL: dict[str, Callable[..., attacks.Attack]] = {
    "ddn": attacks.ddn,
    "deepfool": attacks.deepfool,
    "fmn": attacks.fmn,
    "cw_l2": functools.partial(attacks.cw_l2, num_steps=CW_STEPS),
}
ORDER = {"l0": 0, "l1": 1, "l2": 2, "linf": np.inf}

# known to be wrong, or to be another attack: not compared
_CW = (
    "multiplies the true logit by zero instead of leaving it out, which is wrong where all logits "
    "are negative (its issue 184), and searches no constant"
)
_AUTO = (
    "differs from the official one (its issues 59, 164, 188): its gradient attacks make 10 steps, "
    "not 100; timed by bench_autoattack.py"
)
_FMN = (
    "ends 20 to 40 times (l2), twice (l0) as far as the reference code, which the goldens hold: "
    "medians of both nets"
)
DEFECTS = {
    "foolbox": (
        ("mifgsm", "adds up gradients without dividing each by its l1 norm"),
        ("fmn in l2 and l0", _FMN),
        ("apgd, fab, square, autoattack", "not there"),
    ),
    "torchattacks": (
        ("cw_l2", _CW),
        ("apgd", "10 steps by default, at which nearly every step is a check; takes no start"),
        ("difgsm, tifgsm", "no momentum by default, one resize for the whole batch"),
        ("autoattack", _AUTO),
    ),
    "art": (
        ("autoattack", "has DeepFool in place of FAB"),
        ("apgd", "takes no start, and is weak in l1"),
        ("cw_l2", "10 steps by default, image by image"),
        ("cw_linf", "deviates from the published attack (its issue 1374)"),
    ),
}


class Case(NamedTuple):
    """What a peer is given: torch nets, images and labels, in float64 and in float32."""

    net: Net
    rows: np.ndarray
    eps: float

    @property
    def golden(self) -> dict[str, np.ndarray]:
        return self.net.golden

    @property
    def x(self) -> np.ndarray:
        return np.asarray(self.net.x)[self.rows]

    @property
    def y(self) -> np.ndarray:
        return np.asarray(self.net.y)[self.rows]

    def twin(self, dtype: type = np.float64) -> Any:
        weights = _golden_nets.weights(self.golden)
        return _golden_nets.torch_twin({k: v.astype(dtype) for k, v in weights.items()}, (2, 2))


Attack = Callable[[Case], np.ndarray]


def _foolbox(name: str, **options: Any) -> Attack:
    """Return an attack of Foolbox; options that are functions are asked of the case."""

    def attack(case: Case) -> np.ndarray:
        import foolbox
        import torch

        given = {k: v(case.golden) if callable(v) else v for k, v in options.items()}
        model = foolbox.PyTorchModel(case.twin(), bounds=(0, 1), device="cpu")
        images, labels = _golden_nets.to_torch(case.x), torch.tensor(case.y)
        eps = case.eps if np.isfinite(case.eps) else None
        found = getattr(foolbox.attacks, name)(**given)(model, images, labels, epsilons=eps)
        return _golden_nets.from_torch(found[1])

    return attack


def _torchattacks(name: str, *, budget: bool = True, **options: Any) -> Attack:
    def attack(case: Case) -> np.ndarray:
        import torch
        import torchattacks

        given = {k: v(case.golden) if callable(v) else v for k, v in options.items()}
        given |= {"eps": case.eps} if budget else {}
        found = getattr(torchattacks, name)(case.twin(), **given)(
            _golden_nets.to_torch(case.x), torch.tensor(case.y)
        )
        return _golden_nets.from_torch(found)

    return attack


def _art(name: str, *, budget: bool = True, **options: Any) -> Attack:
    def attack(case: Case) -> np.ndarray:
        import art.attacks.evasion
        import torch
        from art.estimators.classification import PyTorchClassifier

        given = {k: v(case.golden) if callable(v) else v for k, v in options.items()}
        given |= {"eps": case.eps} if budget else {}
        images = np.moveaxis(case.x, -1, 1).astype(np.float32)
        classifier = PyTorchClassifier(
            case.twin(np.float32), torch.nn.CrossEntropyLoss(), images.shape[1:],
            case.golden["logits"].shape[1], clip_values=(0, 1), device_type="cpu",
        )  # fmt: skip
        found = getattr(art.attacks.evasion, name)(classifier, batch_size=len(images), **given)
        return np.moveaxis(found.generate(images, case.y), 1, -1).astype(np.float64)

    return attack


def _of(key: str, kind: type = float) -> Callable[[dict[str, np.ndarray]], Any]:
    return lambda golden: kind(golden[key])


_LINF = {"steps": _of("pgd/num_steps", int), "random_start": False}
_L2 = {"steps": _of("pgd_l2/num_steps", int), "random_start": False}
_ART = {"num_random_init": 0, "verbose": False}

ATTACKS: tuple[tuple[str, str, str, Attack], ...] = (
    ("foolbox", "fgsm", "linf", _foolbox("FGSM", random_start=False)),
    ("torchattacks", "fgsm", "linf", _torchattacks("FGSM")),
    ("art", "fgsm", "linf", _art("FastGradientMethod", norm=np.inf)),
    ("foolbox", "pgd", "linf", _foolbox("LinfPGD", abs_stepsize=_of("pgd/step_size"), **_LINF)),
    ("torchattacks", "pgd", "linf", _torchattacks("PGD", alpha=_of("pgd/step_size"), **_LINF)),
    ("art", "pgd", "linf", _art(
        "ProjectedGradientDescent", norm=np.inf, eps_step=_of("pgd/step_size"),
        max_iter=_of("pgd/num_steps", int), **_ART)),
    ("foolbox", "pgd", "l2", _foolbox("L2PGD", abs_stepsize=_of("pgd_l2/step_size"), **_L2)),
    ("torchattacks", "pgd", "l2", _torchattacks("PGDL2", alpha=_of("pgd_l2/step_size"), **_L2)),
    ("art", "pgd", "l2", _art(
        "ProjectedGradientDescent", norm=2, eps_step=_of("pgd_l2/step_size"),
        max_iter=_of("pgd_l2/num_steps", int), **_ART)),
    ("torchattacks", "mifgsm", "linf", _torchattacks(
        "MIFGSM", alpha=lambda golden: float(golden["fgsm/eps"] / golden["mifgsm/num_steps"]),
        steps=_of("mifgsm/num_steps", int), decay=_of("mifgsm/mu"))),
    ("foolbox", "ddn", "l2", _foolbox("DDNAttack", steps=100)),
    ("foolbox", "deepfool", "l2", _foolbox("L2DeepFoolAttack")),
    ("torchattacks", "deepfool", "l2", _torchattacks("DeepFool", budget=False)),
    ("art", "deepfool", "l2", _art("DeepFool", budget=False, epsilon=0.02, verbose=False)),
    ("foolbox", "deepfool", "linf", _foolbox("LinfDeepFoolAttack")),
    ("foolbox", "fmn", "linf", _foolbox("LInfFMNAttack", steps=100)),
    ("foolbox", "fmn", "l1", _foolbox("L1FMNAttack", steps=100)),
    ("foolbox", "cw_l2", "l2", _foolbox("L2CarliniWagnerAttack", steps=CW_STEPS)),
)  # fmt: skip


def rows(net: Net, wanted: Callable[[str], bool], peers: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one net; our side of an attack is computed once."""
    ours: dict[tuple[str, str], Any] = {}
    for peer, attack, norm, theirs in ATTACKS:
        if peer not in peers or not wanted(attack):
            continue
        if (attack, norm) not in ours:
            ours[attack, norm] = _ours(net, attack, norm)
        named = {
            "attack": attack, "norm": norm, "loss": "ce" if (attack, norm) in FIXED else "-",
            "net": net.name, "against": peer,
        }  # fmt: skip
        for measured in _compared(net, attack, norm, peer, theirs, ours[attack, norm]):
            yield {**named, **judged(measured)}


def _ours(net: Net, attack: str, norm: str) -> Any:
    if (attack, norm) in FIXED:
        build, eps = FIXED[attack, norm]
        return run(
            lambda objective: build(objective, net.golden), net.objective(), net.x, net.y,
            net.golden[eps], net.x,
        ).x_adv  # fmt: skip
    at = net.golden["correct_index"]
    return run(
        lambda objective: MINIMAL[attack](objective, threat.by_name(norm)), net.objective(),
        net.x[at], net.y[at], jnp.inf,
    ).distance  # fmt: skip


def _compared(
    net: Net, attack: str, norm: str, peer: str, theirs: Attack, ours: Any
) -> list[Measured]:
    if (attack, norm) not in FIXED:
        case = Case(net, net.golden["correct_index"], np.inf)
        # row by row ours follows the reference code (the goldens), from which peers deviate
        reached = _reached(case, theirs(case), norm)
        return [m for m in distances(ours, reached) if m.what != "worst distance"]
    case = Case(net, np.arange(len(net.x)), float(net.golden[FIXED[attack, norm][1]]))
    found = theirs(case)
    apart = np.abs(found - np.asarray(ours))
    if peer != "art":
        return [Measured("points", float(apart.max()), EXACT)]
    # a gradient that is zero but for rounding has any sign, and may lead elsewhere
    loss = [np.asarray(_loss_at(net, x)) for x in (jnp.asarray(found), ours)]
    return [
        Measured("losses", float((np.abs(loss[0] - loss[1]) / (1 + np.abs(loss[1]))).max()), CLOSE),
        Measured("share of pixels apart", float((apart > 1e-5).mean()), CLOSE),
    ]


def _loss_at(net: Net, x: jax.Array) -> jax.Array:
    return jax.vmap(losses.cross_entropy)(net.logits(x), net.y)


def _reached(case: Case, found: np.ndarray, norm: str) -> np.ndarray:
    """Return the distances of a peer's points, inf where they are not misclassified."""
    logits = case.net.logits(jnp.asarray(found, jnp.float64))
    away = np.linalg.norm((found - case.x).reshape(len(found), -1), ORDER[norm], axis=1)
    return np.where(np.asarray(logits).argmax(1) != case.y, away, np.inf)


def defects(peers: list[str], wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Yield what is not compared, and why."""
    for peer in peers:
        for names, why in DEFECTS[peer]:
            if any(wanted(name) for name in names.split(", ")):
                yield {
                    "attack": names, "norm": "-", "loss": "-", "net": "-", "against": peer,
                    "note": why,
                }  # fmt: skip
