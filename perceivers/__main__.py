"""Lets `python -m perceivers` and `torchrun -m perceivers` run the command."""

import sys

from perceivers_cli import main

sys.exit(main())
