"""A whole training run: data in, a folder with checkpoints out, resumable at any moment."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from advjax import data, mesh, models
from advjax.checkpoint import Checkpoints
from advjax.config import TrainConfig
from advjax.data import Dataset, Split
from advjax.models import Model
from advjax.training import _run, _validate
from advjax.training._checks import (
    check_config,
    check_ranking,
    check_splits,
    score_name,
    with_defaults,
)
from advjax.training._optim import build_optimizer, learning_rate_at
from advjax.training._progress import Progress, loading
from advjax.training._state import TrainState, eval_variables, init_state
from advjax.training._step import AugmentPair, make_train_step
from advjax.training.methods import build as build_method
from advjax.types import Array

# how many steps may be under way before their losses are looked at
_LOOK_EVERY = 16


class TrainResult(NamedTuple):
    """What a run ended with.

    Attributes:
      run_dir: the folder.
      epochs: epochs done.
      best_epoch: the epoch that the validation split chose.
      best_score: its score.
      score: what the score is, for instance `val_accuracy` or `robust_accuracy`.
      history: the records of `metrics.jsonl`.
      resumed_from: epochs that were done before this call; equal to `epochs` where there was
        nothing to do.
    """

    run_dir: Path
    epochs: int
    best_epoch: int
    best_score: float
    score: str
    history: list[dict[str, Any]]
    resumed_from: int


class NonFiniteLossError(ValueError):
    """The loss or the gradient became NaN or infinite."""


class _Job(NamedTuple):
    """What does not change while a run goes on."""

    config: TrainConfig
    dataset: Dataset
    model: Model
    init: Callable[[], TrainState]
    step: Callable[..., tuple[TrainState, dict[str, Array]]]
    validate: Callable[..., dict[str, float]]
    steps_per_epoch: int
    ticks_per_epoch: int


def train(config: TrainConfig, *, progress: bool = True) -> TrainResult:
    """Train, validate, select and save; resume what was interrupted.

    Writes `config.out`: `config.json`, `metrics.jsonl` (one line per epoch) and `checkpoints/`
    (newest two, and the best by the validation split). A run that was killed, at any moment,
    continues from its last checkpoint and ends with the same parameters, bit for bit, as one
    that was not, on the same machine; on a CPU as far as XLA's threads round alike (README, sharp
    edges). A finished run says that there is nothing to do.

    The last batch of an epoch is left out where it is not full; other images each epoch.

    Args:
      config: everything about the run.
      progress: show a bar with rate and ETA on stderr; the lines on stdout are always printed.

    Returns:
      What the run ended with.

    Raises:
      ValueError: the config is impossible, the data are bad, or the folder holds another run.
      FileNotFoundError: the data are missing.
      NonFiniteLossError: the loss became NaN; checkpoints of earlier epochs are intact.
      OSError: the disk is full; earlier checkpoints are intact.
      KeyboardInterrupt: interrupted; the same call goes on from the last checkpoint.
    """
    config = with_defaults(config)
    check_config(config)
    header = _run.existing_header(config)
    if header is not None:
        finished = _finished(config, header["dataset"]["task"])
        if finished is not None:
            return finished
    dataset = data.load(config.data, progress=loading(progress))
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    check_splits(config, dataset.task, sizes, dataset.num_classes)
    if dataset.task == "multi":
        check_ranking(np.asarray(dataset.splits["val"].targets))
    job = _prepare(config, dataset)
    described = _run.describe_dataset(dataset)
    if header is None:
        _run.write_header(config, described)
    else:
        _run.check_dataset(header, described, config.out)
    with Checkpoints(_folder(config)) as store:
        return _continue(job, store, progress)


def _folder(config: TrainConfig) -> Path:
    return Path(config.out) / _run.CHECKPOINTS


def _finished(config: TrainConfig, task: str) -> TrainResult | None:
    if not _folder(config).is_dir():
        return None
    with Checkpoints(_folder(config), read_only=True) as store:
        if store.latest_step() != config.epochs:
            return None
        result = _result(config, task, store, config.epochs)
    print(
        f"{config.out}: nothing to do, all {config.epochs} epochs are done (best: epoch "
        f"{result.best_epoch}, {result.score} {result.best_score:.4f})"
    )
    return result


def _result(config: TrainConfig, task: str, store: Checkpoints, resumed: int) -> TrainResult:
    best = store.best_step() or 0
    return TrainResult(
        run_dir=Path(config.out),
        epochs=store.latest_step() or 0,
        best_epoch=best,
        best_score=store.score(best),
        score=score_name(config, task),
        history=_run.read_metrics(config.out),
        resumed_from=resumed,
    )


def _prepare(config: TrainConfig, dataset: Dataset) -> _Job:
    """Build model, method and optimiser, and the programs; compiles nothing yet."""
    devices = mesh.data_mesh(config.devices)
    whole, rows = mesh.replicated(devices), mesh.sharded(devices)
    model = models.build(config.model, num_classes=dataset.num_classes)
    method = build_method(config, dataset.task)
    steps = len(dataset.splits["train"]) // config.batch_size
    optimizer = build_optimizer(config.optimizer, steps * config.epochs)
    pair = _augmentation(config, dataset.task)
    step = make_train_step(model, method, optimizer, ema=config.ema, augment_pair=pair)

    def init() -> TrainState:
        shape = tuple(dataset.image_shape)
        return init_state(model, method, optimizer, config.seed, shape, ema=config.ema is not None)

    validate, ticks = _validate.make_validation(config, dataset, model, rows)
    return _Job(
        config=config,
        dataset=dataset,
        model=model,
        init=jax.jit(init, out_shardings=whole),
        step=jax.jit(
            step, in_shardings=(whole, rows), out_shardings=(whole, whole), donate_argnums=0
        ),
        validate=validate,
        steps_per_epoch=steps,
        ticks_per_epoch=steps + ticks,
    )


def _augmentation(config: TrainConfig, task: str) -> AugmentPair | None:
    """Return what changes images at random, and masks with them."""
    if config.augment == type(config.augment)():
        return None

    def change(keys: Array, images: Array, target: Any) -> tuple[Array, Any]:
        if task == "segmentation":
            return data.augment_pair(keys, images, target, config.augment)
        return data.augment(keys, images, config.augment), target

    return change


def _continue(job: _Job, store: Checkpoints, progress: bool) -> TrainResult:
    config = job.config
    done = store.latest_step() or 0
    _run.rewind_metrics(config.out, done)
    state = _restore(job, store, done) if done else job.init()
    print(_plan(job, state, done))
    bar = Progress(job.ticks_per_epoch, config.epochs, done, show=progress)
    epoch = done
    try:
        with bar:
            for epoch in range(done + 1, config.epochs + 1):
                state = _epoch(job, store, state, epoch, bar)
    except KeyboardInterrupt:
        saved = store.latest_step() or 0
        print(
            f"{config.out}: interrupted in epoch {epoch}; {saved} of {config.epochs} epochs are "
            "saved, the same command goes on from there"
        )
        raise
    result = _result(config, job.dataset.task, store, done)
    print(
        f"{config.out}: done; best epoch {result.best_epoch} of {result.epochs}, "
        f"{result.score} {result.best_score:.4f}"
    )
    return result


def _restore(job: _Job, store: Checkpoints, step: int) -> TrainState:
    shapes = jax.eval_shape(job.init)
    whole = mesh.replicated(mesh.data_mesh(job.config.devices))
    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole), shapes)
    return join_state(store.restore(step, split_state(shapes)))


def split_state(state: TrainState) -> dict[str, Any]:
    """Split a state into what evaluation needs and what only training needs."""
    values = state._asdict()
    model = {name: values.pop(name) for name in ("params", "model_state", "ema")}
    return {"model": model, "training": values}


def join_state(trees: dict[str, Any]) -> TrainState:
    """Join what `split_state` split."""
    return TrainState(**trees["model"], **trees["training"])


def _epoch(
    job: _Job, store: Checkpoints, state: TrainState, epoch: int, bar: Progress
) -> TrainState:
    """Train one epoch, validate, write the record, then the checkpoint."""
    config, started = job.config, time.perf_counter()
    bar.start(epoch)
    state, sums = _train_epoch(job, state, epoch, bar)
    trained = time.perf_counter() - started
    rate = learning_rate_at(
        config.optimizer, job.steps_per_epoch * config.epochs, epoch * job.steps_per_epoch - 1
    )
    scores = job.validate(eval_variables(state), bar.tick)
    record = {
        "epoch": epoch,
        "step": epoch * job.steps_per_epoch,
        **{f"train_{name}": value for name, value in sums.items()},
        **scores,
        "learning_rate": rate,
        "train_seconds": round(trained, 3),
        "seconds": round(time.perf_counter() - started, 3),
    }
    name = score_name(config, job.dataset.task)
    _run.append_metrics(config.out, record)
    if epoch % config.checkpoint_every == 0 or epoch == config.epochs:
        store.save(epoch, split_state(state), score=record[name], info={"record": record})
    bar.say(_line(record, config.epochs))
    return state


def _train_epoch(
    job: _Job, state: TrainState, epoch: int, bar: Progress
) -> tuple[TrainState, dict[str, float]]:
    """Run the steps of one epoch; return the state and means over its examples."""
    totals: dict[str, float] = {}
    waiting: list[dict[str, Array]] = []
    first = (epoch - 1) * job.steps_per_epoch
    seen = 0
    for number, batch in enumerate(_batches(job, epoch), start=1):
        state, metrics = job.step(state, batch)
        waiting.append(metrics)
        if len(waiting) == _LOOK_EVERY or number == job.steps_per_epoch:
            for values in jax.device_get(waiting):
                seen += 1
                _check_finite(job.config, values, epoch, first + seen)
                for name, value in values.items():
                    totals[name] = totals.get(name, 0.0) + float(value)
            waiting = []
            bar.loss(totals["loss"] / totals["count"])
        bar.tick()
    count = totals.pop("count")
    norm = totals.pop("grad_norm") / job.steps_per_epoch
    return state, {**{n: v / count for n, v in totals.items()}, "grad_norm": norm}


def _batches(job: _Job, epoch: int) -> Iterator[Any]:
    """Yield the full batches of an epoch."""
    config: TrainConfig = job.config
    split: Split = job.dataset.splits["train"]
    batches = data.batches(
        split,
        config.batch_size,
        seed=config.seed,
        epoch=epoch,
        shuffle=True,
        balanced=config.balanced,
    )
    return itertools.islice(batches, job.steps_per_epoch)


def _check_finite(config: TrainConfig, values: dict[str, Any], epoch: int, step: int) -> None:
    for name in ("loss", "grad_norm"):
        if not np.isfinite(values[name]):
            raise NonFiniteLossError(
                f"{config.out}: {name} is {float(values[name])} at step {step} (epoch {epoch}); "
                f"lower optimizer.learning_rate ({config.optimizer.learning_rate:g}) or set "
                "optimizer.grad_clip=1.0 and start again in a new folder; checkpoints of earlier "
                "epochs are intact"
            )


def _plan(job: _Job, state: TrainState, done: int) -> str:
    config, dataset = job.config, job.dataset
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    shape = "x".join(str(n) for n in dataset.image_shape)
    size = optax.tree.size(state.params)
    attack = "" if config.method == "standard" else f" at eps {config.eps:.4g}"
    resumed = f", resumed after epoch {done}" if done else ""
    return (
        f"{config.out}: {config.method} training{attack} of {job.model.name} "
        f"({size:,} parameters) on {dataset.name}: {sizes['train']} train, "
        f"{sizes['val']} val, {shape}, {dataset.num_classes} classes; {config.epochs} epochs of "
        f"{job.steps_per_epoch} steps on {config.devices} device(s){resumed}"
    )


def _line(record: dict[str, Any], epochs: int) -> str:
    shown = [n for n in record if n.startswith(("val_", "robust_"))]
    scores = ", ".join(f"{name} {record[name]:.4f}" for name in shown)
    return (
        f"epoch {record['epoch']}/{epochs}: loss {record['train_loss']:.4f}, accuracy "
        f"{record['train_accuracy']:.4f}, {scores} ({record['seconds']:.1f} s)"
    )
