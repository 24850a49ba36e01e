"""Which errors are a user's to mend: those end in a line that says what, where and what to do; others are ours."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the code is wrong. The message says what, where, and what to do."""


def is_users_to_mend(error: BaseException) -> bool:
    return isinstance(error, UserError)
