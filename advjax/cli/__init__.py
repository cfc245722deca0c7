"""The command line: `advjax train | evaluate | sweep | report | data`.

Exit codes: 0 done, 1 failed (one line says what and how to mend it), 2 wrong usage.
"""

from advjax.cli._main import main

__all__ = ["main"]
