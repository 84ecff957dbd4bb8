"""Runs the command line as ``python -m rayft``."""

import sys

from rayft.cli import main

sys.exit(main())
