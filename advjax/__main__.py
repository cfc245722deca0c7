"""`python -m advjax` is the command `advjax`."""

import sys

from advjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
