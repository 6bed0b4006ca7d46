"""``python -m geoeq`` is the command ``geoeq``."""

import sys

from geoeq.cli import main

if __name__ == "__main__":
    sys.exit(main())
