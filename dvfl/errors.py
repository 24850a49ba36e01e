"""Which errors are a user's to mend: those end in a line that says what, where and what to do; others are ours."""

from __future__ import annotations

import errno
import os

# What the system refuses where a disk is full, or a folder may not be written or read.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


class UserError(Exception):
    """Something outside the code is wrong. The message says what, where, and what to do."""

    exit_code = 1


class Stopped(UserError):
    """The work was asked to end: what is done is saved, and the same command goes on from there.

    Commands leave with exit code 75, "try again later" (EX_TEMPFAIL of sysexits.h), so that a scheduler can tell.
    """

    exit_code = os.EX_TEMPFAIL


class Pruned(Stopped):
    """A trial of a search was ended for what it had reached; nobody goes on with it."""


def is_users_to_mend(error: BaseException) -> bool:
    return isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in _DISK)
