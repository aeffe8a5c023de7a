"""The `perceivers` command.

Each sub-command is a module `perceivers.command_<name>`, imported when it is asked for. It offers
`add_arguments(parser)` and `run(arguments) -> exit code`; one that needs more than a parser to read its arguments
offers `parse(program, words) -> arguments` in place of the first.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from perceivers.command_errors import UsageError, core_message

COMMANDS = {
    "train": "train a model; without arguments, on handwritten digits",
    "evaluate": "measure a model on labelled inputs",
    "predict": "classify images, clips or clouds",
    "info": "describe a model or a variant",
    "convert": "bring a checkpoint from or to the layout of transformers' own Perceivers",
}
INTERRUPTED = 130  # what shells report for a program that Ctrl-C has ended


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage of dozens of flags above it."""

    def error(self, message: str):
        raise UsageError(f"{message}; see `{self.prog} --help`")


def make_parser() -> CommandParser:
    """The parser of the command itself; what follows the sub-command is left to that."""
    from perceivers import __version__

    listing = "\n".join(f"  {name:<10}{description}" for name, description in COMMANDS.items())
    parser = CommandParser(
        prog="perceivers",
        description="The Perceiver for images, audio and point clouds.",
        epilog=f"commands:\n{listing}\n\n`perceivers COMMAND --help` has the arguments of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"perceivers {__version__}")
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show where an error came from; so does PERCEIVERS_TRACEBACK=1 in the environment",
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="of the command")
    return parser


def run_command(name: str, words: Sequence[str]) -> int:
    """Imports a sub-command, parses its arguments and runs it."""
    module = importlib.import_module(f"perceivers.command_{name}")
    program = f"perceivers {name}"
    if hasattr(module, "parse"):
        return module.run(module.parse(program, list(words)))
    parser = CommandParser(prog=program, description=module.__doc__)
    module.add_arguments(parser)
    return module.run(parser.parse_args(words))


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0; 1 for what went wrong; 2 for wrong arguments; 130 for Ctrl-C.

    Expected errors are one line on stderr. Others are mistakes in this package, and show their traceback.
    """
    from huggingface_hub.errors import StrictDataclassError

    words = list(sys.argv[1:] if words is None else words)
    show_traceback = os.environ.get("PERCEIVERS_TRACEBACK", "0") not in ("", "0")
    if "--traceback" in words:  # wherever it stands
        words.remove("--traceback")
        show_traceback = True
    try:
        arguments = make_parser().parse_args(words)
        return run_command(arguments.command, arguments.arguments)
    except (ValueError, OSError, ImportError, StrictDataclassError, KeyboardInterrupt) as error:
        if show_traceback:
            raise
        if isinstance(error, KeyboardInterrupt):
            print(f"perceivers: {error}" if str(error) else "perceivers: interrupted", file=sys.stderr)
            return INTERRUPTED
        print(f"perceivers: error: {core_message(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 1)


if __name__ == "__main__":
    sys.exit(main())
