"""Which errors are a user's to mend: those end in a line that says what, where and what to do; others are ours."""

from __future__ import annotations

import errno

# What the system refuses where a disk is full or a folder may not be written.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


class UserError(Exception):
    """Something outside the code is wrong. The message says what, where, and what to do."""


def is_users_to_mend(error: BaseException) -> bool:
    return isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in _DISK)
