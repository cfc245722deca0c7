"""What the outputs of a model mean, by task: losses, verdicts, and what rows keep of an output.

No attack knows its task. Training, the command line and reports ask here for everything that
differs between one label, several findings, masks and boxes; `TASKS` is the table.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import boxes as box
from advjax import criteria, losses, metrics
from advjax.types import Array, CriterionFn, LossFn, Output, Target


class Task(NamedTuple):
    """A task. Functions of `(output, target)` are about ONE example.

    Attributes:
      name: `"single"` (one label), `"multi"` (several findings), `"segmentation"` (a class for
        every pixel) or `"detection"` (boxes).
      loss: what training descends and attacks ascend.
      accuracy: `(output, target) -> []` in [0, 1]: 1 or 0; multi-label: share of the known labels
        that are right; segmentation: share of the pixels; detection: share of the true boxes that
        are found.
      criterion: what counts as broken.
      right: `(output, target) -> [] bool`, right without doubt: a tie or an output that is not
        finite is neither right nor a success.
      losses: by name, what an attack may ascend instead.
      criteria: by name, what may count as broken instead.
      readout: `(output, target) -> array`, what scores and rows need of an output: the logits;
        segmentation: `[K, 3]` pixels of each class, in prediction and truth, predicted, true;
        detection: `[n + K, 3]`, see `split_boxes`.
      certainty: `(output) -> []`, how sure a model is of what it says, in [0, 1].
      record: `(readouts [N, ...]) -> [N, P]` float32, NumPy, for rows: probabilities; segmentation:
        the pixels, `P = 3 K`; detection: the readout, `P = 3 (n + K)`.
      label: `(targets [N, ...], num_classes) -> [N, L]` integers, NumPy, for rows: the class;
        findings; segmentation: which classes there are; detection: boxes of each class.
      scores: `(readouts [N, ...], targets [N, ...]) -> {name: figure}`, NumPy; `score` is the name
        of the one that selects models.
      score: see `scores`.
    """

    name: str
    loss: LossFn
    accuracy: Callable[[Output, Target], Array]
    criterion: CriterionFn
    right: CriterionFn
    losses: Mapping[str, LossFn]
    criteria: Mapping[str, CriterionFn]
    readout: Callable[[Output, Target], Array]
    certainty: Callable[[Output], Array]
    record: Callable[[np.ndarray], np.ndarray]
    label: Callable[[np.ndarray, int], np.ndarray]
    scores: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    score: str


def get_task(name: str) -> Task:
    """Return the task of a data set.

    Raises:
      ValueError: an unknown name.
    """
    if name not in TASKS:
        raise ValueError(f"task: unknown {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]


def goal(task: Task, text: str, names: Sequence[str]) -> Callable[[Target], Target]:
    """Return what a targeted attack wants, of ONE true target.

    Args:
      task: of the data.
      text: `"class-NAME"` (one label; an image of it has reached it from the start); `"hide-NAME"`
        or `"fabricate-NAME"` (a finding; an image that cannot lose or gain it has nothing to
        reach); `"erase"` (a mask of background).
      names: of the classes or findings.

    Raises:
      ValueError: the task has no such goal, or there is no such name.
    """
    kind, _, name = text.partition("-")
    kinds = {"single": ("class",), "multi": ("hide", "fabricate"), "segmentation": ("erase",)}
    if task.name not in kinds:
        raise ValueError(f"goal: {text!r} is none; attacks on {task.name} lead away only")
    if kind not in kinds[task.name] or (kind != "erase" and name not in names):
        known = [k if k == "erase" else f"{k}-NAME" for k in kinds[task.name]]
        raise ValueError(
            f"goal: {text!r} is none; for {task.name} data use {' or '.join(known)}"
            + ("" if task.name == "segmentation" else f", with a NAME of {', '.join(names)}")
        )
    index = 0 if kind == "erase" else list(names).index(name)
    if kind == "class":
        return lambda label: jnp.full_like(label, index)
    if kind == "erase":
        return lambda mask: jnp.where(mask == losses.IGNORE, mask, jnp.zeros_like(mask))
    wanted = criteria.hide_finding if kind == "hide" else criteria.fabricate_finding
    carries = kind == "hide"

    def of(labels: Target) -> Target:
        fits = (labels[index] > 0.5) if carries else (labels[index] == 0)
        return jnp.where(fits, wanted(labels, index), -jnp.ones_like(labels))

    return of


def _logits(output: Array, target: Target) -> Array:
    del target
    return output


def _right(output: Array, target: Array) -> Array:
    return metrics.correct(output[None], target[None])[0]


def _single_accuracy(logits: Array, label: Array) -> Array:
    return 1.0 - criteria.misclassified(logits, label).astype(jnp.float32)


def _single_certainty(logits: Array) -> Array:
    return jnp.max(jax.nn.softmax(logits))


def _softmax(logits: np.ndarray) -> np.ndarray:
    # rows of a sweep come in batches of all sizes: no program for each of them
    logits = np.asarray(logits, np.float32)
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _single_scores(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    prediction, count = logits.argmax(-1), logits.shape[-1]
    balanced = metrics.balanced_accuracy(prediction, targets, num_classes=count)
    return {
        "accuracy": metrics.accuracy(prediction, targets),
        "balanced_accuracy": float(balanced.mean),
    }


def _multi_accuracy(logits: Array, labels: Array) -> Array:
    known = labels >= 0
    right = (logits > 0) == (labels > 0.5)
    return jnp.sum(right & known) / jnp.maximum(jnp.sum(known), 1).astype(jnp.float32)


def _multi_certainty(logits: Array) -> Array:
    return jnp.mean(jax.nn.sigmoid(jnp.abs(logits)))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(np.float32(0), -np.asarray(logits, np.float32)))


def _multi_scores(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    # labels without a positive or a negative are left out of the mean
    area = metrics.auroc(logits, targets)
    found = (logits > 0).astype(np.int64)
    return {"auroc": float(area.mean), "accuracy": metrics.label_accuracy(found, targets)}


def _pixel_accuracy(logits: Array, mask: Array) -> Array:
    counted = mask != losses.IGNORE
    missed = (jnp.argmax(logits, -1) != mask) & counted
    # nothing that counts is all right, as for `criteria.pixel_accuracy`
    return 1 - jnp.sum(missed) / jnp.maximum(jnp.sum(counted), 1).astype(jnp.float32)


def _pixel_certainty(logits: Array) -> Array:
    return jnp.mean(jnp.max(jax.nn.softmax(logits), -1))


def _unless(broken: CriterionFn) -> CriterionFn:
    """Right: all of the output is finite, and it is not broken."""

    def right(output: Output, target: Target) -> Array:
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(output)]
        return jnp.all(jnp.stack(finite)) & ~broken(output, target)

    return right


def _overlap(logits: Array, mask: Array) -> Array:
    """Return `[K, 3]` float32: pixels in both, predicted, true; ignored ones left out."""
    classes = jnp.arange(logits.shape[-1])
    counted = (mask != losses.IGNORE)[..., None]
    said = (jnp.argmax(logits, -1)[..., None] == classes) & counted
    true = (mask[..., None] == classes) & counted
    parts = [jnp.sum(part, (0, 1)) for part in (said & true, said, true)]
    return jnp.stack(parts, -1).astype(jnp.float32)


def _flat(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts, np.float32).reshape(len(counts), -1)


def _present(masks: np.ndarray, num_classes: int) -> np.ndarray:
    return np.stack([(masks == k).any((1, 2)) for k in range(num_classes)], 1).astype(np.int64)


def _mask_scores(counts: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    del targets
    pixels = np.asarray(counts).astype(np.int64)
    return {
        "dice": float(metrics.image_dice(pixels).mean()),
        "iou": float(metrics.image_iou(pixels).mean()),
        "accuracy": metrics.pixel_accuracy(pixels),
    }


def _class(targets: np.ndarray, num_classes: int) -> np.ndarray:
    del num_classes
    return targets[:, None]


def _findings(targets: np.ndarray, num_classes: int) -> np.ndarray:
    del num_classes
    return targets


def _cells(output: Any, boxes: Array) -> Array:
    """Cross entropy of the cells of a detector, as what attacks on masks see of it."""
    return losses.pixel_cross_entropy(*losses.detection_pixels(output, boxes))


def _told_boxes(output: Any) -> Array:
    """Return the mean score of the boxes that a detector tells; 0 where it tells none."""
    scores = box.decode(output).scores
    told = scores >= box.SCORE
    return jnp.sum(jnp.where(told, scores, 0)) / jnp.maximum(jnp.sum(told), 1)


def _matched(output: Any, boxes: Array) -> Array:
    """Return the readout of a detector, see `split_boxes`."""
    found = box.decode(output)
    hit = box.hits(found, boxes)
    classes = jnp.arange(box.maps(output).heatmap.shape[-1])
    own = boxes[:, 0] == classes[:, None]  # [K, M]
    counts = [-1 - classes, jnp.sum(own, 1), jnp.sum(own & criteria.found_boxes(found, boxes), 1)]
    rows = [jnp.stack(columns, -1).astype(jnp.float32)
            for columns in ((found.classes, found.scores, hit), counts)]  # fmt: skip
    return jnp.concatenate(rows)


class Matched(NamedTuple):
    """What readouts and rows keep of the detections of N images.

    Attributes:
      classes: `[N, n]` int64.
      scores: `[N, n]`, highest first; 0 where there is no detection.
      hits: `[N, n]` bool, which find a true box at an IoU of 0.5, see `boxes.hits`.
      true: `[N, K]` int64, boxes of each class.
      found: `[N, K]` int64, those found by a score of 0.3 and more, as `criteria.recall` counts.
    """

    classes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    true: np.ndarray
    found: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """Share of the true boxes of each image that are found `[N]`; 1 where there is none."""
        true = self.true.sum(1)
        return np.where(true > 0, self.found.sum(1) / np.maximum(true, 1), 1.0)

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Average precision of each class at an IoU of 0.5 `[R, K]`, of images that weigh `[R, N]`.

        NaN for a class without a true box; `weights` None: once, each image alike.
        """
        weights = np.ones((1, len(self.true))) if weights is None else weights
        parts = []
        for k in range(self.true.shape[1]):
            image, place = np.nonzero((self.classes == k) & (self.scores > 0))
            at = (image, place)
            parts.append(
                metrics.weighted_average_precision(
                    self.scores[at], self.hits[at], image, self.true[:, k], weights
                )
            )
        return np.stack(parts, 1)


def split_boxes(records: np.ndarray) -> Matched:
    """Return what detectors found, from readouts or from what rows keep of them.

    A readout has one line `(class, score, hit)` for each of n detections, then for each class k a
    line `(-1 - k, true boxes, those found)`.

    Args:
      records: `[N, n + K, 3]`, or `[N, 3 (n + K)]`, of one image at least.
    """
    lines = np.asarray(records).reshape(len(records), -1, 3)
    place = int(np.sum(lines[0, :, 0] >= 0))
    classes, scores, hits = np.moveaxis(lines[:, :place], -1, 0)
    _, true, found = np.moveaxis(lines[:, place:], -1, 0)
    whole = np.int64
    return Matched(classes.astype(whole), scores, hits > 0, true.astype(whole), found.astype(whole))


def _boxes_of(targets: np.ndarray, num_classes: int) -> np.ndarray:
    return np.stack([(targets[..., 0] == k).sum(1) for k in range(num_classes)], 1).astype(np.int64)


def _box_scores(readouts: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    del targets
    found = split_boxes(readouts)
    there = found.true.any(0)
    # classes without a true box are left out of the mean
    precision = found.average_precision()[0][there]
    return {
        "map": float(precision.mean()) if there.any() else float("nan"),
        "recall": float(found.recall.mean()),
    }


_BROKEN_MASK = criteria.dice_below(0.5)
_BROKEN_BOXES = criteria.detections_missed(0.5)

TASKS: dict[str, Task] = {
    "single": Task(
        "single", losses.cross_entropy, _single_accuracy, criteria.misclassified, _right,
        {"ce": losses.cross_entropy, "margin": losses.cw_margin, "dlr": losses.dlr},
        {"misclassified": criteria.misclassified},
        _logits, _single_certainty, _softmax, _class, _single_scores, "accuracy",
    ),
    "multi": Task(
        "multi", losses.binary_cross_entropy, _multi_accuracy, criteria.any_flipped, _right,
        {"bce": losses.binary_cross_entropy, "margin": losses.label_margin()},
        {"any": criteria.any_flipped, "all": criteria.all_flipped}
        | {f"flips{k}": criteria.flipped(at_least=k) for k in (2, 3, 4, 5)},
        _logits, _multi_certainty, _sigmoid, _findings, _multi_scores, "auroc",
    ),
    "segmentation": Task(
        "segmentation", losses.pixel_cross_entropy, _pixel_accuracy, _BROKEN_MASK,
        _unless(_BROKEN_MASK),
        {"ce": losses.pixel_cross_entropy, "dice": losses.dice_loss},
        {
            f"{name}{percent}": make(percent / 100)
            for percent in (25, 50, 75)
            for name, make in (
                ("dice", criteria.dice_below), ("pixels", criteria.pixel_accuracy_below),
            )
        },
        _overlap, _pixel_certainty, _flat, _present, _mask_scores, "dice",
    ),
    "detection": Task(
        "detection", losses.centernet_loss, criteria.recall, _BROKEN_BOXES,
        _unless(_BROKEN_BOXES),
        {"centernet": losses.centernet_loss, "ce": _cells},
        {f"missed{p}": criteria.detections_missed(p / 100) for p in (25, 50, 75, 100)},
        _matched, _told_boxes, _flat, _boxes_of, _box_scores, "map",
    ),
}  # fmt: skip


def told(task: Task, output: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return what rows keep of outputs, `[N, P]`, and how sure the model was, `[N]`.

    Args:
      task: of the data.
      output: `[N, ...]`, of a model.
      target: `[N, ...]`.
    """
    readouts, sure = _READERS[task.name](output, target)
    return task.record(np.asarray(readouts)), np.asarray(sure, np.float32)


def _reader(task: Task) -> Callable[[Any, Any], tuple[Array, Array]]:
    @jax.jit
    def read(output: Any, target: Any) -> tuple[Array, Array]:
        return jax.vmap(task.readout)(output, target), jax.vmap(task.certainty)(output)

    return read


_READERS = {name: _reader(task) for name, task in TASKS.items()}
