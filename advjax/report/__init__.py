"""Reports of evaluations: one self-contained page, one picture, one table for the terminal.

    path = report.build("runs/quickstart")            # report.html and curves.png
    print(report.summary_table("runs/quickstart"))
    rows = report.summary("runs/quickstart")          # the numbers, for programs

Everything is made from the stored rows, the manifest and the panels; no model, no data.
"""

from advjax.report._doubts import idle
from advjax.report._html import build
from advjax.report._summary import summary, summary_table
from advjax.report._transfer import ARROW

__all__ = ["ARROW", "build", "idle", "summary", "summary_table"]
