"""Signals that wait, where the exception that a handler raises would be lost or leave something half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Their handlers raise exceptions: Ctrl-C, a batch system that stops a program, and timers.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name))


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Holds signals back until the end of the block, which should be short."""
    if threading.current_thread() is not threading.main_thread():  # where signals are handled
        yield
        return
    handlers = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    received: list[tuple[int, Any]] = []
    for number in handlers:
        signal.signal(number, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in received:
            handlers[number](number, frame)
