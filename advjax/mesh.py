"""Devices in one row: the mesh on which attacks and training split a batch.

    mesh = data_mesh(8)
    params = jax.device_put(params, replicated(mesh))
    x = jax.device_put(x, sharded(mesh))

The axis type is `Auto`, said explicitly: the default of `jax.make_mesh` is `Explicit` since
jax 0.9, under which unsharded inputs of `shard_map` are an error.
"""

import itertools
import os
from collections.abc import Iterable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Array = jax.Array

AXIS = "data"

# one process may have hard examples and take hours longer than another; a dead one is noticed
# long before, by its heartbeat
_PATIENCE = 7 * 24 * 3600
_meetings = itertools.count()


def data_mesh(num_devices: int | None = None) -> Mesh:
    """Make a mesh with the single axis `"data"`.

    Args:
      num_devices: how many devices take part, the first ones of `jax.devices()`; None: all.

    Returns:
      A mesh with the axis `"data"`, of type `Auto`.

    Raises:
      ValueError: fewer devices exist, or the number is not positive.
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if count < 1:
        raise ValueError(f"num_devices: expected at least 1, got {count}")
    if count > len(devices):
        raise ValueError(
            f"num_devices: {count} asked for, but {len(devices)} {devices[0].platform} device(s) "
            f"exist; on a CPU, set JAX_NUM_CPU_DEVICES={count} in the environment before jax "
            "first touches a device"
        )
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def join_processes() -> None:
    """Connect this process with the others of its job; to be called before any use of a device.

    SLURM, Open MPI and TPU pods are asked by jax itself. Anywhere else, such as in a Kubernetes
    job, the environment says it: `JAX_COORDINATOR_ADDRESS` (`host:port` of the first process),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` (counted from 0).

    Raises:
      ValueError: nothing says which processes there are, or the numbers are none.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    said = [os.environ.get(name, "") for name in names]
    if all(said):
        try:
            count, index = int(said[1]), int(said[2])
        except ValueError:
            raise ValueError(
                f"{names[1]}={said[1]}, {names[2]}={said[2]}: must be numbers"
            ) from None
        # what jax detects would also hide all devices but one, or ask for a package
        jax.distributed.initialize(said[0], count, index, cluster_detection_method="deactivate")
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            f"no job of several processes was found ({error}); set {', '.join(names)} for each"
        ) from error


def wait_for_processes() -> None:
    """Return once every process of the job has called this as often; at once where there is one.

    To be called before processes exchange anything after long work of their own: a collective
    (`sync_global_devices` is one too) gives up on a process that is half a minute late (gloo),
    while the coordination service waits as long as it is told. jax makes it public nowhere else.
    """
    from jax._src import distributed

    client = distributed.global_state.client
    if client is not None:
        client.wait_at_barrier(f"advjax_meeting_{next(_meetings)}", _PATIENCE * 1000)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device of `mesh` holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays `[B, ...]` whose rows are split over `"data"`."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def varying_axes(x: Array) -> frozenset[str]:
    """Return the names of the `shard_map` axes over which the value of `x` may differ.

    Empty outside `shard_map`, inside it with `check_vma=False`, and for replicated values.
    """
    kind = jax.typeof(x)
    # jax 0.10.1 moved the set from `aval.vma` to `aval.mat.varying`
    manual = getattr(kind, "mat", None)
    axes = getattr(manual, "varying", None) if manual is not None else getattr(kind, "vma", None)
    return frozenset(axes or ())


def vary(x: Array, axes: Iterable[str]) -> Array:
    """Mark `x` as varying over `axes`, without changing a value.

    A function with a custom gradient needs its inputs to agree: `vary(w, varying_axes(x))` makes
    replicated weights agree with a sharded batch, and the transpose of the cast sums their
    gradient over the devices, where anybody asks for it.
    """
    missing = tuple(sorted(frozenset(axes) - varying_axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x
