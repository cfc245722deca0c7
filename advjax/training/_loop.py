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
from advjax.training import _helper, _overfitting, _pretrained, _run, _validate
from advjax.training._checks import (
    UNATTACKED,
    check_channels,
    check_config,
    check_detection,
    check_ranking,
    check_splits,
    pixel_eps,
    score_name,
    with_defaults,
)
from advjax.training._optim import build_optimizer, learning_rate_at
from advjax.training._progress import Progress, loading
from advjax.training._state import TrainState, eval_variables, init_state
from advjax.training._step import AugmentPair, Step, make_train_step
from advjax.training._sums import Sums
from advjax.training.methods import Method, trained_eps
from advjax.training.methods import build as build_method
from advjax.types import Array

# how many steps may be under way before their losses are looked at
LOOK_EVERY = 16


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


class Job(NamedTuple):
    """What does not change while a run goes on."""

    config: TrainConfig
    dataset: Dataset
    model: Model
    method: Method
    optimizer: optax.GradientTransformation
    pure_step: Step
    pretrained: Any  # variables to start from; None: drawn, or a checkpoint goes on
    init: Callable[[Any], TrainState]
    step: Callable[..., tuple[TrainState, dict[str, Array]]]
    validate: Callable[..., dict[str, float]]
    probe: Callable[[Any], dict[str, float]]
    steps_per_epoch: int
    total_updates: int
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
        before = finished(config, header["dataset"]["task"])
        if before is not None:
            return before
    if _helper.needs_training(config):
        train(_helper.helper_config(config), progress=progress)
    dataset = data.load(config.data, progress=loading(progress))
    check_data(config, dataset)
    job = prepare(config, dataset)
    described = _run.describe_dataset(dataset)
    if header is None:
        _run.write_header(config, described)
    else:
        _run.check_dataset(header, described, config.out)
    with Checkpoints(folder_of(config)) as store:
        return _continue(job, store, progress)


def check_data(config: TrainConfig, dataset: Dataset) -> None:
    """Check that there is enough to train on and to select by; say what the data want to be said.

    Raises:
      ValueError: see `check_channels`, `check_splits`, `check_ranking` and `check_detection`.
    """
    check_channels(config, dataset.image_shape[-1])
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    check_splits(config, dataset.task, sizes, dataset.num_classes)
    if dataset.task == "multi":
        check_ranking(np.asarray(dataset.splits["val"].targets))
    if dataset.task == "detection":
        check_detection(config, np.asarray(dataset.splits["val"].targets))
    for note in dataset.notes:
        print(f"{dataset.name}: {note}")


def folder_of(config: TrainConfig) -> Path:
    return Path(config.out) / _run.CHECKPOINTS


def finished(config: TrainConfig, task: str) -> TrainResult | None:
    if not folder_of(config).is_dir():
        return None
    with Checkpoints(folder_of(config), read_only=True) as store:
        last = store.latest_step()
        if last is None:
            return None
        stopped = _overfitting.stops(config, store.info(last).get("record", {}))
        if last != config.epochs and not stopped:
            return None
        result = result_of(config, task, store, last)
    done = f"all {last} epochs are done"
    if stopped:
        done = f"it stopped after epoch {last} of {config.epochs} (catastrophic overfitting)"
    print(
        f"{config.out}: nothing to do, {done} (best: epoch {result.best_epoch}, {result.score} "
        f"{result.best_score:.4f})"
    )
    return result


def result_of(config: TrainConfig, task: str, store: Checkpoints, resumed: int) -> TrainResult:
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


def prepare(config: TrainConfig, dataset: Dataset, model: Model | None = None) -> Job:
    """Build model, method and optimiser, and the programs; compiles nothing yet."""
    devices = mesh.data_mesh(config.devices)
    whole, rows = mesh.replicated(devices), mesh.sharded(devices)
    model = model or models.build(config.model, num_classes=dataset.num_classes)
    method = build_method(config, dataset.task, _helper.make_context(config, dataset))
    steps = len(dataset.splits["train"]) // config.batch_size
    updates = steps * config.epochs * method.replays
    optimizer = build_optimizer(config.optimizer, updates)
    pair = _augmentation(config, dataset.task)
    step = make_train_step(model, method, optimizer, ema=config.ema, augment_pair=pair)
    validate, ticks = _validate.make_validation(config, dataset, model, rows)

    def init(variables: Any) -> TrainState:
        return init_state(
            model, method, optimizer, config.seed, tuple(dataset.image_shape),
            ema=config.ema is not None, variables=variables,
        )  # fmt: skip

    return Job(
        config=config,
        dataset=dataset,
        model=model,
        method=method,
        optimizer=optimizer,
        pure_step=step,
        pretrained=None if _saved(config) else _pretrained.load(config, dataset, model),
        init=jax.jit(init, out_shardings=whole),
        step=jax.jit(
            step, in_shardings=(whole, rows), out_shardings=(whole, whole), donate_argnums=0
        ),
        validate=validate,
        probe=_overfitting.make_probe(config, dataset, model, pixel_eps(config), rows),
        steps_per_epoch=steps,
        total_updates=updates,
        ticks_per_epoch=steps + ticks,
    )


def _saved(config: TrainConfig) -> bool:
    """Whether there is a checkpoint to go on from, so that nothing else is needed."""
    if not folder_of(config).is_dir():
        return False
    with Checkpoints(folder_of(config), read_only=True) as store:
        return store.latest_step() is not None


def _augmentation(config: TrainConfig, task: str) -> AugmentPair | None:
    """Return what changes images at random, and masks or boxes with them."""
    if config.augment == type(config.augment)():
        return None

    def change(keys: Array, images: Array, target: Any) -> tuple[Array, Any]:
        if task == "segmentation":
            return data.augment_pair(keys, images, target, config.augment)
        if task == "detection":
            return data.augment_boxes(keys, images, target, config.augment)
        return data.augment(keys, images, config.augment), target

    return change


def _continue(job: Job, store: Checkpoints, progress: bool) -> TrainResult:
    config = job.config
    done = store.latest_step() or 0
    _run.rewind_metrics(config.out, done)
    state = restore(job, store, done) if done else job.init(job.pretrained)
    print(plan(job, state, done))
    bar = Progress(job.ticks_per_epoch, config.epochs, done, show=progress)
    epoch = done
    try:
        with bar:
            for epoch in range(done + 1, config.epochs + 1):
                state, record = _epoch(job, store, state, epoch, bar)
                if _overfitting.stops(config, record):
                    break
    except KeyboardInterrupt:
        saved = store.latest_step() or 0
        print(
            f"{config.out}: interrupted in epoch {epoch}; {saved} of {config.epochs} epochs are "
            "saved, the same command goes on from there"
        )
        raise
    result = result_of(config, job.dataset.task, store, done)
    print(
        f"{config.out}: done; best epoch {result.best_epoch} of {result.epochs}, "
        f"{result.score} {result.best_score:.4f}"
    )
    return result


def restore(job: Job, store: Checkpoints, step: int) -> TrainState:
    shapes = jax.eval_shape(job.init, None)
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
    job: Job, store: Checkpoints, state: TrainState, epoch: int, bar: Progress
) -> tuple[TrainState, dict[str, Any]]:
    """Train one epoch, validate, write the record, then the checkpoint."""
    started = time.perf_counter()
    bar.start(epoch)
    state, sums = _train_epoch(job, state, epoch, bar)
    return state, close_epoch(job, store, state, epoch, sums, started, bar)


def close_epoch(
    job: Job,
    store: Checkpoints,
    state: TrainState,
    epoch: int,
    sums: dict[str, float],
    started: float,
    bar: Progress,
) -> dict[str, Any]:
    """Validate, write the record, then the checkpoint; return the record."""
    config, trained = job.config, time.perf_counter() - started
    made = job.total_updates * epoch // config.epochs
    rate = learning_rate_at(config.optimizer, job.total_updates, made - 1)
    variables = eval_variables(state)
    scores = {**job.validate(variables, bar.tick), **job.probe(variables)}
    record: dict[str, Any] = {
        "epoch": epoch,
        "step": epoch * job.steps_per_epoch,
        **{f"train_{name}": value for name, value in sums.items()},
        **scores,
        "learning_rate": rate,
        "train_seconds": round(trained, 3),
        "seconds": round(time.perf_counter() - started, 3),
    }
    name = score_name(config, job.dataset.task)
    fall = _overfitting.fell_by(record, _run.read_metrics(config.out, epoch - 1))
    record |= {_overfitting.ALARM: True} if fall > _overfitting.DROP else {}
    _run.append_metrics(config.out, record)
    last = epoch == config.epochs or _overfitting.stops(config, record)
    if last or epoch % config.checkpoint_every == 0:
        store.save(epoch, split_state(state), score=record[name], info={"record": record})
    bar.say(_line(record, config.epochs))
    if _overfitting.ALARM in record:
        bar.say(_overfitting.warning(config, record, fall))
    return record


def _train_epoch(
    job: Job, state: TrainState, epoch: int, bar: Progress
) -> tuple[TrainState, dict[str, float]]:
    """Run the steps of one epoch; return the state and means over its examples."""
    config = job.config
    sums, waiting = Sums(config, epoch, job.steps_per_epoch), []
    for number, batch in enumerate(batches(job, epoch), start=1):
        state, metrics = job.step(state, batch)
        waiting.append(metrics)
        if len(waiting) == LOOK_EVERY or number == job.steps_per_epoch:
            for values in jax.device_get(waiting):
                sums.add(values)
            waiting = []
            bar.loss(sums.loss())
        bar.tick()
    return state, sums.means()


def batches(job: Job, epoch: int) -> Iterator[Any]:
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


def plan(job: Job, state: TrainState, done: int) -> str:
    config, dataset = job.config, job.dataset
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    shape = "x".join(str(n) for n in dataset.image_shape)
    size = optax.tree.size(state.params)
    low, high = trained_eps(config)
    budget = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    attack = "" if config.method in UNATTACKED else f" at eps {budget}"
    resumed = f", resumed after epoch {done}" if done else ""
    return (
        f"{config.out}: {config.method} training{attack} of {job.model.name} "
        f"({size:,} parameters) on {dataset.name}: {sizes['train']} train, "
        f"{sizes['val']} val, {shape}, {dataset.num_classes} classes; {config.epochs} epochs of "
        f"{job.steps_per_epoch} steps on {config.devices} device(s){resumed}"
    )


def _line(record: dict[str, Any], epochs: int) -> str:
    shown = [n for n in record if n.startswith(("val_", "robust_", "pgd5_"))]
    scores = ", ".join(f"{name} {record[name]:.4f}" for name in shown)
    return (
        f"epoch {record['epoch']}/{epochs}: loss {record['train_loss']:.4f}, accuracy "
        f"{record['train_accuracy']:.4f}, {scores} ({record['seconds']:.1f} s)"
    )
