"""`advjax report`."""

import dataclasses

from advjax import report as reports
from advjax import store
from advjax.cli._main import warn
from advjax.cli._parse import parse

DESCRIPTION = """Make report.html and curves.png from the rows of an evaluation.

Reads rows, manifest and panels only; neither the models nor the data are needed."""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Which evaluation."""

    folder: str = "runs/evaluate"
    """What `advjax evaluate` or `advjax sweep` wrote (its --out); shards are put together."""


def report(argv: list[str]) -> None:
    """Run `advjax report`."""
    words = ["--folder", *argv] if argv and not argv[0].startswith("-") else argv
    config = parse(ReportConfig, words, command="report", description=DESCRIPTION)
    store.merge_shards(config.folder)
    absent = store.missing_shards(config.folder)
    if absent:
        warn(
            f"{config.folder}: {', '.join(absent)} missing; these figures are of the other images "
            "only"
        )
    path = reports.build(config.folder)
    print(reports.summary_table(config.folder))
    print(f"report: {path}")
