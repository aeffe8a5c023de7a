"""Errors caused by the user, and the one-line message shown for them."""

from huggingface_hub.errors import StrictDataclassError

from perceivers_cli import UsageError, one_line


class UserError(ValueError):
    """Something that the user can put right; shown as one line, exit code 1."""

    exit_code = 1


def root_cause_message(error: BaseException) -> str:
    """Returns an error's message in one line: that of the innermost cause, as libraries wrap what the user needs."""
    while isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        error = error.__cause__
    message = one_line(error)
    return f"Missing key {message}." if isinstance(error, KeyError) else message


__all__ = ["UsageError", "UserError", "one_line", "root_cause_message"]
