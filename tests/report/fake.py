"""Result folders that look like real ones: plausible curves, images with lesions."""

import numpy as np

from advjax.store import Store, write_panel

STRENGTH = {"fgsm": 0.55, "bim": 0.9, "pgd": 1.0, "mifgsm": 0.85, "smia": 0.8}
BLACK_BOX = {"square": 200}  # queries at the most
DERMOSCOPY = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def write_results(
    folder,
    *,
    models=("standard", "pgd-trained"),
    attacks=tuple(STRENGTH),
    epsilons=tuple(i / 510 for i in range(1, 17)),
    num_examples=128,
    class_names=DERMOSCOPY,
    task="single",
    size=32,
    panels=4,
    panel_eps=(4 / 255, 8 / 255),
    clean_rows=True,
    bootstrap=200,
    data="phantom:dermoscopy",
    store=None,
    norms=None,
):
    """Write a result folder and return its store."""
    out = store or Store(folder, identity={"fake": True})
    rng = np.random.default_rng(7)
    target = _targets(rng, num_examples, len(class_names), task)
    extra = {"task": task, "class_names": list(class_names), "cost": {}, "norms": norms or {}}
    for m, model in enumerate(models):
        margin = _margins(rng, num_examples, 0.008 if m == 0 else 0.035, 0.1 + 0.06 * m)
        wrong = margin <= 0
        if clean_rows:
            out.write(_rows(rng, model, data, "none", 0.0, target, wrong, wrong, task,
                            len(class_names)), key=f"{data} {model} none")  # fmt: skip
        for attack in attacks:
            least = margin / STRENGTH.get(attack, 1.0) * rng.lognormal(0, 0.1, num_examples)
            parts = []
            for eps in epsilons:
                success = (least <= eps) & ~wrong
                if attack == "fgsm":  # one step overshoots: not monotone
                    success &= rng.random(num_examples) > 4 * eps
                parts.append(
                    _rows(rng, model, data, attack, eps, target, success, wrong, task,
                          len(class_names))
                )  # fmt: skip
                if panels and any(abs(eps - shown) < 1e-9 for shown in panel_eps):
                    _panel(rng, folder, model, attack, eps, target, success, wrong, class_names,
                           size, panels)  # fmt: skip
            out.write(_together(parts), key=f"{data} {model} {attack}")
            count = num_examples * len(epsilons)
            extra["cost"].setdefault(model, {})[attack] = {
                "seconds": 3.4 + m,
                "forwards": 11 * count,
                "backwards": 10 * count,
            }
    config = {
        "out": str(folder),
        "bootstrap": bootstrap,
        "seed": 0,
        "epsilons": list(epsilons),
        "attacks": [{"name": name, "norm": "linf", "num_steps": 10} for name in attacks],
    }
    inputs = {f"weights {model}": "%064x" % (index + 12345) for index, model in enumerate(models)}
    out.write_manifest(config=config, inputs=inputs, extra=extra)
    return out


def _together(parts):
    """Join columns, single values included."""
    count = len(parts[0]["example_id"])
    return {
        name: np.concatenate(
            [
                np.full(count, part[name]) if np.ndim(part[name]) == 0 else part[name]
                for part in parts
            ]
        )
        for name in parts[0]
    }


def _targets(rng, count, num_classes, task):
    if task == "multi":
        return (rng.random((count, num_classes)) < 0.18).astype(np.int64)
    return np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, count)])[:count]


def _margins(rng, count, scale, wrong):
    margin = rng.gamma(2.2, scale / 2.2, count)
    margin[rng.random(count) < wrong] = 0
    return margin


def _outputs(rng, target, broken, task, num_classes):
    count = len(target)
    sure = 0.55 + 0.44 * rng.random(count)
    if task == "multi":
        flip = broken[:, None] & (rng.random((count, num_classes)) < 0.4)
        flip[np.arange(count), rng.integers(0, num_classes, count)] |= broken
        side = (target > 0) ^ flip
        return np.where(side, sure[:, None], 1 - sure[:, None])
    said = np.where(broken, (target + rng.integers(1, num_classes, count)) % num_classes, target)
    rest = rng.dirichlet(np.ones(num_classes), count) * (1 - sure)[:, None]
    rest[np.arange(count), said] += sure
    return rest


def _rows(rng, model, data, attack, eps, target, success, wrong, task, num_classes):
    count = len(target)
    attacked = attack != "none"
    probabilities = _outputs(rng, target, success | wrong, task, num_classes)
    steps = {"none": 0, "fgsm": 1}.get(attack, 10)
    sure = (
        np.maximum(probabilities, 1 - probabilities).mean(1)
        if task == "multi"
        else probabilities.max(1)
    )
    return {
        "model": model,
        "data": data,
        "attack": attack,
        "example_id": np.arange(count) * 3 + 1,
        "eps": eps,
        "restart": 0,
        "success": success if attacked else np.zeros(count, bool),
        "wrong_when_clean": wrong,
        "evaluated": True,
        "loss": rng.random(count),
        "linf": np.full(count, eps) * (0.97 if attack == "smia" else 1.0),
        "l2": eps * 32 * (0.8 + 0.2 * rng.random(count)),
        "num_steps": np.full(count, steps),
        "num_grads": np.full(count, 0 if attack in BLACK_BOX else steps),
        "num_queries": _queries(rng, attack, success, steps),
        "status": np.where(rng.random(count) < 0.02, 1, 0) if attacked else np.zeros(count, int),
        "confidence": sure,
        "target": target[:, None] if target.ndim == 1 else target,
        "probabilities": probabilities,
    }


def _queries(rng, attack, success, steps):
    most = BLACK_BOX.get(attack)
    if most is None:
        return np.full(len(success), steps + 1)
    return np.where(success, rng.integers(1, most, len(success)), most + 1)


def _panel(rng, folder, model, attack, eps, target, success, wrong, names, size, count):
    task = "single" if target.ndim == 1 else "multi"
    clean = np.stack([lesion(np.random.default_rng(i), size) for i in range(count)])
    noise = np.sign(rng.normal(size=clean.shape)) if attack != "smia" else _smooth(rng, clean.shape)
    pick = slice(0, count)
    write_panel(
        folder,
        model=model,
        attack=attack,
        eps=eps,
        clean=clean,
        adv=np.clip(clean + eps * noise, 0, 1),
        target=target[pick],
        clean_probabilities=_outputs(rng, target[pick], wrong[pick], task, len(names)),
        adv_probabilities=_outputs(rng, target[pick], (success | wrong)[pick], task, len(names)),
        example_id=np.arange(count) * 3 + 1,
        class_names=names,
    )


def _smooth(rng, shape):
    noise = rng.normal(size=shape)
    for axis in (1, 2):
        noise = sum(np.roll(noise, shift, axis) for shift in (-2, -1, 0, 1, 2))
    return noise / np.abs(noise).max()


def lesion(rng, size):
    """An image [size, size, 3] of skin with a dark spot."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle = np.arctan2(y, x)
    edge = 0.24 + 0.05 * np.sin(3 * angle + rng.random() * 6) + 0.03 * np.sin(7 * angle)
    inside = 1 / (1 + np.exp(40 * (np.hypot(x * (0.8 + rng.random() / 2), y) - edge)))
    skin = np.array([0.86, 0.68, 0.58]) + 0.03 * rng.normal(size=(size, size, 1))
    spot = np.array([0.35, 0.2, 0.15]) + 0.08 * rng.normal(size=(size, size, 1))
    return np.clip(skin * (1 - inside[..., None]) + spot * inside[..., None], 0, 1)
