"""Runs a sub-command of `perceivers`, which is the module of its name in this folder.

Each module offers `add_arguments(parser)` and `run(arguments) -> exit code`. One that needs more than a parser to read
its arguments offers `parse(prog, argv) -> arguments` instead of the first. `perceivers_cli.main` turns what they raise
into one line.
"""

import importlib
import sys
from collections.abc import Sequence

from perceivers_cli import CommandParser, main, parse_command

__all__ = ["main", "run_command"]


def run_command(argv: Sequence[str]) -> int:
    """Imports a sub-command, parses its arguments and runs it."""
    parsed = parse_command(argv)
    name, words = parsed.command, list(parsed.arguments)
    module = importlib.import_module(f"perceivers.cli.{name}")
    prog = f"perceivers {name}"
    if hasattr(module, "parse"):
        return module.run(module.parse(prog, words))
    parser = CommandParser(prog=prog, description=module.__doc__)
    module.add_arguments(parser)
    return module.run(parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
