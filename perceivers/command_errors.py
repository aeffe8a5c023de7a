"""What the command line can be told wrongly, and the line that it answers with."""


class UserError(ValueError):
    """Something that the user can put right; shown as one line, exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """Arguments that make no command; shown as one line, exit code 2."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """The error's message without line breaks, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def core_message(error: BaseException) -> str:
    """The message of an error in one line: of the innermost cause, as libraries wrap what the user has to read."""
    from huggingface_hub.errors import StrictDataclassError

    while isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        error = error.__cause__
    message = one_line(error)
    return f"missing key {message}" if isinstance(error, KeyError) else message
