"""Runs a sub-command of `perceivers`, which is the module of its name in this folder.

Each module offers `add_arguments(parser)` and `run(arguments) -> exit code`. One that needs more than a parser to read
its arguments offers `parse(prog, argv) -> arguments` instead of the first.
"""

import importlib
import sys
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError

from perceivers.cli.errors import root_cause_message
from perceivers_cli import INTERRUPTED, CommandParser, parse_command, quick_answer, wants_traceback


def run_command(name: str, argv: Sequence[str]) -> int:
    """Imports a sub-command, parses its arguments and runs it."""
    module = importlib.import_module(f"perceivers.cli.{name}")
    prog = f"perceivers {name}"
    if hasattr(module, "parse"):
        return module.run(module.parse(prog, list(argv)))
    parser = CommandParser(prog=prog, description=module.__doc__)
    module.add_arguments(parser)
    return module.run(parser.parse_args(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0; 1 for an error; 2 for wrong arguments; 130 for Ctrl-C.

    Expected errors are one line on stderr. Others are mistakes in this package, and show their traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    show_traceback = wants_traceback(argv)
    try:
        code = quick_answer(argv)
        if code is not None:
            return code
        parsed = parse_command(argv)
        return run_command(parsed.command, parsed.arguments)
    except (ValueError, OSError, ImportError, StrictDataclassError, KeyboardInterrupt) as error:
        if show_traceback:
            raise
        if isinstance(error, KeyboardInterrupt):
            print(f"perceivers: {error}" if str(error) else "perceivers: interrupted", file=sys.stderr)
            return INTERRUPTED
        print(f"perceivers: error: {root_cause_message(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 1)


if __name__ == "__main__":
    sys.exit(main())
