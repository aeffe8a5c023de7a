"""The `perceivers` command: answers what needs no model at once, and leaves the rest to `perceivers.cli`.

This module is beside the package because `import perceivers` takes seconds. It imports the standard library only, and
answers `--help`, `--version`, `train --list` and unknown commands. Whatever a command raises becomes one line here.
"""

import argparse
import difflib
import importlib
import json
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# A command is a module `perceivers.cli.<name>`.
COMMANDS = {
    "train": "train a model; without arguments, on handwritten digits",
    "evaluate": "measure a model on labelled inputs",
    "predict": "predict the labels of images, recordings or point clouds",
    "info": "describe a model or a variant",
    "convert": "convert a checkpoint from or to the layout of transformers' own Perceivers",
}

# What shells report for a program that Ctrl-C, a reader that went away, or SIGTERM ended.
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143

# What Python calls an object that has no name, such as the content of a file.
IN_MEMORY = re.compile(r" ?<[\w.]+ object at 0x[0-9a-fA-F]+>")
# Errors whose message is enough: ours, and those of files, servers and packages that are not installed.
PLAIN_ERRORS = (ValueError, OSError, ImportError)
MEMORY_HINT = "Not enough memory: smaller batches or inputs need less"


class UsageError(ValueError):
    """Arguments that make no command; shown as one line, exit code 2."""

    exit_code = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM, which containers and batch systems send; it does what Ctrl-C does."""


class ParagraphFormatter(argparse.HelpFormatter):
    """Keeps the paragraphs of a description apart."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in text.split("\n\n"))


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage of dozens of flags above it."""

    def __init__(self, *arguments: Any, **kwargs: Any):
        super().__init__(*arguments, **{"formatter_class": ParagraphFormatter, **kwargs})

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


def printable(text: str) -> str:
    """Escapes what would control a terminal, or cannot be written to one: a name can hold anything."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


class Escaping:
    """A text stream that escapes what would control a terminal: names come from anywhere, by way of any library.

    The escapes are those of JSON, so that JSON stays what it is.

    Args:
        stream: Where the text goes.
        passed: A regular expression of one group for what is written as it is.
    """

    def __init__(self, stream: Any, passed: str):
        self._stream, self._passed = stream, re.compile(passed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes text, and returns its length."""
        if not text.isprintable():
            pieces = self._passed.split(text)  # those at odd places are what is passed
            text = "".join(piece if place % 2 else _as_json(piece) for place, piece in enumerate(pieces))
        return self._stream.write(text)


def _as_json(text: str) -> str:
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


@contextmanager
def _escaped_output() -> Iterator[None]:
    """Escapes what is printed. Errors keep the colours and the moves of progress bars."""
    with redirect_stdout(sys.stdout and Escaping(sys.stdout, r"([\n\t])")):  # noqa: SIM117
        with redirect_stderr(sys.stderr and Escaping(sys.stderr, r"([\n\t\r]|\x1b\[(?:[\d;]*m|A))")):
            yield


def one_line(error: BaseException) -> str:
    """Returns the error's message without line breaks and addresses in memory, or its type if it has no message."""
    return printable(" ".join(IN_MEMORY.sub("", str(error)).split())) or type(error).__name__


def describe_error(error: BaseException) -> str:
    """Returns what the user needs to know of an error, in one line."""
    is_wrapped = _is_wrapper(error)
    while _is_wrapper(error) and error.__cause__ is not None:
        error = error.__cause__
    name, message = type(error).__name__, one_line(error)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return MEMORY_HINT + ("." if message == name else f": {message}")
    if "Traceback (most recent call last):" in message:  # of a process that loads data
        message = printable(str(error).strip().splitlines()[-1].strip())
    if isinstance(error, KeyError):
        message = f"Missing key {message}."
    if is_wrapped or isinstance(error, PLAIN_ERRORS):
        return message
    kind = "" if message.startswith(name) else f"{name}: "
    return f"{kind}{message} (`--traceback` shows where it comes from)"


def _is_wrapper(error: BaseException) -> bool:
    """Whether the cause says more: huggingface_hub wraps errors of fields. Its import would take a second."""
    return any(kind.__name__ == "StrictDataclassError" for kind in type(error).__mro__)


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


def report(error: BaseException) -> int:
    """Prints an error as one line, and returns the exit code."""
    if isinstance(error, BrokenPipeError) and _reader_is_gone():  # `| head` has read enough
        _drop_output()
        return PIPE_CLOSED
    if isinstance(error, KeyboardInterrupt):
        is_terminated = isinstance(error, Terminated)
        print(f"perceivers: {printable(str(error)) or 'interrupted'}", file=sys.stderr)
        return TERMINATED if is_terminated else INTERRUPTED
    print(f"perceivers: error: {describe_error(error)}", file=sys.stderr)
    return getattr(error, "exit_code", 1)


def _reader_is_gone() -> bool:
    """Whether nobody reads stdout any more; other pipes, such as those between processes, can break too."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no such call on this system, or stdout is no file
        return False


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Forgets what could not be written; Python would try again at its end, and complain."""
    with suppress(OSError, ValueError):  # raised if it is no file of the system
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that what is open is closed. Only the main thread can do this."""

    def stop(signum, frame):
        raise Terminated

    is_ours = threading.current_thread() is threading.main_thread()
    is_ours = is_ours and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if is_ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    Whatever is raised, by any library, is one line on stderr, or a traceback with `--traceback`.

    Returns:
        0; 1 for an error; 2 for wrong arguments; 130 for Ctrl-C; 141 for a closed pipe; 143 for SIGTERM.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    show_traceback = wants_traceback(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # the terminal may lack a letter of a label or a name
    try:
        with _sigterm_raises(), _escaped_output():
            try:
                code = quick_answer(argv)
                if code is None:
                    code = importlib.import_module("perceivers.cli.main").run_command(argv)
            finally:
                _flush()  # here, as errors at Python's end cannot be caught
        return code
    except (Exception, KeyboardInterrupt) as error:
        if show_traceback and not isinstance(error, BrokenPipeError):
            raise
        return report(error)


if __name__ == "__main__":
    sys.exit(main())
