"""Checkpoints: what is kept, what a kill or a full disk leaves behind, what bad folders say."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import checkpoint
from advjax.checkpoint import Checkpoints

WRITER = """
import sys
import numpy as np
from advjax.checkpoint import Checkpoints
folder, first = sys.argv[1], int(sys.argv[2])
with Checkpoints(folder) as store:
    start = (store.latest_step() or 0) + 1
    for step in range(max(first, start), 10_000):
        tree = {f"leaf{i}": np.full((64, 64), float(step), np.float32) for i in range(20)}
        print(step, flush=True)
        store.save(step, {"model": tree}, score=float(step % 7), info={"step": step})
"""

LIMITED = """
import resource, signal, sys
import numpy as np
from advjax.checkpoint import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Checkpoints(sys.argv[1]) as store:
    store.save(2, {"model": {"w": np.zeros((300, 300), np.float32)}}, score=0.2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    random = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    try:
        store.save(3, {"model": {"w": random}}, score=0.3)
    except OSError as error:
        print(type(error).__name__, error)
    else:
        print("no error")
"""


def _tree(value):
    params = {"w": jnp.full((3, 2), value), "b": jnp.arange(2.0)}
    return {
        "params": params,
        "opt": optax.adam(1e-3).init(params),
        "step": jnp.asarray(4, jnp.int32),
        "ema": None,
        "empty": {},
    }


def _fill(folder, scores):
    with Checkpoints(folder) as store:
        for step, score in enumerate(scores, start=1):
            store.save(step, {"a": {"x": jnp.full(2, float(step))}}, score=score)


def test_a_state_comes_back_as_it_was(tmp_path):
    tree = _tree(0.1)
    with Checkpoints(tmp_path / "c") as store:
        store.save(7, {"all": tree}, score=1.0, info={"epoch": 7, "names": ["a"]})
        back = store.restore(7, {"all": checkpoint.abstract(tree)})["all"]
        assert store.info(7) == {"epoch": 7, "names": ["a"]}
        assert store.score(7) == 1.0
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for old, new in zip(jax.tree.leaves(tree), jax.tree.leaves(back), strict=True):
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(old, new)


def test_one_tree_can_be_restored_without_the_other(tmp_path):
    trees = {"model": {"w": jnp.ones(3)}, "training": {"m": jnp.zeros(3)}}
    with Checkpoints(tmp_path) as store:
        store.save(1, trees, score=0.0)
    with Checkpoints(tmp_path, read_only=True) as store:
        back = store.restore(1, {"model": checkpoint.abstract(trees["model"])})
    assert set(back) == {"model"}
    np.testing.assert_array_equal(back["model"]["w"], np.ones(3))


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    _fill(tmp_path, [0.1, 0.9, 0.2, 0.3, 0.4])
    with Checkpoints(tmp_path) as store:  # reopened: scores must have been stored
        assert store.steps() == [2, 4, 5]
        assert store.best_step() == 2
        assert store.latest_step() == 5
        store.save(6, {"a": {"x": jnp.zeros(2)}}, score=0.95)
        assert store.steps() == [5, 6]
        assert store.best_step() == 6
    assert sorted(os.listdir(tmp_path)) == ["5", "6"]


def test_of_equal_scores_the_later_one_is_best_and_kept(tmp_path):
    _fill(tmp_path, [0.5, 0.5, 0.1, 0.1, 0.1])
    with Checkpoints(tmp_path) as store:
        assert store.best_step() == 2
        assert store.steps() == [2, 4, 5]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as store:
        assert store.latest_step() is None
        assert store.best_step() is None
        with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*train first"):
            store.restore(store.best_step(), {"a": {}})
        with pytest.raises(FileNotFoundError, match=r"no checkpoint 3 .*complete ones: none"):
            store.info(3)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is missing; train first"):
        Checkpoints(tmp_path / "nowhere", read_only=True)


def test_a_reader_does_not_touch_a_save_in_progress(tmp_path):
    _fill(tmp_path, [0.1])
    partial = tmp_path / "2.orbax-checkpoint-tmp"
    partial.mkdir()
    with Checkpoints(tmp_path, read_only=True) as store:
        assert store.steps() == [1]
    assert partial.exists()
    with Checkpoints(tmp_path) as store:
        assert store.steps() == [1]
    assert not partial.exists()


def test_damage_is_named_with_the_remedy(tmp_path):
    _fill(tmp_path, [0.1])
    for name in (tmp_path / "1" / "a").rglob("*"):
        if name.is_file() and "commit" not in name.name:
            name.write_bytes(b"torn")
    with (
        Checkpoints(tmp_path) as store,
        pytest.raises(ValueError, match=r"1 cannot be read: it is damaged.*Remove that folder"),
    ):
        store.restore(1, {"a": {"x": jax.ShapeDtypeStruct((2,), jnp.float32)}})


def test_other_shapes_are_refused(tmp_path):
    _fill(tmp_path, [0.1])
    with Checkpoints(tmp_path) as store:
        for wrong in ({"x": jax.ShapeDtypeStruct((3,), jnp.float32)}, {"y": jnp.zeros(2)}):
            with pytest.raises(ValueError, match="cannot be read"):
                store.restore(1, {"a": wrong})


@pytest.mark.parametrize(
    ("trees", "score", "match"),
    [
        ({"a": {"x": np.float32(1)}}, 0.0, r"leaf \['x'\] is a float32"),
        ({"a": {"x": "text"}}, 0.0, r"leaf \['x'\] is a str"),
        ({"a": {"x": np.zeros(1)}}, float("nan"), "score must be finite"),
        ({"info": {"x": np.zeros(1)}}, 0.0, "name 'info' is taken"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path, trees, score, match):
    with Checkpoints(tmp_path) as store:
        with pytest.raises(ValueError, match=match):
            store.save(1, trees, score=score)
        assert store.steps() == []
    assert os.listdir(tmp_path) == []


def test_a_step_is_written_once(tmp_path):
    _fill(tmp_path, [0.1])
    with Checkpoints(tmp_path) as store, pytest.raises(ValueError, match="1 exists already"):
        store.save(1, {"a": {"x": jnp.zeros(2)}}, score=0.0)


@pytest.mark.slow
def test_a_killed_writer_leaves_complete_checkpoints_only(tmp_path):
    delays = np.random.default_rng(0).uniform(0.0, 0.25, 5)
    last = 0
    for delay in delays:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), "1"], stdout=subprocess.PIPE, text=True
        )
        for line in process.stdout:  # the writer says which save begins
            if int(line) >= last + 3:
                break
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Checkpoints(tmp_path) as store:
            steps = store.steps()
            assert store.latest_step() >= last + 2
            last = store.latest_step()
            assert store.best_step() in steps
            assert 2 <= len(steps) <= 4
            for step in steps:
                wanted = {f"leaf{i}": jnp.zeros((64, 64)) for i in range(20)}
                tree = store.restore(step, {"model": checkpoint.abstract(wanted)})["model"]
                assert store.info(step) == {"step": step}
                for leaf in jax.tree.leaves(tree):
                    np.testing.assert_array_equal(leaf, np.full((64, 64), float(step)))
        assert not [name for name in os.listdir(tmp_path) if "tmp" in name]


def test_a_disk_that_refuses_to_grow_is_one_clear_error(tmp_path):
    """A limit on file sizes stands in for a full disk: the same error path in the storage layer."""
    folder = tmp_path / "c"
    _fill(folder, [0.1])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder)], capture_output=True, text=True, check=False
    )
    line = done.stdout.strip()
    assert line.startswith("OSError disk full: checkpoint 3 could not be written in"), done
    assert str(folder) in line
    assert "Free some space" in line
    assert "Traceback" not in done.stderr
    with Checkpoints(folder) as store:
        assert store.steps() == [1, 2]
        x = store.restore(1, {"a": {"x": jax.ShapeDtypeStruct((2,), jnp.float32)}})["a"]["x"]
        np.testing.assert_array_equal(x, np.ones(2))
    assert sorted(os.listdir(folder)) == ["1", "2"]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (ValueError("RESOURCE_EXHAUSTED: ... [os_error_code='28']"), True),
        (ValueError("RESOURCE_EXHAUSTED: ... [os_error_code='122']"), True),
        (OSError(13, "Permission denied"), False),
        (ValueError("No such leaf"), False),
    ],
)
def test_full_disks_are_recognised(error, full):
    assert checkpoint.is_disk_full(error) is full


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.json"
    checkpoint.write_atomic(path, lambda p: p.write_text("old"))

    def torn(temporary):
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"disk full: a\.json could not be written"):
        checkpoint.write_atomic(path, torn)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.json"]
