"""What the readers of all modalities share: URLs, limits, optional libraries, and errors that name the input."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_session

# The most memory that one input may take once it is decoded, by default in bytes.
MAX_INPUT_BYTES = "PERCEIVERS_MAX_INPUT_BYTES"
DEFAULT_MAX_INPUT_BYTES = 4 * 2**30


def max_input_bytes() -> int:
    """Returns the most memory that one input may take once it is decoded.

    Raises:
        ValueError: The environment variable that sets it is not a positive whole number.
    """
    value = os.environ.get(MAX_INPUT_BYTES, str(DEFAULT_MAX_INPUT_BYTES))
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"The environment variable {MAX_INPUT_BYTES} must be a positive whole number, got {value!r}.")
    return int(value)


def check_memory(needed: int, name: str, hint: str = "") -> None:
    """Refuses an input before it takes more memory than one input may.

    Args:
        needed: In bytes.
        name: How the error refers to the input.
        hint: What the error says at its end.

    Raises:
        ValueError: It needs more. The message names the setting that allows it.
    """
    if needed > (limit := max_input_bytes()):
        raise ValueError(
            f"{name} is too large: it needs {needed:,} bytes or more, and one input may take {limit:,}; the "
            f"environment variable {MAX_INPUT_BYTES} changes this{hint}"
        )


def is_url(source: Any) -> bool:
    """Whether this is an http(s) URL."""
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def read_bytes(path_or_url: str) -> bytes:
    """Reads the content of an http(s) URL or of a file.

    Raises:
        ValueError: There is no such file, or it is too large.
    """
    if is_url(path_or_url):
        return get_session().get(path_or_url).raise_for_status().content
    if not os.path.isfile(path_or_url):
        raise ValueError(f"there is no file {path_or_url[:200]!r}")
    check_memory(os.path.getsize(path_or_url), f"{path_or_url[:200]!r}")
    with open(path_or_url, "rb") as file:
        return file.read()


def import_optional(module: str, message: str) -> Any:
    """Imports a library that is not a requirement of this package.

    It is imported by name, because the Hub's loader demands every library that it finds in an import statement.

    Args:
        module: Name of the module.
        message: Says what needs the library and how to install it.

    Raises:
        ImportError: The library is missing, or broken: a build that does not fit raises OSError or RuntimeError.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise ImportError(message) from error


@contextmanager
def naming(item: str | None) -> Iterator[None]:
    """Puts the name of an item, such as `clip 3`, before the message of a `TypeError` or `ValueError` raised inside.

    Args:
        item: The name; `None` leaves the message as it is.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(str(error) if item is None else f"{item}: {error}") from error
