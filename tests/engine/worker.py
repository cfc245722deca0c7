"""One process of several that sweep together; `test_processes.py` starts them.

python -m tests.engine.worker ADDRESS PROCESSES INDEX FOLDER LATE
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, engine, losses, mesh, threat

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, size=(13, 4, 4, 1), dtype=np.uint8)
PARAMS = RNG.normal(size=(16, 3)).astype(np.float32) / 2
EPSILONS = np.arange(1, 9) / 64
Y = np.argmax((X.reshape(13, -1) / np.float32(255)) @ PARAMS, -1)
Y[3] = (Y[3] + 1) % 3  # wrong when clean


def make_fgsm(params):
    return attacks.fgsm(_objective(params), threat.linf())


def make_pgd(params):
    return attacks.pgd(_objective(params), threat.linf(), num_steps=9, step_size=0.25)


def _objective(params):
    return attacks.from_logits(
        lambda x: jnp.tanh(x.reshape(x.shape[0], -1) @ params), loss=losses.cross_entropy
    )


# of 13 examples two processes get 7 and 6, of one example they get 1 and none
CASES = {
    "cascade": {
        "examples": 13, "make": [make_fgsm, make_pgd], "memory_limit": 1, "return_x_adv": True,
    },
    "one": {"examples": 1},
}  # fmt: skip


def swept(name, devices, **options):
    """Return the result of one case."""
    case = {"make": make_pgd, **CASES[name], **options}
    some = slice(case.pop("examples"))
    make, params = case.pop("make"), case.pop("params", PARAMS)
    return engine.sweep(
        make, params, X[some], Y[some], epsilons=EPSILONS, key=jax.random.key(1), slots=2,
        mesh=devices, **case,
    )  # fmt: skip


def recorder(runs):
    """Return a `take` that notes attack, example, restart and budget of every run."""

    def take(attack, finished, examples):
        for run in zip(examples, finished.restart, finished.budget, strict=True):
            runs.append((attack, *map(int, run)))

    return take


def flat(result):
    """Return a result as a dict of arrays; each process probes examples of its own for `trust`."""
    result = result._replace(trust=None, rows_probed=0)
    named = jax.tree_util.tree_leaves_with_path(result)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in named}


def main(folder, late):
    mesh.join_processes()
    index, devices, runs = jax.process_index(), mesh.data_mesh(), []
    assert devices.size == jax.process_count() * jax.local_device_count()
    folder = Path(folder)
    if index == 1:
        time.sleep(float(late))
    # parameters that all processes hold, as a training over all devices leaves them
    everywhere = jax.make_array_from_process_local_data(mesh.replicated(devices), PARAMS)
    for name in CASES:
        runs.clear()
        found = swept(name, devices, params=everywhere, take=recorder(runs))
        np.savez(folder / f"{name}_{index}.npz", runs=np.array(runs), **flat(found))
    if index == 1:
        # on its own devices it is alone, and waits for nobody
        own = jax.make_mesh((1,), (mesh.AXIS,), devices=jax.local_devices()[:1],
                            axis_types=(jax.sharding.AxisType.Auto,))  # fmt: skip
        np.savez(folder / "own.npz", **flat(swept("one", own, take=recorder(runs))))


if __name__ == "__main__":
    main(*sys.argv[1:])
