"""Errors caused by the user; `perceivers_cli` shows them, as all others, as one line."""

from perceivers_cli import UsageError, one_line


class UserError(ValueError):
    """Something that the user can put right; exit code 1."""

    exit_code = 1


__all__ = ["UsageError", "UserError", "one_line"]
