"""The index: every clip of a data set with what is known of it, bad ones included."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from dvfl.config import DatasetDefinition
from dvfl.data.errors import DataError
from dvfl.data.lists import VIDEO, listed_classes, match_clips
from dvfl.data.readings import Reading, read_clips, read_shard
from dvfl.data.sources import source_of
from dvfl.files import atomic

COLUMNS = {
    "clip_id": "str",
    "class_name": "str",
    "label": "int64",
    "group": "str",
    "frames": "int64",
    "fps": "float64",
    "width": "int64",
    "height": "int64",
    "bytes": "int64",
    "sha256": "str",
    "status": "str",  # ok, unreadable, too_short, no_group
    "reason": "str",
}

ROWS_AT_ONCE = 4096  # as Python objects, of ten times the size of a frame's

log = logging.getLogger(__name__)


def clips_root(definition: DatasetDefinition) -> Path:
    """Folder of the class folders, which clip ids are relative to."""
    if definition.kind == "archives":
        own = definition.root if definition.source.layout == "class_folders" else None
        return own or definition.source.folder / "clips"
    if definition.root is None:
        raise DataError("the data set has no root: give the folder that holds <class>/<clip>")
    return definition.root / "clips" if definition.kind == "motions" else definition.root


def build_index(root: Path, definition: DatasetDefinition, workers: int, kept: Path | None = None) -> pd.DataFrame:
    """Read every clip under root/<class>/ and list it, one row each, sorted by clip_id.

    `root` is the clips' root. Where a folder's official lists alone know the classes (a copy of Kinetics, say), clips
    lie under root at any depth and those in no list are left out. The whole of each clip is decoded, by `workers`
    processes; the result does not depend on them. With a folder `kept`, clips that are unchanged since it was written
    are not read again. A clip that is bad is listed with its status and the reason. Raises DataError where no clip can
    be used at all.
    """
    clips = _find_all(root, definition)
    labels = {name: label for label, name in enumerate(_classes(root, clips))}
    with TemporaryDirectory() if kept is None else nullcontext(kept) as folder:
        readings = read_clips(root, sorted(clips), workers, Path(folder), definition.index_shards)
        parts = []
        while some := list(islice(readings, ROWS_AT_ONCE)):
            rows = pd.DataFrame([_row(reading, definition.group, definition.min_frames) for reading in some])
            rows["class_name"] = rows["clip_id"].map(clips)
            rows["label"] = rows["class_name"].map(labels)
            parts.append(rows[list(COLUMNS)].astype(COLUMNS))
    index = pd.concat(parts, ignore_index=True)
    _check_usable(index, root, definition)
    return index


def named_clips(definition: DatasetDefinition) -> pd.DataFrame | None:
    """What a folder's names alone tell of its clips: clip_id, class_name, group; no clip is opened.

    None where lists may know the classes. Raises DataError where no clip could be used, whatever is in the files.
    """
    root = clips_root(definition)
    if definition.lists_folder("official") is not None:
        return None
    clips = _find_clips(root, logging.DEBUG)  # what is left out is told when the index is made
    _classes(root, clips)
    rows = pd.DataFrame({"clip_id": list(clips), "class_name": list(clips.values())})
    rows["group"] = [source_of(clip, definition.group) for clip in clips]
    rows["status"] = ["ok" if group else "no_group" for group in rows["group"]]
    _check_usable(rows, root, definition)
    return rows[rows["status"] == "ok"]


def index_shard(root: Path, definition: DatasetDefinition, shard: int, workers: int, kept: Path) -> int:
    """Read the clips of one of the `index_shards` shards into the folder `kept`; how many were new or changed."""
    if shard not in range(definition.index_shards):
        raise DataError(f"there is no shard {shard}: index_shards is {definition.index_shards}, and they count from 0")
    return read_shard(root, sorted(_find_all(root, definition)), workers, kept, shard, definition.index_shards)


def write_index(index: pd.DataFrame, path: str | Path) -> None:
    """Write the index as parquet; the file appears whole or not at all."""
    with atomic(path) as temporary:
        index.to_parquet(temporary, index=False)


def read_index(path: str | Path) -> pd.DataFrame:
    """The index that `write_index` wrote."""
    return pd.read_parquet(path)[list(COLUMNS)].astype(COLUMNS)


def _classes(root: Path, clips: dict[str, str]) -> list[str]:
    """Names of the clips' classes, sorted; DataError where there is one alone."""
    classes = sorted(set(clips.values()))
    if len(classes) < 2:
        raise DataError(
            f"{root} holds clips of {len(classes)} class ({', '.join(classes)}); recognition needs "
            f"two or more: one folder for each class, named after it"
        )
    return classes


def _find_all(root: Path, definition: DatasetDefinition) -> dict[str, str]:
    """Clip ids with their classes."""
    classes = listed_classes(definition.lists_folder("official")) if definition.kind == "folder" else None
    return _find_clips(root) if classes is None else _find_listed(root, classes)


def _find_clips(root: Path, level: int = logging.WARNING) -> dict[str, str]:
    """Clip ids with their classes: files with a video's extension under root/<class>/; others are logged."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give the folder that holds <class>/<clip>")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and _shown(entry.name))
    if not folders:
        raise DataError(f"{root} holds no class folders: put each class's clips in a folder")
    clips: dict[str, str] = {}
    others: Counter[str] = Counter()
    for folder in folders:
        for file in _files_under(folder):
            if re.search(VIDEO, file.name, re.IGNORECASE):
                clips[file.relative_to(root).as_posix()] = folder.name
            else:
                others[file.suffix.lower() or "no extension"] += 1
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        log.log(level, "%s: left out what is not a video by its name: %s", root, kinds)
    if not clips:
        raise DataError(
            f"{root} holds no clips: none of its {len(folders)} class folders has a file with the "
            f"name of a video (.avi, .mp4, .webm, …)"
        )
    return clips


def _find_listed(root: Path, classes: dict[str, str]) -> dict[str, str]:
    """Ids of the clips that are listed, with their classes: files under root whose name is a listed clip's."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give the folder that holds the clips")
    files = sorted(path.relative_to(root).as_posix() for path in _files_under(root))
    videos = [file for file in files if re.search(VIDEO, file, re.IGNORECASE)]
    found = dict(zip(match_clips(classes, videos), classes.values(), strict=True))
    found.pop("", None)
    if not found:
        raise DataError(f"{root}: none of its {len(videos)} clips has a name that is listed, such as {min(classes)}")
    if len(found) < len(videos):
        log.warning("%s: left out %d clips that are in no list of labelled ones", root, len(videos) - len(found))
    return found


def _files_under(folder: Path) -> Iterator[Path]:
    """Files at any depth, links followed (but not in circles), hidden ones left out.

    Raises PermissionError for a folder that may not be read: its clips would be left out without a word.
    """
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=_unless_gone, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in visited else filter(_shown, folders)
        if real not in visited:
            yield from (Path(parent, name) for name in filter(_shown, files))
        visited.add(real)


def _unless_gone(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise error


def _shown(name: str) -> bool:
    return not name.startswith(".") and name != "lost+found"  # which a mounted disk has, for root alone


def _row(reading: Reading, pattern: str | None, min_frames: int) -> dict[str, object]:
    """One row of the index, but for the class."""
    status, reason = "ok", ""
    group = source_of(reading.clip_id, pattern)
    if reading.problem:
        status, reason = "unreadable", reading.problem
    elif reading.frames < min_frames:
        status, reason = "too_short", f"has {reading.frames} frames, fewer than {min_frames}"
    elif not group:
        status, reason = "no_group", f"its name does not match the group pattern {pattern!r}"
    return reading._asdict() | {"group": group, "status": status, "reason": reason}


def _check_usable(rows: pd.DataFrame, root: Path, definition: DatasetDefinition) -> None:
    """Raise where nothing is left to work with."""
    if (rows["status"] == "ok").any():
        return
    first = rows.iloc[0]
    if (rows["status"] == "no_group").any():
        first = rows[rows["status"] == "no_group"].iloc[0]
        raise DataError(
            f"the group pattern {definition.group!r} matches no clip of {root}: the stem of "
            f"{first['clip_id']}, for one, is {Path(first['clip_id']).stem!r}"
        )
    raise DataError(
        f"none of the {len(rows)} clips of {root} can be used: {first['clip_id']}, for one, {first['reason']}; "
        f"replace the files, or give another `root`"
    )
