"""Credentials out of messages and files."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(?<=://)[^\s/@:]*(?::[^\s]*|[^\s/]*)@")
_QUERY = re.compile(r"([?&][\w.-]*(?:pass|pwd|token|secret|key|signature|credential)[\w.-]*=)[^&\s\"']+", re.I)


def redact(text: str) -> str:
    """The text with the credentials of every URI in it replaced by `***`.

    Credentials are what stands before the host (`user:password@`), however odd its characters,
    and query values whose names speak of passwords, tokens, keys and the like. Where it is not
    clear where a password ends, rather too much is hidden than too little.
    """
    return _QUERY.sub(r"\1***", _USER_INFO.sub("***@", text))
