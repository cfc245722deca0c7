"""The files of a store: killed writers, full disks, damaged parts, panels."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advjax import store
from advjax.store import Store, _files, _store
from tests.test_store import IDENTITY, rows


def test_deleted_parts_are_computed_again(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    out.write(rows(), key="a").unlink()
    again = Store(tmp_path, identity=IDENTITY)
    assert not again.has(attack="pgd")
    again.write(rows(), key="a")


def test_damaged_part_names_the_remedy(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    path = out.write(rows(ids=range(500)), key="a")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged part; delete this file") as caught:
        Store(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_flipped_bit_is_noticed(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    loss = np.random.default_rng(0).random(500)
    path = out.write(rows(ids=range(500), loss=loss), key="a")
    whole = path.read_bytes()
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(store.SCHEMA.names.index("loss"))
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(ValueError, match="damaged part; delete this file"):
        Store(tmp_path).read()


def test_foreign_parquet_file_is_refused(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    out.write(rows(), key="a")
    pq.write_table(pa.table({"a": [1]}), out.rows / "part-foreign.parquet")
    with pytest.raises(ValueError, match="damaged part"):
        Store(tmp_path)


def test_damaged_manifest(tmp_path):
    Store(tmp_path, identity=IDENTITY).write(rows(), key="a")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged manifest; restore it"):
        Store(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="advjax evaluate"):
        Store(tmp_path / "nowhere")
    Store(tmp_path, identity=IDENTITY).write(rows(), key="a")
    with pytest.raises(ValueError, match="opened to read"):
        Store(tmp_path).write(rows(), key="b")
    with pytest.raises(ValueError, match="unknown column"):
        Store(tmp_path).read(["colour"])


_WRITER = """
import sys, numpy as np
sys.path.insert(0, {root!r})
from tests.test_store import IDENTITY, rows
from advjax.store import Store
out = Store({folder!r}, identity=IDENTITY)
start = len(out.keys())
print("ready", flush=True)
for index in range(start, 10_000):
    count = 2000
    out.write(rows(ids=np.arange(count) + count * index, success=np.full(count, index % 2 == 0)),
              key=f"part {{index}}")
"""


def test_kill_in_the_middle_of_writes(tmp_path):
    """SIGKILL at several moments; every part that is there is whole, and work goes on."""
    code = _WRITER.format(root=str(Path(__file__).parents[1]), folder=str(tmp_path))
    stored = 0
    for delay in (0.0, 0.05, 0.11, 0.23):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        found = Store(tmp_path, identity=IDENTITY)
        got = found.read(["example_id", "success"])
        assert len(found.keys()) >= stored
        stored = len(found.keys())
        assert sorted(got["example_id"]) == list(range(2000 * stored))
        np.testing.assert_array_equal(got["success"], got["example_id"] // 2000 % 2 == 0)
        assert not list(tmp_path.rglob(".tmp-*"))
        json.loads((tmp_path / "manifest.json").read_text())
    assert stored > 0


def test_temporary_file_of_a_living_writer_stays(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    out.write(rows(), key="a")
    living = out.rows / f".tmp-{os.getpid()}-1-part"
    old = out.rows / f".tmp-{os.getpid()}-2-part"
    for path in (living, old):
        path.write_text("half")
    os.utime(old, (0, 0))
    Store(tmp_path, identity=IDENTITY)
    assert living.exists()
    assert not old.exists()


def test_disk_full_leaves_earlier_parts_and_names_the_remedy(tmp_path):
    """A real write failure: files may not grow beyond a limit, as on a full disk or quota."""
    out = Store(tmp_path, identity=IDENTITY)
    out.write(rows(), key="a")
    big = rows(ids=range(20_000), eps=0.5, loss=np.random.default_rng(0).random(20_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="free some space and run the same command again"):
            out.write(big, key="b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert Store(tmp_path).num_rows() == 4
    assert not list(tmp_path.rglob(".tmp-*"))
    assert out.keys() == ("a",)
    out.write(big, key="b")
    assert Store(tmp_path).num_rows() == 20_004


def test_disk_full_while_the_manifest_is_written(tmp_path, monkeypatch):
    out = Store(tmp_path, identity=IDENTITY)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (tmp_path / "manifest.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "fsync", full)
        with pytest.raises(OSError, match=r"no space left while writing manifest\.json") as caught:
            out.write_manifest(extra={"a": 1})
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_part_that_the_manifest_does_not_know_counts(tmp_path, monkeypatch):
    """A kill between the rename of a part and the manifest."""
    out = Store(tmp_path, identity=IDENTITY)
    monkeypatch.setattr(_store.Store, "write_manifest", lambda self: None)
    out.write(rows(), key="a")
    monkeypatch.undo()
    again = Store(tmp_path, identity=IDENTITY)
    assert again.has(attack="pgd")
    again.write_manifest()
    assert json.loads((tmp_path / "manifest.json").read_text())["parts"][0]["key"] == "a"


def test_panels(tmp_path):
    assert store.read_panels(tmp_path) == []
    rng = np.random.default_rng(0)
    clean = rng.random((3, 4, 4, 1)).astype(np.float32)
    panel = {
        "clean": clean,
        "adv": clean + 0.01,
        "target": [0, 1, 0],
        "clean_probabilities": np.full((3, 2), 0.5),
        "adv_probabilities": np.full((3, 2), 0.5),
        "example_id": [5, 6, 7],
        "class_names": ["no", "<b>yes</b>"],
    }
    names = [("../m x", "pgd", 0.03), ("../m_x", "pgd", 0.03), ("m", "a/b", 0.01)]
    for model, attack, eps in names:
        path = store.write_panel(tmp_path, model=model, attack=attack, eps=eps, **panel)
        assert path.parent == tmp_path / "panels"
    store.write_panel(tmp_path, model="m", attack="a/b", eps=0.01, **{**panel, "adv": clean})
    found = store.read_panels(tmp_path)
    assert [(p.attack, p.eps, p.model) for p in found] == [
        ("a/b", 0.01, "m"), ("pgd", 0.03, "../m x"), ("pgd", 0.03, "../m_x"),
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0].adv, clean)
    assert found[1].class_names == ("no", "<b>yes</b>")
    with pytest.raises(ValueError, match="clean and adv"):
        store.write_panel(tmp_path, model="m", attack="a", eps=0, **{**panel, "adv": clean[:2]})
    with pytest.raises(ValueError, match="one column per class name"):
        store.write_panel(tmp_path, model="m", attack="a", eps=0, **{**panel, "class_names": "a"})
    path.write_bytes(b"PK broken")
    with pytest.raises(ValueError, match="damaged panel; delete this file"):
        store.read_panels(tmp_path)
