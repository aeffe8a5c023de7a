"""What the readers of all modalities share: URLs, limits, optional libraries, and errors that name the input."""

import importlib
import io
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from huggingface_hub import get_session

# Environment variables that set a limit: the most memory that one input may take once it is decoded, and of a download
# the bytes, the seconds without any, and the seconds in all.
MAX_INPUT_BYTES = "PERCEIVERS_MAX_INPUT_BYTES"
MAX_DOWNLOAD_BYTES = "PERCEIVERS_MAX_DOWNLOAD_BYTES"
MAX_IDLE_SECONDS = "PERCEIVERS_MAX_IDLE_SECONDS"
MAX_DOWNLOAD_SECONDS = "PERCEIVERS_MAX_DOWNLOAD_SECONDS"
DEFAULT_LIMITS = {
    MAX_INPUT_BYTES: 4 * 2**30,
    MAX_DOWNLOAD_BYTES: 2**30,
    MAX_IDLE_SECONDS: 30,
    MAX_DOWNLOAD_SECONDS: 600,
}
MAX_REDIRECTS = 5
DECODED_AT_ONCE = 2**20  # bytes


def limit(name: str) -> int:
    """Returns a limit: the value of the environment variable of that name, or the default.

    Raises:
        ValueError: The environment variable is not a positive whole number.
    """
    value = os.environ.get(name, str(DEFAULT_LIMITS[name]))
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"The environment variable {name} must be a positive whole number, got {value!r}.")
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
    if needed > (most := limit(MAX_INPUT_BYTES)):
        raise ValueError(
            f"{name} is too large: it needs {needed:,} bytes or more, and one input may take {most:,}; the "
            f"environment variable {MAX_INPUT_BYTES} changes this{hint}"
        )


def is_url(source: Any) -> bool:
    """Whether this is an http(s) URL."""
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def read_bytes(path_or_url: str) -> bytes:
    """Reads the content of an http(s) URL or of a file.

    Raises:
        ValueError: There is no such file, it is too large, or as in [`download`].
    """
    if is_url(path_or_url):
        return download(path_or_url)
    if not os.path.isfile(path_or_url):
        raise ValueError(f"there is no file {path_or_url[:200]!r}")
    check_memory(os.path.getsize(path_or_url), f"{path_or_url[:200]!r}")
    with open(path_or_url, "rb") as file:
        return file.read()


def download(url: str) -> bytes:
    """Downloads an http(s) URL with the client of `huggingface_hub`, which knows proxies and certificates.

    No token is sent. Limits hold for the bytes once they are decoded, the time without any, the time in all, and the
    number of redirects; a redirect may lead to http(s) only.

    Raises:
        ValueError: It cannot be reached, is incomplete, or is over a limit. The message is one line that names the URL
            and the environment variable that changes the limit.
    """
    name, stop = f"{url[:200]!r}", threading.Event()
    result: list[bytes | Exception] = []

    def work() -> None:
        try:
            result.append(_fetch(url, name, stop))
        except Exception as error:
            result.append(error)

    # In a thread, as a client's own time limits start again with each byte, and name resolution has none. A thread
    # that is given up does not keep the process alive.
    seconds = limit(MAX_DOWNLOAD_SECONDS)
    thread = threading.Thread(target=work, daemon=True, name="perceivers-download")
    thread.start()
    try:
        thread.join(seconds)
    finally:
        stop.set()
    if not result:
        raise ValueError(_over(name, "slow", f"it takes more than {seconds:,} s", MAX_DOWNLOAD_SECONDS))
    (content,) = result
    if isinstance(content, bytes):
        return content
    if isinstance(content, ValueError) and str(content).startswith(name):
        raise content
    if "Timeout" in type(content).__name__:
        idle = f"nothing came for {limit(MAX_IDLE_SECONDS):,} s"
        raise ValueError(_over(name, "slow", idle, MAX_IDLE_SECONDS)) from content
    reason = " ".join(str(content).split())[:200] or type(content).__name__
    raise ValueError(f"{name} is out of reach: {reason}") from content


def _over(name: str, what: str, reason: str, setting: str) -> str:
    return f"{name} is too {what}: {reason}; the environment variable {setting} changes this"


def _fetch(url: str, name: str, stop: threading.Event) -> bytes:
    """Downloads, with all limits but that on the time in all; ends early when `stop` is set."""
    client, most = get_session(), limit(MAX_DOWNLOAD_BYTES)
    # Without an encoding there is nothing that could expand; servers may send one all the same.
    request = client.build_request(
        "GET", url, headers={"Accept-Encoding": "identity"}, timeout=limit(MAX_IDLE_SECONDS)
    )
    for _ in range(1 + MAX_REDIRECTS):
        response = client.send(request, stream=True, follow_redirects=False)
        try:
            if (target := response.next_request) is not None:
                if target.url.scheme not in ("http", "https"):
                    raise ValueError(f"{name} is out of reach: it leads to {str(target.url)[:200]!r}")
                request = target
                continue
            if not response.is_success:
                raise ValueError(f"{name} is out of reach: the server answers {_status(response.status_code)}")
            content = io.BytesIO()
            for part in _decode(response.iter_raw(), response.headers.get("Content-Encoding", ""), name):
                if content.tell() + len(part) > most:
                    raise ValueError(_over(name, "large", f"it has more than {most:,} bytes", MAX_DOWNLOAD_BYTES))
                if stop.is_set():
                    break
                content.write(part)
            return content.getvalue()
        finally:
            response.close()
    raise ValueError(f"{name} is out of reach: it leads from page to page more than {MAX_REDIRECTS} times")


def _decode(parts: Iterable[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """Yields what a server has encoded, in pieces of a size that does not depend on how far they expand."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        yield from parts
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"{name} is encoded as {encoding[:50]!r}, which was not asked for")
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # takes the heads of gzip and of zlib
    for part in parts:
        while part and not decoder.eof:
            yield decoder.decompress(part, DECODED_AT_ONCE)
            part = decoder.unconsumed_tail
    yield decoder.flush()
    if not decoder.eof:
        raise ValueError(f"{name} is incomplete: its encoding as {encoding} has no end")


def _status(code: int) -> str:
    """A status with the standard's words for it; the server's own can hold anything."""
    return f"{code} {HTTPStatus(code).phrase}" if code in set(HTTPStatus) else str(code)


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

    A message that begins with the name already stays as it is.

    Args:
        item: The name; `None` leaves the message as it is.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        is_named = item is None or str(error).startswith(item)
        raise kind(str(error) if is_named else f"{item}: {error}") from error
