"""__main__: `python -m cbn` shows the configuration, checks the library against its oracle, and compares its speed."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
