"""Two processes that sweep together against one."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from advjax import mesh
from advjax.engine import _processes
from tests.engine import worker

pytestmark = pytest.mark.unoptimised

ROOT = Path(__file__).parents[2]
SECONDS = 180


def run_together(folder, processes, devices, late):
    """Run workers of `devices` devices each, the second `late` by so many seconds."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(processes),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.engine.worker", str(folder), str(late)]
    logs = [folder / f"log_{i}.txt" for i in range(processes)]
    children = []
    try:
        for i, log in enumerate(logs):
            with log.open("w") as out:
                children.append(
                    subprocess.Popen(
                        command,
                        env={**env, "JAX_PROCESS_ID": str(i)},
                        cwd=ROOT,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )
        deadline = time.monotonic() + SECONDS
        while any(child.poll() is None for child in children):
            failed = any(child.poll() for child in children)
            if failed or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        codes = [child.poll() for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert codes == [0] * processes, [log.read_text()[-2000:] for log in logs]


def assert_same(found, wanted):
    """Everything but the work of idle slots, which depends on the layout."""
    assert found.keys() == wanted.keys()
    for field in found.keys() - {".rows_computed"}:
        assert found[field].dtype == wanted[field].dtype, field
        # a batch of another size may round differently
        exact = found[field].dtype.kind != "f" or field == ".min_eps"
        np.testing.assert_allclose(
            found[field], wanted[field], atol=0 if exact else 1e-6, rtol=0, err_msg=field
        )


@pytest.mark.slow
def test_two_processes_equal_one_and_each_gets_the_whole_result(tmp_path):
    # gloo gives up on a process that comes half a minute late to a collective
    run_together(tmp_path, 2, devices=2, late=40)
    for name in worker.CASES:
        runs = []
        one = worker.swept(name, None, take=worker.recorder(runs))
        shares = []
        for index in range(2):
            found = dict(np.load(tmp_path / f"{name}_{index}.npz"))
            shares.append(set(map(tuple, found.pop("runs"))))
            assert found[".rows_computed"] >= one.rows_useful
            assert_same(found, worker.flat(one))
        assert not shares[0] & shares[1]
        assert shares[0] | shares[1] == set(runs)
    assert_same(dict(np.load(tmp_path / "own.npz")), worker.flat(one))


def test_one_process_keeps_all_examples():
    devices = mesh.data_mesh(2)
    for given in (None, devices):
        found = _processes.share(5, given)
        assert found.alone
        assert found.mesh is given
        np.testing.assert_array_equal(found.mine, np.arange(5))


@pytest.mark.parametrize("dtype", [np.int8, bool, np.int64, np.float64])
def test_exchange_changes_no_bit(dtype):
    rows = (np.arange(24).reshape(4, 3, 2) * (5 if dtype == np.int8 else 2**40 + 1)).astype(dtype)
    found = _processes.exchange({"a": rows, "none": None}, 4, 4)
    assert found["a"].dtype == dtype
    np.testing.assert_array_equal(found["a"], rows)
    # one that holds more rows than are its own gives its own only
    assert _processes.exchange(rows, 2, 2).shape == (2, 3, 2)


def test_a_mesh_that_leaves_out_a_process_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="1 of 2 processes"):
        _processes.share(5, mesh.data_mesh(2))
