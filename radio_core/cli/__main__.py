"""``python -m radio_core.cli``, for launchers such as torchrun."""

import sys

from radio_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
