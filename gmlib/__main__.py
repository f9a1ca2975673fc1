"""`python -m gmlib` is the command `gmlib`."""

import sys

from gmlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
