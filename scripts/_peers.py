"""PGD of other libraries, looped over the same budgets on the same weights and images.

Searches are timed in between, in the same process, since a machine that is shared slows down and
speeds up within the minutes that such a loop takes.
"""

import contextlib
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import _timing
import _workload
import jax
import jax.numpy as jnp
import numpy as np

from advjax import random

PEERS = {"torchattacks": "torchattacks", "foolbox": "foolbox", "art": "art"}

# logits of the torch net and of ours may differ by so much
TOLERANCE = 1e-4

# a search is timed after so many budgets
BETWEEN = 4


def missing(name: str) -> str | None:
    """Return the module that a peer lacks here, or None."""
    for module in ("torch", PEERS[name]):
        if importlib.util.find_spec(module) is None:
            return module
    return None


def measure_peer(
    task: _workload.Task,
    name: str,
    timed: tuple[int, ...],
    batch: int,
    seed: int = 0,
    our_starts: bool = False,
) -> dict[str, Any]:
    """Attack what is right when clean at the budgets `timed` (indices), one after the other.

    The time of budgets that are left out is that of the timed ones, in proportion; a curve is
    returned only where none is left out. With `our_starts` (of torchattacks) the peer draws the
    random starts of our sweep, so that chance no longer tells the curves apart.
    """
    import torch

    work = _workload.load(task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net, images, targets = _to_torch(work, device)
    right = torch.tensor(work.right, device=device)
    x, y = images[right], targets[right]
    torch.manual_seed(seed)
    attack = _ATTACKS[name](net, task, work.num_classes, batch, device)
    # what only a first call does, before the clock starts
    attack(x[:batch], y[:batch], task.epsilons[0])
    memory = _workload.peak_memory()
    search = functools.partial(_workload.sweep_of(work, task, "search"), work.targets)
    search()
    seconds, searches = [], []
    broken = np.zeros((len(timed), len(work.right)), bool)
    for i, budget in enumerate(timed):
        eps = task.epsilons[budget]
        given = _our_starts(work, eps) if our_starts else None
        start = time.perf_counter()
        with _uniform(given, device):
            adversarial = attack(x, y, eps)
        broken[i, work.right] = (net(adversarial).argmax(1) != y).cpu().numpy()
        seconds.append(time.perf_counter() - start)
        if (i + 1) % BETWEEN == 0 or i + 1 == len(timed):
            searches.append(_timing.once(search))
    whole = len(timed) == len(task.epsilons)
    share = len(task.epsilons) / len(timed)
    rows = len(x) * task.steps * len(task.epsilons)
    # every budget by itself, as its users get it; and the best of the starts of all budgets below
    fallen = broken | ~work.right
    robust, best = 1 - fallen.mean(1), 1 - np.maximum.accumulate(fallen, axis=0).mean(1)
    return {
        "rows": rows, "useful": rows, "seconds": share * sum(seconds), "calls": 1,
        "compile s": None, **memory, "right": len(x),
        "search s": statistics.fmean(searches),
        "budgets": str(len(timed)) if whole else f"{len(timed)}, scaled",
        "robust": robust.tolist() if whole else None,
        "best of starts": best.tolist() if whole else None,
        "torch threads": torch.get_num_threads(),
    }  # fmt: skip


def _to_torch(work: _workload.Loaded, device: str) -> tuple[Any, Any, Any]:
    """Return the net, images and labels; the net must say what ours says."""
    import torch
    from _torch_peer import from_variables

    net = from_variables(
        jax.device_get(work.variables), work.num_classes, work.config.width,
        work.images.shape[-1], work.config.stem,
    ).to(device)  # fmt: skip
    pixels = _workload.pixels(work).transpose(0, 3, 1, 2)
    images = torch.tensor(pixels.copy(), device=device)
    # ours were judged without the short factors of a GPU; the timed attacks are as users get them
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        apart = float(np.abs(net(images).cpu().numpy() - work.logits).max())
    if apart > TOLERANCE:
        raise SystemExit(f"the torch net is not ours: its logits differ by {apart:.3g}")
    return net, images, torch.tensor(work.targets, dtype=torch.long, device=device)


def _our_starts(work: _workload.Loaded, eps: float) -> np.ndarray:
    """Return where our first start puts the images that are right: `[N, C, H, W]` moves."""
    attack = work.make_attack(work.variables)
    ids = np.flatnonzero(work.right)
    keys = random.example_keys(jax.random.key(_workload.SEED), ids, 0, attack.spec.name)
    clean = jnp.asarray(_workload.pixels(work)[ids])
    targets = jnp.asarray(work.targets[ids])
    state = jax.jit(attack.init)(keys, clean, targets, jnp.full(len(ids), eps, jnp.float32))
    return np.asarray(state.x - clean).transpose(0, 3, 1, 2)


@contextlib.contextmanager
def _uniform(given: np.ndarray | None, device: str) -> Iterator[None]:
    """Let PyTorch draw these values, batch after batch, instead of uniform ones; None: as ever."""
    import torch

    drawn = torch.Tensor.uniform_
    if given is not None:
        values = iter(torch.tensor(given, device=device))

        def told(self: Any, *bounds: float) -> Any:
            return self.copy_(torch.stack([next(values) for _ in range(len(self))]))

        torch.Tensor.uniform_ = told
    try:
        yield
    finally:
        torch.Tensor.uniform_ = drawn


Attack = Callable[[Any, Any, float], Any]


def _batched(attack: Attack, batch: int) -> Attack:
    import torch

    def whole(x: Any, y: Any, eps: float) -> Any:
        parts = zip(x.split(batch), y.split(batch), strict=True)
        return torch.cat([attack(a, b, eps) for a, b in parts])

    return whole


def _torchattacks(
    net: Any, task: _workload.Task, num_classes: int, batch: int, device: str
) -> Attack:
    import torchattacks

    def attack(x: Any, y: Any, eps: float) -> Any:
        alpha = task.step_size * eps
        return torchattacks.PGD(net, eps=eps, alpha=alpha, steps=task.steps)(x, y)

    return _batched(attack, batch)


def _foolbox(net: Any, task: _workload.Task, num_classes: int, batch: int, device: str) -> Attack:
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device=device)
    pgd = foolbox.attacks.LinfPGD(rel_stepsize=task.step_size, steps=task.steps)

    def attack(x: Any, y: Any, eps: float) -> Any:
        return pgd(model, x, y, epsilons=eps)[1]

    return _batched(attack, batch)


def _art(net: Any, task: _workload.Task, num_classes: int, batch: int, device: str) -> Attack:
    import torch
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    def attack(x: Any, y: Any, eps: float) -> Any:
        classifier = PyTorchClassifier(
            net, torch.nn.CrossEntropyLoss(), tuple(x.shape[1:]), num_classes,
            clip_values=(0, 1), device_type="gpu" if device == "cuda" else "cpu",
        )  # fmt: skip
        pgd = ProjectedGradientDescent(
            classifier, eps=eps, eps_step=task.step_size * eps, max_iter=task.steps,
            num_random_init=1, batch_size=batch, verbose=False,
        )  # fmt: skip
        found = pgd.generate(x.cpu().numpy(), y.cpu().numpy())
        return torch.tensor(found, device=device)

    return attack


_ATTACKS = {"torchattacks": _torchattacks, "foolbox": _foolbox, "art": _art}
