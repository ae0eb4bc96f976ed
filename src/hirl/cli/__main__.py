"""Run `python -m hirl.cli`, as the launcher of several ranks does."""

import sys

from hirl.cli import main

if __name__ == "__main__":
    sys.exit(main())
