"""Read rows, manifest and panels of an evaluation into arrays; nothing is computed here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advjax.store import Panel, Store, read_panels

Array = np.ndarray

CLEAN = "none"
_DENSE = ("segmentation", "detection")


class Cell(NamedTuple):
    """Rows of one model under one attack, restarts merged: per (budget, example) the worst one.

    Attributes:
      wrong: `[N]` bool, broken before the attack by the criterion of the attack.
      eps: `[E]`, increasing.
      success: `[E, N]` bool.
      evaluated: `[E, N]` bool.
      linf: `[E, N]`, NaN where not evaluated.
      l2: `[E, N]`, NaN where not evaluated.
      confidence: `[E, N]`, NaN where not evaluated.
      probabilities: `[E, N, C]`, NaN where the output is not known.
      queries: `[E, N]` int32, forward passes.
      num_rows: rows stored, restarts counted.
      num_steps: moves of all rows.
      num_grads: backward passes of all rows.
      status: how many rows ended with each status code.
    """

    wrong: Array
    eps: Array
    success: Array
    evaluated: Array
    linf: Array
    l2: Array
    confidence: Array
    probabilities: Array
    queries: Array
    num_rows: int
    num_steps: int
    num_grads: int
    status: dict[int, int]


class ModelRows(NamedTuple):
    """Rows of one model.

    Attributes:
      name: of the model.
      wrong: `[N]` bool, what the model gets wrong before any attack.
      clean: the clean rows, `[1, N]`, or None where none are stored.
      attacks: by name, in the order of the evaluation.
    """

    name: str
    wrong: Array
    clean: Cell | None
    attacks: dict[str, Cell]


class Group(NamedTuple):
    """All models evaluated on the same examples of one data set.

    Attributes:
      data: name of the data set.
      ids: `[N]` int64, increasing.
      target: `[N]` classes; `[N, K]` multi-hot (negative: unknown); of masks which classes they
        hold, `[N, K]`; of boxes how many of each class, `[N, K]`.
      class_names: `[C]`.
      models: the models.
      task: `"single"`, `"multi"`, `"segmentation"` or `"detection"`.
      partial: whether some image was not attacked with every step at some budget.
      own: attacks that have a word of their own for broken.
    """

    data: str
    ids: Array
    target: Array
    class_names: tuple[str, ...]
    models: list[ModelRows]
    task: str
    partial: bool = False
    own: tuple[str, ...] = ()

    @property
    def multi(self) -> bool:
        """Whether an image may have several findings."""
        return self.task == "multi"

    @property
    def masks(self) -> bool:
        """Whether every pixel has a class; outputs are pixels `[3 K]` then, see `tasks`."""
        return self.task == "segmentation"

    @property
    def boxes(self) -> bool:
        """Whether objects are to be found; outputs are those of `tasks.split_boxes` then."""
        return self.task == "detection"

    @property
    def dense(self) -> bool:
        """Whether an image holds parts of several classes: masks or boxes."""
        return self.task in _DENSE


class Results(NamedTuple):
    """Everything a report is made of.

    Attributes:
      folder: of the evaluation.
      manifest: config, hashes, versions, and `extra`.
      groups: one per data set.
      norms: norm of each attack, by name.
      panels: images.
      notes: what was left out, and why; to be printed.
    """

    folder: Path
    manifest: dict[str, Any]
    groups: list[Group]
    norms: dict[str, str]
    panels: list[Panel]
    notes: list[str]

    @property
    def extra(self) -> dict[str, Any]:
        """What the evaluator told beside the rows."""
        return self.manifest.get("extra") or {}

    def setting(self, name: str, default: Any) -> Any:
        """Return a field of the config of the evaluation."""
        value = (self.manifest.get("config") or {}).get(name)
        return default if value is None else value


def load(folder: str | Path) -> Results:
    """Read an evaluation.

    Args:
      folder: the out folder of an evaluation.

    Raises:
      FileNotFoundError: there are no rows.
      ValueError: no rows at all, a damaged part or panel, or rows of more than one task.
    """
    store = Store(folder)
    manifest = store.manifest
    extra = manifest.get("extra") or {}
    listed = store.read(["model", "data", "attack"])
    if listed["model"].size == 0:
        raise ValueError(
            f"{folder}: no result row is stored yet; let the evaluation or sweep finish"
        )
    notes: list[str] = []
    groups = [
        _group(store, data, _unique(listed["model"][listed["data"] == data]), extra, notes)
        for data in _unique(listed["data"])
    ]
    notes += [
        f"{attack} has its own word for broken ({word}), before the attack and under it: its "
        "numbers are not those of the attacks without one."
        for attack, word in (extra.get("own") or {}).items()
    ]
    attacks = [name for name in _unique(listed["attack"]) if name != CLEAN]
    norms = {name: str((extra.get("norms") or {}).get(name, "linf")) for name in attacks}
    return Results(Path(folder), manifest, groups, norms, read_panels(folder), notes)


def _group(
    store: Store, data: str, names: Sequence[str], extra: dict[str, Any], notes: list[str]
) -> Group:
    """Read one data set, restricted to the examples that every model has."""
    raw = {name: _read(store, data, name) for name in names}
    ids = _common_ids(data, raw, notes)
    # manifests of before tell one task and one list of names for all data sets
    about = (extra.get("data") or {}).get(data) or extra
    task = str(about.get("task", ""))
    target = _target(raw[names[0]], ids, task)
    # manifests of before do not tell it
    task = task or ("multi" if target.ndim == 2 else "single")
    models = [_model(data, name, raw[name], ids, notes) for name in names]
    widths = {
        cell.probabilities.shape[2]
        for model in models
        for cell in (model.clean, *model.attacks.values())
        if cell is not None and cell.probabilities.shape[2]
    }
    if len(widths) > 1:
        raise ValueError(f"{data}: rows hold outputs of {sorted(widths)} classes; evaluate again")
    count = widths.pop() if widths else int(target.max()) + 1
    if task in _DENSE:
        count = target.shape[1]
    class_names = tuple(str(name) for name in about.get("class_names") or ())
    if len(class_names) != count:
        if class_names:
            notes.append(f"{len(class_names)} class names for {count} classes: numbers are shown.")
        class_names = tuple(f"class {index}" for index in range(count))
    # only the exhaustive order of a sweep spends the steps that are left after a success
    early = (store.manifest.get("config") or {}).get("order") not in (None, "exhaustive")
    partial = early or any(not c.evaluated.all() for m in models for c in m.attacks.values())
    if partial:
        models = [_without_outputs(model, data, early, notes) for model in models]
    own = tuple(extra.get("own") or {})
    return Group(data, ids, target, class_names, models, task, partial, own)


def _without_outputs(model: ModelRows, data: str, early: bool, notes: list[str]) -> ModelRows:
    """Forget the outputs at budgets at which some image was not attacked with every step.

    A sweep does not attack what is wrong already, and ends an image's runs where it breaks: it
    knows which images break, and not what the model says of images attacked with every step.
    """
    cells = {}
    for name, cell in model.attacks.items():
        whole: Array = np.all(cell.evaluated, axis=1, keepdims=True) & (not early)
        cells[name] = cell._replace(
            probabilities=np.where(whole[..., None], cell.probabilities, np.nan)
        )
    note = (
        f"{data}: a sweep or AutoAttack ends where an image breaks, and does not attack what is "
        "wrong already, so that outputs under attack (AUROC, sensitivity, single findings, pixels, "
        "boxes) are not known and left out; advjax evaluate with other attacks has them."
    )
    if note not in notes:
        notes.append(note)
    return model._replace(attacks=cells)


def _read(store: Store, data: str, model: str) -> dict[str, dict[str, Array]]:
    """Read the rows of one model, by attack."""
    attacks = _unique(store.read(["attack"], data=data, model=model)["attack"])
    return {name: store.read(data=data, model=model, attack=name) for name in attacks}


def _common_ids(data: str, raw: dict[str, dict[str, dict[str, Array]]], notes: list[str]) -> Array:
    """Return the examples that every model has, in its clean rows where there are any."""
    have = {}
    for name, by_attack in raw.items():
        rows = [by_attack[CLEAN]] if CLEAN in by_attack else list(by_attack.values())
        have[name] = np.unique(np.concatenate([part["example_id"] for part in rows]))
    ids = next(iter(have.values()))
    for found in have.values():
        ids = np.intersect1d(ids, found)
    if ids.size == 0:
        raise ValueError(f"{data}: the models share no example; evaluate them on the same split")
    for name, found in have.items():
        if found.size > ids.size:
            notes.append(
                f"{name} on {data}: {found.size - ids.size} of {found.size} examples are left out, "
                "because another model was not evaluated on them."
            )
    return ids


def _target(by_attack: dict[str, dict[str, Array]], ids: Array, task: str) -> Array:
    """Return the targets of the examples, `[N]` or `[N, K]`."""
    parts = [by_attack[CLEAN]] if CLEAN in by_attack else list(by_attack.values())
    if any(part["target"].ndim != 2 or part["target"].shape[1] == 0 for part in parts):
        raise ValueError("rows: targets of differing length; all rows must be of one task")
    unique, index = np.unique(
        np.concatenate([part["example_id"] for part in parts]), return_index=True
    )
    target = np.concatenate([part["target"] for part in parts])
    found = target[index[np.searchsorted(unique, ids)]].astype(np.int64)
    flat = found.shape[1] == 1 and task not in ("multi", *_DENSE)
    return found[:, 0] if flat else found


def _model(
    data: str,
    name: str,
    by_attack: dict[str, dict[str, Array]],
    ids: Array,
    notes: list[str],
) -> ModelRows:
    """Arrange the rows of one model as arrays over `ids`."""
    cells = {}
    for attack, rows in by_attack.items():
        inside = np.isin(rows["example_id"], ids)
        rows = {key: values[inside] for key, values in rows.items()}
        cell = _cell(rows, ids, f"{name}, {attack} on {data}", notes)
        if cell is not None:
            cells[attack] = cell
    clean = cells.pop(CLEAN, None)
    # without clean rows: what every attack counts as broken before it
    found = [cell.wrong for cell in ([clean] if clean else cells.values())]
    wrong = np.logical_and.reduce(found) if found else np.zeros(ids.size, bool)
    return ModelRows(name, wrong, clean, cells)


def _cell(rows: dict[str, Array], ids: Array, where: str, notes: list[str]) -> Cell | None:
    """Arrange rows as `[E, N]`, of the restarts the worst; incomplete budgets are left out."""
    loss = np.nan_to_num(rows["loss"].astype(np.float64), nan=-np.inf)
    order = np.lexsort((-loss, ~rows["success"], rows["example_id"], rows["eps"]))
    eps, example = rows["eps"][order], rows["example_id"][order]
    first = np.ones(order.size, bool)
    first[1:] = (eps[1:] != eps[:-1]) | (example[1:] != example[:-1])
    worst, eps = order[first], eps[first]
    budgets, counts = np.unique(eps, return_counts=True)
    whole = counts == ids.size
    for value, count in zip(budgets[~whole], counts[~whole], strict=True):
        notes.append(
            f"{where}: eps {value:.6g} is incomplete ({count} of {ids.size} examples) and left out."
        )
    if not whole.any():
        return None
    worst = worst[np.isin(eps, budgets[whole])].reshape(-1, ids.size)
    known = rows["evaluated"][worst]
    wrong = np.zeros(ids.size, bool)
    wrong[np.searchsorted(ids, rows["example_id"][rows["wrong_when_clean"]])] = True
    codes, status = np.unique(rows["status"], return_counts=True)
    return Cell(
        wrong=wrong,
        eps=budgets[whole],
        success=rows["success"][worst],
        evaluated=known,
        linf=np.where(known, rows["linf"][worst], np.nan),
        l2=np.where(known, rows["l2"][worst], np.nan),
        confidence=np.where(known, rows["confidence"][worst], np.nan),
        probabilities=_probabilities(rows["probabilities"], worst),
        queries=rows["num_queries"][worst],
        num_rows=len(rows["eps"]),
        num_steps=int(rows["num_steps"].sum()),
        num_grads=int(rows["num_grads"].sum()),
        status={int(c): int(n) for c, n in zip(codes, status, strict=True)},
    )


def _probabilities(column: Array, worst: Array) -> Array:
    """Return `[E, N, C]`, NaN where a row has no output, or none that is finite."""
    if column.dtype == object:
        width = max((len(row) for row in column), default=0)
        dense = np.full((len(column), width), np.nan, np.float32)
        for index, row in enumerate(column):
            if len(row) == width:
                dense[index] = row
        column = dense
    found = column[worst].astype(np.float32)
    found[~np.isfinite(found).all(-1)] = np.nan
    return found


def _unique(values: Array) -> list[str]:
    """Return distinct names in order of appearance."""
    return list(dict.fromkeys(values.tolist()))
