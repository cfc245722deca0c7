"""The same numbers for the terminal and for programs."""

from pathlib import Path
from typing import Any

from advjax.report import _format, _results, _statistics, _tables, _transfer, _verdict
from advjax.report._results import Results
from advjax.report._statistics import Statistics


def summary(folder: str | Path) -> list[dict[str, Any]]:
    """Return the two figures of every model and attack at the budgets that the report shows.

    Args:
      folder: the out folder of an evaluation.

    Returns:
      One mapping per (data, model, attack, eps) with `robust_accuracy`,
      `accuracy_under_attack`, each as value, `_low` and `_high` (95 % interval), and `combined`:
      whether the attack stands for all of its norm together. eps 0 is clean. Both are shares of
      images; one with several findings is right when every known finding is.

    Raises:
      FileNotFoundError: there are no rows.
      ValueError: a stored file is damaged, with the remedy.
    """
    _, statistics = _load(folder)
    rows = []
    for found in statistics:
        for norm, shown in found.chosen.items():
            tables = [_tables.accuracy_table(found, norm, which) for which in ("robust", "alone")]
            for one, two in zip(tables[0].rows, tables[1].rows, strict=True):
                for eps, robust, alone in zip(shown, one.entries, two.entries, strict=True):
                    rows.append(
                        {
                            "data": found.group.data,
                            "model": one.model,
                            "attack": one.attack,
                            "norm": norm,
                            "combined": one.strong,
                            "eps": float(eps),
                            "robust_accuracy": robust.value,
                            "robust_accuracy_low": robust.low,
                            "robust_accuracy_high": robust.high,
                            "accuracy_under_attack": alone.value,
                            "accuracy_under_attack_low": alone.low,
                            "accuracy_under_attack_high": alone.high,
                        }
                    )
    return rows


def summary_table(folder: str | Path) -> str:
    """Return the verdict and a table of robust accuracy for a terminal, and what was left out.

    Args:
      folder: the out folder of an evaluation.

    Raises:
      FileNotFoundError: there are no rows.
      ValueError: a stored file is damaged, with the remedy.
    """
    results, statistics = _load(folder)
    blocks = []
    for found in statistics:
        for verdict in _verdict.verdicts(found):
            blocks.append(verdict.headline)
            for which in ("decisions-robust", "robust") if found.multi else ("robust",):
                table = _tables.accuracy_table(found, verdict.norm, which)
                title = f"{table.title} on {found.group.data} ({found.group.ids.size} images)"
                blocks.append(f"{title}\n{_text(table)}")
            for table in _transfer.tables(found, verdict.norm):
                blocks.append(f"{table.title}\n{_text(table, ('made for', 'budget'))}")
    if results.notes:
        blocks.append("\n".join(f"note: {note}" for note in results.notes))
    return "\n\n".join(blocks).replace(_format.FIXED, " ")


def _load(folder: str | Path) -> tuple[Results, list[Statistics]]:
    """Read and compute."""
    results = _results.load(folder)
    return results, _statistics.compute(results)


def _text(table: _tables.Table, first: tuple[str, str] = ("model", "attack")) -> str:
    """Align a table in columns."""
    lines = [[*first, *table.columns]]
    before = None
    for row in table.rows:
        shown = row.model if row.model != before else ""
        before = row.model
        lines.append([shown, row.attack, *(entry.text for entry in row.entries)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
