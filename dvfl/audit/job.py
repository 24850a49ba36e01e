"""The audit of a data set's split, from its index and clips; or of published lists, where there are no clips."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from dvfl import paths, plan
from dvfl.audit import findings, pictures
from dvfl.config import Config
from dvfl.data.errors import DataError
from dvfl.data.index import clips_root, read_index
from dvfl.data.lists import holds_lists, read_lists
from dvfl.data.sources import guess_pattern, source_of
from dvfl.data.splits import mismatches, published_list, read_split
from dvfl.files import atomic, required


def fingerprint_dataset(config: Config, dataset: str, workers: int) -> int:
    """Hash the pictures of every clip of a data set once; how many there are."""
    index = read_index(required(paths.index_path(dataset)))
    root = clips_root(config.dataset_definitions[dataset])
    found = pictures.fingerprint_clips(root, index, workers, paths.readings_path(dataset))
    pictures.write_fingerprints(found, paths.fingerprints_path(dataset))
    return len(found)


def audit_split(config: Config, dataset: str, split: str) -> pd.DataFrame:
    """Write and return the findings of a split; the clips that leak are written beside."""
    definition = config.dataset_definitions[dataset]
    index = read_index(required(paths.index_path(dataset)))
    subsets = read_split(required(paths.split_path(dataset, split))).set_index("clip_id")["subset"]
    clips = index.assign(subset=index["clip_id"].map(subsets).fillna(""))
    listed = published_list(definition, split)
    rows = [*findings.contents(clips)]
    rows += findings.left_out(index, None if listed is None else mismatches(index, listed))
    if listed is not None:
        rows += findings.mislabelled(listed)
    elif definition.source is not None and definition.source.expected.clips is not None:
        rows += findings.lacking(index, definition.source.expected.clips)
    parts = [findings.leaked_by_source(clips, definition.group), findings.same_bytes(clips)]
    if plan.compares_pictures(config, dataset):
        hashes = pictures.read_fingerprints(required(paths.fingerprints_path(dataset)))
        parts.append(findings.same_pictures(clips, hashes, config.audit.distance))
    found = pd.DataFrame([*rows, *(row for part, _ in parts for row in part)], columns=findings.COLUMNS)
    culprits = pd.concat([named for _, named in parts], ignore_index=True)
    for frame, path in ((culprits, paths.leaks_path(dataset, split)), (found, paths.audit_path(dataset, split))):
        with atomic(path) as partial:
            frame.to_csv(partial, index=False, lineterminator="\n", float_format="%.6g")
    return found


def audit_lists(folders: Iterable[Path], pattern: str | None = None) -> Iterator[tuple[Path, str, pd.DataFrame]]:
    """Folder, split and findings of all lists in or under some folders: what names alone can tell.

    Without a `pattern`, sources are told as the names of the known data sets tell them.
    """
    if pattern is not None and "group" not in re.compile(pattern).groupindex:
        raise DataError(f"--group {pattern!r} needs a named group, for example '(?P<group>.+)_c\\d+$'")
    for folder in folders:
        holding = [each for each in (folder, *sorted(folder.rglob("*"))) if each.is_dir() and holds_lists(each)]
        if not holding:
            raise DataError(f"{folder}: neither it nor a folder in it holds lists; give the folder of the lists")
        for place in holding:
            for split, listed in read_lists(place).items():
                yield place, split, _audit_list(listed, pattern)


def _audit_list(listed: pd.DataFrame, pattern: str | None) -> pd.DataFrame:
    pattern = pattern or guess_pattern(listed["clip"])
    clips = listed.rename(columns={"clip": "clip_id"})
    clips["group"] = [source_of(clip, pattern) for clip in clips["clip_id"]]
    leak, _ = findings.leaked_by_source(clips, pattern)
    return pd.DataFrame([*findings.contents(clips), *findings.mislabelled(listed), *leak], columns=findings.COLUMNS)
