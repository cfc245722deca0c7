import dataclasses
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from advjax import store
from advjax.store import Store

IDENTITY = {"weights": "abc", "seed": 0, "attacks": [{"name": "pgd"}]}


def rows(model="standard", attack="pgd", eps=0.03, ids=range(4), **changes):
    ids = np.asarray(ids, np.int64)
    count = len(ids)
    columns = {
        "model": model,
        "data": "phantoms",
        "attack": attack,
        "example_id": ids,
        "eps": eps,
        "restart": 0,
        "success": ids % 2 == 0,
        "wrong_when_clean": np.zeros(count, bool),
        "evaluated": True,
        "loss": np.linspace(0, 1, count),
        "linf": np.full(count, eps),
        "l2": np.full(count, 0.1, np.float32),
        "num_steps": 10,
        "num_grads": np.full(count, 10),
        "num_queries": np.full(count, 11),
        "status": np.zeros(count, np.int8),
        "confidence": 0.9,
        "target": np.zeros((count, 1), np.int64),
        "probabilities": np.tile([0.9, 0.1], (count, 1)),
    }
    return {**columns, **changes}


def test_round_trip_filters_and_types(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    out.write(rows(), key="a")
    out.write(rows(eps=0.06), key="b")
    out.write(rows(model="robust", attack="none", eps=0, ids=range(2)), key="c")
    again = Store(tmp_path)
    assert again.keys() == out.keys()
    assert again.table().schema.equals(store.SCHEMA)
    got = again.read(attack="pgd", eps=[0.06])
    np.testing.assert_array_equal(got["example_id"], range(4))
    np.testing.assert_array_equal(got["success"], [True, False, True, False])
    np.testing.assert_allclose(got["probabilities"], np.tile([0.9, 0.1], (4, 1)), rtol=1e-6)
    assert (got["target"].shape, got["target"].dtype) == ((4, 1), np.int16)
    assert set(again.read(["model"])["model"]) == {"standard", "robust"}
    assert again.read(["eps"], model="nobody")["eps"].shape == (0,)
    assert again.num_rows() == 10
    assert again.num_rows(model="standard", eps=0.03 + 1e-12) == 4
    assert again.has(model="robust", attack="none", eps=0, restart=0, data="phantoms")
    assert not again.has(model="robust", attack="pgd")


def test_pandas_reads_the_folder_in_one_line(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    out.write(rows(), key="a")
    out.write(rows(eps=0.06), key="b")
    (out.rows / ".tmp-1-left-by-a-kill").write_text("half")
    frame = pd.read_parquet(tmp_path / "rows")
    assert len(frame) == 8
    assert frame.groupby("eps").success.mean().tolist() == [0.5, 0.5]


def test_lists_of_differing_length(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    out.write(rows(probabilities=[[0.1, 0.9], [], [0.5], [1, 0]]), key="a")
    got = Store(tmp_path).read(["probabilities"])["probabilities"]
    assert [len(row) for row in got] == [2, 0, 1, 2]
    np.testing.assert_allclose(got[3], [1, 0])
    out.write(rows(eps=0.06, probabilities=np.zeros((4, 0))), key="b")
    assert Store(tmp_path).read(eps=0.06)["probabilities"].shape == (4, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": None}, "float32"),
        ({"success": np.ones(4)}, "success must be bool"),
        ({"example_id": np.arange(4) / 2}, "example_id must be int64"),
        ({"status": np.full(4, 300)}, "status does not fit into int8"),
        ({"loss": np.ones(3)}, "loss has shape (3,)"),
        ({"model": [1, 2, 3, 4]}, "model must hold text"),
        ({"eps": -0.1}, "not negative"),
        ({"eps": np.nan}, "finite"),
        ({"attack": "none"}, "its eps must be 0"),
        ({"target": np.zeros((4, 1, 1), int)}, "one flat list per row"),
        ({"target": np.full((4, 1), 0.5)}, "target must be int16"),
        ({"example_id": np.array([0, 1, 1, 2])}, "1 row(s) occur twice, the first is model='stan"),
        ({"example_id": np.zeros(0, int)}, "no row to write"),
        ({"colour": 1}, "unknown column colour"),
    ],
)
def test_wrong_rows_are_one_clear_line(tmp_path, changes, words):
    out = Store(tmp_path, identity=IDENTITY)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        out.write(rows(**changes), key="a")
    assert "\n" not in str(caught.value)
    assert Store(tmp_path).keys() == ()


def test_missing_column(tmp_path):
    columns = rows()
    del columns["l2"], columns["status"]
    with pytest.raises(ValueError, match="missing column l2, status"):
        Store(tmp_path, identity=IDENTITY).write(columns, key="a")


def test_a_part_is_rewritten_only_when_asked(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    path = out.write(rows(), key="a")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"stored already.*overwrite"):
        out.write(rows(confidence=0.1), key="a")
    assert path.read_bytes() == before
    out.write(rows(confidence=0.1), key="a", overwrite=True)
    np.testing.assert_allclose(Store(tmp_path).read()["confidence"], 0.1, rtol=1e-6)


def test_the_same_row_in_two_parts_is_refused(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    out.write(rows(ids=[0, 2, 4]), key="a")
    out.write(rows(ids=[1, 3, 5]), key="interleaved")
    out.write(rows(ids=[0, 2, 4], restart=1), key="restart")
    with pytest.raises(ValueError, match=r"1 row\(s\) of part 'b'.*example_id=4"):
        Store(tmp_path, identity=IDENTITY).write(rows(ids=[4, 6]), key="b")


def test_keys_of_any_text_have_files_of_their_own(tmp_path):
    out = Store(tmp_path, identity=IDENTITY)
    keys = ["a/b", "a b", "../x", "A/B", "ü" * 300]
    for index, key in enumerate(keys):
        path = out.write(rows(ids=[index]), key=key)
        assert path.parent == out.rows
    assert set(Store(tmp_path).keys()) == set(keys)


def test_rows_of_another_config_are_never_mixed(tmp_path):
    Store(tmp_path, identity=IDENTITY).write(rows(), key="a")
    Store(tmp_path, identity=dict(reversed(IDENTITY.items())))
    other = {**IDENTITY, "seed": 1, "weights": "xyz"}
    with pytest.raises(ValueError, match="differs in seed, weights; choose another out folder"):
        Store(tmp_path, identity=other)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="another evaluation"):
        Store(tmp_path, identity=other)
    assert Store(tmp_path).num_rows() == 4
    assert Store(tmp_path, identity=IDENTITY).num_rows() == 4


def test_a_part_of_another_store_is_refused(tmp_path):
    path = Store(tmp_path / "a", identity=IDENTITY).write(rows(), key="a")
    Store(tmp_path / "b", identity={"seed": 9}).write(rows(eps=0.1), key="b")
    (tmp_path / "b" / "rows" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="belongs to another evaluation"):
        Store(tmp_path / "b")


def test_manifest(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config:
        epsilons: tuple = (0.1, float("inf"))

    out = Store(tmp_path, identity=IDENTITY)
    out.write_manifest(config=Config(), inputs={"weights": "abc"}, extra={"task": "single"})
    out.write(rows(), key="a")
    out.write_manifest(extra={"seconds": {"standard": {"pgd": np.float32(1.5)}}})
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert found["config"] == {"epsilons": [0.1, "inf"]}
    assert found["inputs"] == {"weights": "abc"}
    assert found["extra"] == {"task": "single", "seconds": {"standard": {"pgd": 1.5}}}
    assert found["versions"]["numpy"] == np.__version__
    assert found["parts"][0]["rows"] == 4
    assert (tmp_path / found["parts"][0]["file"]).exists()
    assert {"python", "platform", "git_revision", "created", "updated"} <= found.keys()
    assert Store(tmp_path).manifest == found
    assert found["earlier"] == []


def test_another_environment_is_remembered(tmp_path, monkeypatch):
    Store(tmp_path, identity=IDENTITY)
    monkeypatch.setattr(store._manifest, "git_revision", lambda: "f" * 40)
    Store(tmp_path, identity=IDENTITY).write(rows(), key="a")
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert found["git_revision"] == "f" * 40
    assert len(found["earlier"]) == 1


def test_shards_never_mix_with_rows_that_are_not_theirs(tmp_path):
    shared = IDENTITY | {"data": 2}
    for i in range(2):
        shard = Store(tmp_path / f"shard-{i}-of-2", identity=shared)
        shard.write(rows(ids=[i, i + 2]), key=f"{i}")
    store.check_shards(tmp_path, 2, shared)
    for total, words in ((4, "4 shards"), (1, "not divided")):
        with pytest.raises(ValueError, match=f"holds shard-0-of-2, which does not .* {words}"):
            store.check_shards(tmp_path, total, shared)
    Store(tmp_path, identity=IDENTITY | {"data": "all"}).write(rows(), key="whole")
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="another evaluation, which differs in data"):
        store.check_shards(tmp_path, 2, shared)
    with pytest.raises(ValueError, match="another evaluation, which differs in data"):
        store.merge_shards(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert Store(tmp_path).num_rows() == 4
    shutil.rmtree(tmp_path / "rows")
    (tmp_path / "manifest.json").unlink()
    assert store.merge_shards(tmp_path) == store.merge_shards(tmp_path) == 2
    assert Store(tmp_path).num_rows() == 4
    store.check_shards(tmp_path, 2, shared)


def test_fingerprint_sees_content_and_nothing_else():
    @dataclasses.dataclass
    class Config:
        a: int = 1
        b: tuple = (1.0, "x")

    same = [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1, 2], (1, 2)),
        (Config(), Config()),
        (np.arange(4), np.arange(8)[::2] // 2),
        (np.arange(3.0).astype(">f8"), np.arange(3.0)),
        (jnp.ones((2, 2)), np.ones((2, 2), np.float32)),
    ]
    for one, other in same:
        assert store.fingerprint(one) == store.fingerprint(other)
    values = [
        None, 0, False, 0.0, -0.0, "", b"", [], {}, "0", [0], [[0]], {"a": 0}, {"a": 1},
        Config(), Config(a=2), np.zeros(2), np.zeros(2, np.float32), np.zeros((1, 2)), np.zeros(0),
        ["ab", "c"], ["a", "bc"], {1: 0}, {"1": 0}, np.int32(0), float("nan"),
    ]  # fmt: skip
    assert len({store.fingerprint(value) for value in values}) == len(values)
    # the same on every machine and in every version: a change here orphans stored results
    assert store.fingerprint({"eps": 8 / 255, "name": "pgd"}).startswith("7ffc5c248aef3e74f929eea2")
    with pytest.raises(ValueError, match=r"value\['fn'\]\[0\] is a function"):
        store.fingerprint({"fn": [lambda: 0]})
