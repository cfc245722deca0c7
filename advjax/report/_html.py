"""The page: one file that asks the network for nothing; a script only unfolds it for print."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from advjax.metrics import Interval
from advjax.report import (
    _charts,
    _doubts,
    _figures,
    _format,
    _images,
    _parts,
    _queries,
    _results,
    _statistics,
    _tables,
    _transfer,
    _verdict,
)
from advjax.report._results import Results
from advjax.report._statistics import Series, Statistics
from advjax.store import write_atomic


class Fact(NamedTuple):
    """One number of a card, with its interval and its name."""

    text: str
    range: str
    name: str


class Card(NamedTuple):
    """The summary of one model."""

    model: str
    style: int
    facts: list[Fact]


class Plot(NamedTuple):
    """One small chart with its caption."""

    title: str
    svg: Markup


class Section(NamedTuple):
    """What a page says of one data set and one norm."""

    title: str
    verdict: _verdict.Verdict
    glance: _tables.Table | None
    cards: list[Card]
    legend: list[tuple[str, Markup]]
    multi: bool
    findings: bool
    masks: bool
    boxes: bool
    robust: list[Plot]
    alone: list[Plot]
    strict: list[Plot]
    queries: list[Plot]
    accuracies: list[_tables.Table]
    every_budget: list[dict[str, Any]]
    outputs: list[_tables.Table]
    transfer: list[_tables.Table]
    per_class: _tables.Table
    under: str
    num_examples: int
    rule_of_three: str


def build(folder: str | Path) -> Path:
    """Make `report.html` and `curves.png` of an evaluation from what is stored there.

    Needs neither the models nor the data: rows, manifest and panels are enough, also those of an
    evaluation that is not finished (what is missing is said).

    Args:
      folder: the out folder of an evaluation.

    Returns:
      The path of `report.html`.

    Raises:
      FileNotFoundError: there are no rows.
      ValueError: nothing can be said yet, or a stored file is damaged, with the remedy.
      OSError: the disk is full.
    """
    results = _results.load(folder)
    statistics = _statistics.compute(results)
    if not any(found.series for found in statistics):
        raise ValueError(
            f"{folder}: no attack is complete at any budget yet; let the evaluation or sweep finish"
        )
    write_atomic(results.folder / "curves.png", _figures.draw(statistics))
    page = render(results, statistics).encode()
    path = results.folder / "report.html"
    write_atomic(path, page)
    return path


def render(results: Results, statistics: list[Statistics]) -> str:
    """Render the page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("advjax.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    models = [model for found in statistics for model in found.group.models]
    manifest = {k: v for k, v in results.manifest.items() if k not in ("config", "parts", "extra")}
    return environment.get_template("report.html.jinja").render(
        title=_title(statistics),
        subtitle=_subtitle(statistics),
        sections=_sections(results, statistics),
        cost=_tables.cost_table(results, models),
        cascades=results.extra.get("cascades") or {},
        sheets=_by_attack(_images.sheets(results)),
        notes=results.notes,
        warnings=[
            *(line for found in statistics for line in _doubts.baseline(found)),
            *_doubts.warnings_of(results, models),
        ],
        manifest=manifest,
        config=json.dumps(results.manifest.get("config"), indent=2, ensure_ascii=False),
        num_parts=len(results.manifest.get("parts", [])),
        styles=list(zip(_figures.COLOURS, _DARK, _DASHES, strict=True)),
        bootstrap=int(results.setting("bootstrap", 1000)),
        script=Markup(_SCRIPT),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}",
    )


# paper cannot be unfolded: what is closed is opened for print, and closed again. The page reads
# as well without it; its hash is in the page's policy, so that no other script may run.
_SCRIPT = (
    "addEventListener('beforeprint',()=>{for(const d of document.querySelectorAll("
    "'details:not([open])')){d.open=true;d.dataset.closed=''}});"
    "addEventListener('afterprint',()=>{for(const d of document.querySelectorAll("
    "'details[data-closed]')){d.open=false;delete d.dataset.closed}})"
)


# the palette of curves.png, lightened for a dark page
_DARK = (
    "#5CB8F2", "#FF9248", "#3FD1A5", "#E7A3CB", "#F2F2F2", "#FFC24D", "#9AD4F7", "#B5B5B5",
)  # fmt: skip
_DASHES = ("none", "7 3", "2 2.5", "9 3 2 3", "none", "7 3", "2 2.5", "9 3 2 3")


def _sections(results: Results, statistics: list[Statistics]) -> list[Section]:
    """Make one section per data set and norm."""
    keys = [(found, norm) for found in statistics for norm in found.chosen]
    return [
        _section(results, found, norm, len(statistics) > 1, len(found.chosen) > 1)
        for found, norm in keys
    ]


def _section(
    results: Results, found: Statistics, norm: str, several_data: bool, several_norms: bool
) -> Section:
    """Say everything of one data set and norm."""
    names = [found.group.data] * several_data + [f"{norm} attacks"] * several_norms
    every = found.budgets[norm]
    outputs = [
        table
        for which in _statistics.OUTPUTS
        if (table := _tables.output_table(found, results, norm, which)) is not None
    ]
    # behind the figures of whole images that they belong to
    at = 2 if found.group.masks else 1 if found.group.boxes else len(outputs)
    outputs[at:at] = _parts.tables(found, norm)
    figures = ["robust", "alone"]
    if found.multi:
        figures = ["decisions-robust", "decisions-alone", *figures]
    verdict = next(v for v in _verdict.verdicts(found) if v.norm == norm)
    return Section(
        title=", ".join(names),
        verdict=verdict,
        glance=_tables.glance_table(found, norm),
        cards=_cards(found, norm),
        legend=_legend(found, norm),
        multi=found.multi,
        findings=found.group.multi,
        masks=found.group.masks,
        boxes=found.group.boxes,
        robust=_plots(found, norm, "robust"),
        alone=_plots(found, norm, "alone"),
        strict=_plots(found, norm, "robust", found.series) if found.multi else [],
        queries=[
            Plot(title, svg)
            for title, svg in _queries.plots(
                found.group, [a for a, n in results.norms.items() if n == norm], norm
            )
        ],
        accuracies=[_tables.accuracy_table(found, norm, which) for which in figures],
        every_budget=[
            _transposed(_tables.accuracy_table(found, norm, which, every)) for which in figures
        ],
        outputs=outputs,
        transfer=_transfer.tables(found, norm),
        per_class=_tables.class_table(found, norm),
        under=_under(found, norm),
        num_examples=found.group.ids.size,
        rule_of_three=_format.percent(min(1.0, 3 / found.group.ids.size)),
    )


def _plots(
    found: Statistics, norm: str, which: str, curves: Sequence[Series] | None = None
) -> list[Plot]:
    """Draw one chart per attack, a line per model; without `curves` the leading ones."""
    curves = found.leading if curves is None else curves
    plots = []
    for attack in dict.fromkeys(s.attack for s in curves if s.norm == norm):
        lines = [
            _charts.Line(
                series.model,
                _style(found, series.model),
                series.eps,
                series.robust if which == "robust" else series.alone,
            )
            for series in curves
            if series.norm == norm and series.attack == attack
        ]
        title = f"{'Robust accuracy' if which == 'robust' else 'Accuracy under attack'}, {attack}"
        plots.append(Plot(attack, _charts.chart(lines, norm=norm, title=title)))
    return plots


def _legend(found: Statistics, norm: str) -> list[tuple[str, Markup]]:
    """Return names of the models with samples of their lines."""
    names = dict.fromkeys(s.model for s in found.series if s.norm == norm)
    return [(name, _charts.sample(_style(found, name))) for name in names]


def _style(found: Statistics, model: str) -> int:
    """Return the style of a model's lines."""
    return [m.name for m in found.group.models].index(model) % _charts.NUM_STYLES


def _cards(found: Statistics, norm: str) -> list[Card]:
    """Make the summary of each model."""
    multi, middle = found.multi, _verdict.middle(found, norm)
    where = _format.budget(middle, norm)
    cards = []
    for model in found.group.models:
        series = next(
            (s for s in found.leading if s.combined and (s.model, s.norm) == (model.name, norm)),
            None,
        )
        if series is None:
            continue
        half = _verdict.half_life(series)
        of = " of decisions" if multi else ""
        facts = [
            _fact(_verdict.at(series, 0.0), f"accuracy{of} on clean images"),
            _fact(_verdict.at(series, middle), f"robust accuracy{of} at {where}, {series.attack}"),
            Fact(
                _format.budget(half, norm) if half else "none",
                "",
                "largest budget that leaves half of the clean accuracy",
            ),
            *_auroc(found, model.name),
        ]
        low = _verdict.worst_auroc(found, norm, model.name) if multi else None
        if low is not None:
            facts.append(_area(low[0], f"mean AUROC at {where}, {low[1]}"))
        cards.append(Card(model.name, _style(found, model.name), facts))
    return cards


def _auroc(found: Statistics, model: str) -> list[Fact]:
    """Make a number of a card from the AUROC on clean images, where it exists."""
    for output in found.outputs:
        if (output.model, output.attack) == (model, _results.CLEAN) and "auroc" in output.values:
            name = "mean AUROC on clean images" if found.group.multi else "AUROC on clean images"
            return [_area(Interval(*(part[0] for part in output.values["auroc"])), name)]
    return []


def _area(interval: Interval, name: str) -> Fact:
    """Make a number of a card from an AUROC."""
    value, low, high = (float(part) for part in interval)
    return Fact(_format.number(value), _format.number_range(low, high), name)


def _fact(interval: Interval, name: str) -> Fact:
    """Make a number of a card from a share."""
    value, low, high = (float(part) for part in interval)
    return Fact(_format.percent(value), _format.percent_range(low, high), name)


def _transposed(table: _tables.Table) -> dict[str, Any]:
    """Turn a table of many budgets, so that budgets are its lines, by model."""
    models = list(dict.fromkeys(row.model for row in table.rows))
    blocks = []
    for model in models:
        rows = [row for row in table.rows if row.model == model]
        lines = [
            (column, [row.entries[index] for row in rows])
            for index, column in enumerate(table.columns)
        ]
        blocks.append({"model": model, "attacks": [row.attack for row in rows], "lines": lines})
    return {"key": table.key, "title": table.title, "blocks": blocks}


def _by_attack(sheets: Sequence[_images.Sheet]) -> list[tuple[str, list[_images.Sheet]]]:
    """Group sheets by attack and budget."""
    found: dict[str, list[_images.Sheet]] = {}
    for sheet in sheets:
        found.setdefault(f"{sheet.attack} at {sheet.budget}", []).append(sheet)
    return list(found.items())


def _title(statistics: list[Statistics]) -> str:
    """Ask the question that the page answers."""
    count = len({model.name for found in statistics for model in found.group.models})
    return "How robust is this model?" if count == 1 else f"How robust are these {count} models?"


def _subtitle(statistics: list[Statistics]) -> str:
    """Say what was evaluated."""
    data = ", ".join(
        f"{_format.whole(found.group.ids.size)} images of {found.group.data}"
        for found in statistics
    )
    attacks = len({s.attack for f in statistics for s in f.series if s.attack in _names(f)})
    budgets = max(int(np.size(eps)) - 1 for found in statistics for eps in found.budgets.values())
    return (
        f"{data}; {attacks} attack{'s' if attacks != 1 else ''}, "
        f"{budgets} budget{'s' if budgets != 1 else ''}."
    )


def _under(found: Statistics, norm: str) -> str:
    """Say which attacks the combined curve stands for."""
    attacks = list(dict.fromkeys(s.attack for s in found.series if s.norm == norm))
    return f"{attacks[0]} together" if len(attacks) > 1 else attacks[0]


def _names(found: Statistics) -> set[str]:
    """Return names of single attacks."""
    return {attack for model in found.group.models for attack in model.attacks}
