import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from advjax import mesh


def test_mesh_takes_the_first_devices():
    made = mesh.data_mesh(2)
    assert made.axis_names == ("data",)
    assert list(made.devices.flat) == jax.devices()[:2]
    assert set(made.axis_types) == {jax.sharding.AxisType.Auto}
    assert mesh.data_mesh().size == jax.device_count() == 8


@pytest.mark.parametrize(("count", "words"), [(9, "JAX_NUM_CPU_DEVICES=9"), (0, "at least 1")])
def test_impossible_meshes_say_what_to_do(count, words):
    with pytest.raises(ValueError, match=words):
        mesh.data_mesh(count)


def test_shardings_place_whole_arrays_and_rows():
    made = mesh.data_mesh(4)
    x = jnp.arange(8.0)
    whole = jax.device_put(x, mesh.replicated(made))
    rows = jax.device_put(x, mesh.sharded(made))
    assert {s.data.shape for s in whole.addressable_shards} == {(8,)}
    assert [s.data.tolist() for s in rows.addressable_shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_nothing_varies_outside_shard_map():
    x = jnp.ones(3)
    assert mesh.varying_axes(x) == frozenset()
    assert mesh.vary(x, ()) is x
    seen = []
    jax.jit(lambda x: seen.append(mesh.varying_axes(x)) or x)(x)
    assert seen == [frozenset()]


def test_vary_marks_replicated_values_and_its_transpose_sums():
    made, seen = mesh.data_mesh(4), []

    def loss(w, x):
        cast = mesh.vary(w, mesh.varying_axes(x))
        seen.append((mesh.varying_axes(w), mesh.varying_axes(x), mesh.varying_axes(cast)))
        return (cast * x).sum()

    f = jax.shard_map(jax.grad(loss), mesh=made, in_specs=(P(), P("data")), out_specs=P())
    np.testing.assert_array_equal(jax.jit(f)(jnp.float32(2.0), jnp.arange(8.0)), 28.0)
    data = frozenset({"data"})
    assert seen == [(frozenset(), data, data)]


@pytest.mark.parametrize(
    ("said", "words"),
    [({}, "JAX_COORDINATOR_ADDRESS"), ({"JAX_NUM_PROCESSES": "two"}, "must be numbers")],
)
def test_processes_that_know_nothing_of_each_other_say_what_to_set(monkeypatch, said, words):
    def initialize():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    if said:
        said = {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_PROCESS_ID": "0"} | said
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        mesh.join_processes()


def test_one_process_waits_for_nobody():
    mesh.wait_for_processes()
