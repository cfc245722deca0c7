"""Several runs that differ in seed, learning rate, eps or beta, as one program."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import data
from advjax.checkpoint import Checkpoints
from advjax.config import TrainConfig
from advjax.training import _helper, _loop, _overfitting, _run
from advjax.training._checks import check_config, with_defaults
from advjax.training._config_io import config_to_dict, differences
from advjax.training._loop import Job, TrainResult
from advjax.training._optim import set_learning_rate
from advjax.training._progress import Progress, loading
from advjax.training._state import TrainState, init_state
from advjax.training._sums import NonFiniteLossError, Sums

STACKS = ("auto", "vmap", "map")
# leaves of the state, so that one program serves them all; val_eps follows eps
_FREE = ("seed", "eps", "val_eps", "beta", "optimizer.learning_rate")


class _Member:
    """One run of the stack: its job, its state between epochs, its folder."""

    def __init__(self, job: Job, store: Checkpoints, state: TrainState, done: int) -> None:
        self.job, self.store, self.state, self.done = job, store, state, done
        self.stopped = False

    @property
    def going(self) -> bool:
        return self.done < self.job.config.epochs and not self.stopped


def train_many(
    configs: Sequence[TrainConfig], *, stack: str = "auto", progress: bool = True
) -> list[TrainResult]:
    """Train several runs at once; each writes and resumes its own folder, as `train` would.

    The runs share one compiled step, a `vmap` over them on accelerators and a `lax.map` on a CPU
    (where convolutions with a kernel for each row are slow), and take their steps together. Each
    sees its own order of the images and has the results of a run of its own, up to rounding. Runs
    that a kill left an epoch behind catch up first. A run whose loss becomes NaN is left out, and
    named when the others are done.

    Args:
      configs: may differ in `out`, `seed`, `eps`, `beta` and `optimizer.learning_rate`.
      stack: `"vmap"`, `"map"`, or `"auto"`, by the device.
      progress: show a bar on stderr.

    Returns:
      A result for each config, in their order.

    Raises:
      ValueError: the configs differ in something else, share a folder, or ask for several devices;
        and all that `train` raises, for any of them.
      NonFiniteLossError: after the others are done, naming the runs whose loss became NaN.
    """
    configs = [with_defaults(config) for config in configs]
    _check_together(configs, stack)
    headers = [_run.existing_header(config) for config in configs]
    results: dict[int, TrainResult] = {}
    for i, (config, header) in enumerate(zip(configs, headers, strict=True)):
        before = _loop.finished(config, header["dataset"]["task"]) if header else None
        if before is not None:
            results[i] = before
    waiting = [i for i in range(len(configs)) if i not in results]
    if waiting:
        if _helper.needs_training(configs[0]):
            helpers = [_helper.helper_config(configs[i]) for i in waiting]
            train_many(helpers, stack=stack, progress=progress)
        parts = [(configs[i], headers[i]) for i in waiting]
        found = _train_together(parts, stack, progress)
        results |= dict(zip(waiting, found, strict=True))
    return [results[i] for i in range(len(configs))]


def _check_together(configs: Sequence[TrainConfig], stack: str) -> None:
    if not configs:
        raise ValueError("train_many: expected at least one config")
    if stack not in STACKS:
        raise ValueError(f"stack: unknown {stack!r}; use one of {', '.join(STACKS)}")
    for config in configs:
        check_config(config)
    folders = [config.out for config in configs]
    if len(set(folders)) < len(folders):
        raise ValueError(f"out: every run needs a folder of its own, got {folders}")
    first = configs[0]
    if first.devices != 1:
        raise ValueError("devices: runs that train together share one device; set devices=1")
    for config in configs[1:]:
        changed = differences(config_to_dict(first), config_to_dict(config))
        other = [line for line in changed if line.split(":")[0] not in _FREE]
        if other:
            raise ValueError(
                f"{config.out}: runs that train together may differ in seed, eps, beta and "
                f"optimizer.learning_rate only, not in {'; '.join(other)}; train it by itself"
            )


def _train_together(
    parts: list[tuple[TrainConfig, dict[str, Any] | None]], stack: str, progress: bool
) -> list[TrainResult]:
    """Train the runs that are not finished."""
    first = parts[0][0]
    dataset = data.load(first.data, progress=loading(progress))
    _loop.check_data(first, dataset)
    described = _run.describe_dataset(dataset)
    model = None
    jobs: list[Job] = []
    for config, header in parts:
        jobs.append(_loop.prepare(config, dataset, model))
        model = jobs[0].model
        if header is None:
            _run.write_header(config, described)
        else:
            _run.check_dataset(header, described, config.out)
    with contextlib.ExitStack() as held:
        stores = [held.enter_context(Checkpoints(_loop.folder_of(job.config))) for job in jobs]
        members = _members(jobs, stores)
        resumed = [member.done for member in members]
        failed = _run_epochs(members, stack, progress)
        if failed:
            raise NonFiniteLossError("; ".join(failed))
        return [
            _loop.result_of(m.job.config, dataset.task, m.store, before)
            for m, before in zip(members, resumed, strict=True)
        ]


def _members(jobs: list[Job], stores: list[Checkpoints]) -> list[_Member]:
    """Restore or start every run; one program starts them all."""
    base = jobs[0]
    shape = tuple(base.dataset.image_shape)

    @jax.jit
    def start(seed: jax.Array, variables: Any) -> TrainState:
        return init_state(
            base.model, base.method, base.optimizer, seed, shape, ema=base.config.ema is not None,
            variables=variables,
        )  # fmt: skip

    members = []
    for job, store in zip(jobs, stores, strict=True):
        done = store.latest_step() or 0
        _run.rewind_metrics(job.config.out, done)
        if done:
            state = _loop.restore(job, store, done)
        else:
            state = start(np.uint32(job.config.seed), job.pretrained)
            rate = job.config.optimizer.learning_rate
            state = state._replace(
                method_state=job.method.init(state.params),
                opt_state=set_learning_rate(state.opt_state, rate),
            )
        print(_loop.plan(job, state, done))
        members.append(_Member(job, store, state, done))
    return members


def _run_epochs(members: list[_Member], stack: str, progress: bool) -> list[str]:
    """Train until every run is done; return what is to be said of those that failed."""
    base, failed = members[0].job, []
    step = _stacked_step(base, stack)
    per_epoch = base.steps_per_epoch + len(members) * (base.ticks_per_epoch - base.steps_per_epoch)
    bar = Progress(per_epoch, base.config.epochs, min(m.done for m in members), show=progress)
    try:
        with bar:
            while going := [m for m in members if m.going]:
                behind = min(m.done for m in going)
                # runs that a kill left behind catch up first
                failed += _epoch(step, [m for m in going if m.done == behind], behind + 1, bar)
    except KeyboardInterrupt:
        for m in members:
            saved = m.store.latest_step() or 0
            print(f"{m.job.config.out}: interrupted; {saved} epochs are saved, the same command "
                  "goes on from there")  # fmt: skip
        raise
    return failed


def _stacked_step(job: Job, stack: str) -> Any:
    """Return `(states, batches) -> (states, metrics)` over a leading axis of runs."""
    if stack == "auto":
        stack = "map" if jax.default_backend() == "cpu" else "vmap"
    if stack == "vmap":
        return jax.jit(jax.vmap(job.pure_step), donate_argnums=0)

    def one_after_the_other(states: Any, batches: Any) -> Any:
        return jax.lax.map(lambda pair: job.pure_step(*pair), (states, batches))

    return jax.jit(one_after_the_other, donate_argnums=0)


def _epoch(step: Any, members: list[_Member], epoch: int, bar: Progress) -> list[str]:
    """Train one epoch of runs that stand at the same one; return what failed."""
    started = time.perf_counter()
    bar.start(epoch)
    # a loop over one run is no loop to XLA, and rounds otherwise: one that catches up goes twice
    lanes = members if len(members) > 1 else members * 2
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(m.state for m in lanes))
    per_epoch = members[0].job.steps_per_epoch
    sums = [Sums(m.job.config, epoch, per_epoch) for m in members]
    failed: dict[int, str] = {}
    waiting: list[Any] = []
    rows = zip(*(_loop.batches(m.job, epoch) for m in lanes), strict=True)
    for number, batches in enumerate(rows, start=1):
        states, metrics = step(states, jax.tree.map(lambda *leaves: np.stack(leaves), *batches))
        waiting.append(metrics)
        if len(waiting) == _loop.LOOK_EVERY or number == per_epoch:
            for values in jax.device_get(waiting):
                _add(sums, values, failed)
            waiting = []
        bar.tick()
    for i, member in enumerate(members):
        member.done = epoch
        if i in failed:
            member.stopped = True
            bar.say(f"warning: {failed[i]}")
            continue
        member.state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
        record = _loop.close_epoch(
            member.job, member.store, member.state, epoch, sums[i].means(), started, bar
        )
        member.stopped = _overfitting.stops(member.job.config, record)
    return list(failed.values())


def _add(sums: list[Sums], values: dict[str, Any], failed: dict[int, str]) -> None:
    """Add the metrics of one step of every run; note those that are no numbers."""
    for i, one in enumerate(sums):
        if i not in failed:
            try:
                one.add({name: value[i] for name, value in values.items()})
            except NonFiniteLossError as error:
                failed[i] = str(error)
