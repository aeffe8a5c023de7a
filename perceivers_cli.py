"""The `perceivers` command: answers what needs no model at once, and leaves the rest to `perceivers.cli`.

This module is beside the package because `import perceivers` takes seconds. It imports the standard library only, and
answers `--help`, `--version`, `train --list` and unknown commands.
"""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# A command is a module `perceivers.cli.<name>`.
COMMANDS = {
    "train": "train a model; without arguments, on handwritten digits",
    "evaluate": "measure a model on labelled inputs",
    "predict": "predict the labels of images, recordings or point clouds",
    "info": "describe a model or a variant",
    "convert": "convert a checkpoint from or to the layout of transformers' own Perceivers",
}

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


class UsageError(ValueError):
    """Arguments that make no command; shown as one line, exit code 2."""

    exit_code = 2


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage of dozens of flags above it."""

    def error(self, message: str):
        """Raises the error instead of printing it."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


def make_parser() -> CommandParser:
    """Makes the parser of the command itself; what follows the sub-command is left to its module."""
    listing = "\n".join(f"  {name:<10}{description}" for name, description in COMMANDS.items())
    parser = CommandParser(
        prog="perceivers",
        description="The Perceiver for images, audio and point clouds.",
        epilog=f"commands:\n{listing}\n\n`perceivers COMMAND --help` lists the arguments of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"perceivers {package_version()}")
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show where an error came from; the environment variable PERCEIVERS_TRACEBACK=1 does the same",
    )
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    return parser


def parse_command(argv: Sequence[str]) -> argparse.Namespace:
    """Splits the command line into `command` and `arguments`.

    Raises:
        UsageError: If there is no such command.
    """
    parser = make_parser()
    parsed = parser.parse_args(argv)
    if parsed.command not in COMMANDS:
        hint = did_you_mean(parsed.command, COMMANDS) or f" (choose from {', '.join(COMMANDS)})"
        parser.error(f"argument COMMAND: invalid choice: {parsed.command!r}{hint}")
    return parsed


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns " (did you mean `...`?)", or an empty string if no name is close."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean `{matches[0]}`?)" if matches else ""


def one_line(error: BaseException) -> str:
    """Returns the error's message without line breaks, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def wants_traceback(argv: list[str]) -> bool:
    """Whether errors show where they came from. Removes `--traceback` from the arguments, wherever it is."""
    if "--traceback" in argv:
        argv.remove("--traceback")
        return True
    return os.environ.get("PERCEIVERS_TRACEBACK", "0") not in ("", "0")


def package_version() -> str:
    """Returns the version, 0.0.0 in a clone that is not installed."""
    try:
        return version("perceivers")
    except PackageNotFoundError:
        return "0.0.0"


def built_in_recipes() -> dict[str, Path]:
    """Returns the files of the recipes that come with the package, by name. This does not import the package."""
    spec = find_spec("perceivers")
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in (Path(folder) / "recipes").glob("*.yaml")]
    return {file.stem: file for file in sorted(files)}


def list_recipes() -> str:
    """Formats name, task and first comment line of the built-in recipes as aligned columns."""
    rows = [("recipe", "task", "description")]
    for name, file in built_in_recipes().items():
        lines = file.read_text(encoding="utf-8").splitlines()
        task = next((line.removeprefix("task:").strip() for line in lines if line.startswith("task:")), "")
        rows.append((name, task, lines[0].removeprefix("#").strip()))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {task:<{widths[1]}}  {text}" for name, task, text in rows)


def quick_answer(argv: Sequence[str]) -> int | None:
    """Answers what needs no model, and returns the exit code; `None` if the command does need one.

    Raises:
        UsageError: If there is no such command.
    """
    parsed = parse_command(argv)
    if parsed.command == "train" and parsed.arguments == ["--list"]:
        print(list_recipes())
        return 0
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code; see `perceivers.cli.main`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    words = list(argv)
    show_traceback = wants_traceback(words)
    try:
        code = quick_answer(words)
    except UsageError as error:
        if show_traceback:
            raise
        print(f"perceivers: error: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    if code is not None:
        return code
    try:
        module = importlib.import_module("perceivers.cli.main")
    except KeyboardInterrupt:  # the import takes seconds
        print("perceivers: interrupted", file=sys.stderr)
        return INTERRUPTED
    return module.main(argv)


if __name__ == "__main__":
    sys.exit(main())
