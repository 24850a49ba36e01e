"""The source of a clip, the video that it was cut from, as the names of the known data sets tell it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

# What a clip's stem looks like. `fold` is the part of a group that all classes have in common.
PATTERNS = (
    r"^(?P<group>v_.+_(?P<fold>g\d+))_c\d+$",  # UCF50, UCF101: v_<class>_g<source>_c<clip>
    r"^(?P<group>.+)_[a-z]_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+$",  # HMDB51: <title>_<class>_<five attributes>_<clip>
    r"^(?P<group>[\w-]{11})_\d{6}_\d{6}$",  # Kinetics: <YouTube id>_<start>_<end>
)


def guess_pattern(clips: Iterable[str]) -> str | None:
    """The pattern that fits all of these clips; None where none does, as for Something-Something-v2's numbers."""
    stems = [stem(clip) for clip in clips]
    return next((pattern for pattern in PATTERNS if stems and all(re.search(pattern, each) for each in stems)), None)


def source_of(clip: str, pattern: str | None) -> str:
    """The clip's group; without a pattern the clip itself; '' where the pattern does not fit its name."""
    if pattern is None:
        return clip
    found = re.search(pattern, stem(clip))
    return (found["group"] or "") if found else ""


def fold_of(clip: str, pattern: str | None) -> str:
    """What a k-fold split leaves out together: the pattern's `fold`, else the clip's group."""
    found = re.search(pattern, stem(clip)) if pattern else None
    return (found.groupdict().get("fold") or "") if found else ""


def stem(clip: str) -> str:
    return PurePosixPath(clip).stem
