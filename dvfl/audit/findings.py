"""What is counted of a split. A finding is a number with its definition; the clips behind it are named beside.

Clips come as a frame with clip_id, class_name, group and subset; from an index also frames, fps, sha256 and status.
Train and validation count as one where leakage is meant, since final runs train on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from dvfl.audit import pictures

COLUMNS = ["subset", "class_name", "status", "metric", "unit", "value", "definition"]
CULPRITS = ["found_by", "clip_id", "subset", "other", "other_subset", "distance"]
TRAINED = ("train", "validation")

Finding = dict[str, Any]


def source_definition(pattern: str | None) -> str:
    """What a source is, in words."""
    return "every clip is a source of its own" if pattern is None else f"a source is a class and /{pattern}/ of a name"


def contents(clips: pd.DataFrame) -> Iterator[Finding]:
    """Clips, classes and hours of each subset, whole and by class."""
    used = clips[clips["subset"] != ""]
    timed = {"frames", "fps"} <= set(clips.columns)
    hours = used["frames"] / used["fps"].where(used["fps"] > 0) / 3600 if timed else pd.Series(np.nan, used.index)
    used = used.assign(hours=hours)
    for subset, of_subset in used.groupby("subset", sort=True):
        by_class = of_subset.groupby("class_name", sort=True)
        sizes = by_class.size()
        yield _finding("clips", "clips", len(of_subset), "clips in the subset", subset)
        yield _finding("classes", "", len(sizes), "classes with a clip in the subset", subset)
        yield _finding("smallest_class", "clips", sizes.min(), "clips of the class that has fewest", subset)
        yield _finding("largest_class", "clips", sizes.max(), "clips of the class that has most", subset)
        if timed:
            yield _finding("hours", "h", of_subset["hours"].sum(), "frames / frame rate, where it is known", subset)
        for name, of_class in by_class:
            yield _finding("clips", "clips", len(of_class), "clips of the class in the subset", subset, name)
            if timed:
                yield _finding("hours", "h", of_class["hours"].sum(), "of the class in the subset", subset, name)


def left_out(index: pd.DataFrame, differing: pd.DataFrame | None) -> Iterator[Finding]:
    """Clips that cannot be used, and those that list and index do not agree about (None: there is no list)."""
    counts = index.loc[index["status"] != "ok", "status"].value_counts().sort_index()
    yield _finding("clips_unusable", "clips", counts.sum(), "clips of the index that are not ok, in any subset or none")
    for status, count in counts.items():
        text = f"clips of the index with status {status}"
        yield _finding("clips_unusable", "clips", count, text) | {"status": status}
    if differing is not None:
        problems = differing["problem"].value_counts()
        missing = "clips of the list, its unused ones aside, that are not in the index"
        unlisted = "clips of the index that are in no part of the list"
        yield _finding("clips_missing", "clips", problems.get("missing", 0), missing)
        yield _finding("clips_unlisted", "clips", problems.get("unlisted", 0), unlisted)


def mislabelled(listed: pd.DataFrame) -> Iterator[Finding]:
    """Clips to which a list gives a number that is not their class's; the class is taken from the folder's name."""
    wrong = "whose number in the list is not that of their class in the class file beside it"
    rows = listed[listed["mislabelled"]]
    yield _finding("clips_mislabelled", "clips", len(rows), f"clips {wrong}; their folder's class is used")
    yield _finding("classes_mislabelled", "", rows["class_name"].nunique(), f"classes with clips {wrong}")


def lacking(index: pd.DataFrame, expected: int) -> Iterator[Finding]:
    """Clips that the owner's data set has and the index lacks, where no list names them."""
    definition = (
        f"clips that the index lacks of the {expected} of the owner's data set; there is no list that names them"
    )
    yield _finding("clips_missing", "clips", max(0, expected - len(index)), definition)


def leaked_by_source(clips: pd.DataFrame, pattern: str | None) -> tuple[list[Finding], pd.DataFrame]:
    """Test clips whose class and source stand in train."""
    same = "test clips whose class and source are those of a clip in train or validation"
    definition = f"{same}, where {source_definition(pattern)}"
    keys = ["class_name", "group"]
    named = clips[clips["group"] != ""]
    firsts = named[named["subset"].isin(TRAINED)].sort_values("clip_id").drop_duplicates(keys)
    test = named[named["subset"] == "test"]
    found = test.merge(firsts, on=keys, suffixes=("", "_other"))
    return _leak("source", found, clips, definition)


def same_bytes(clips: pd.DataFrame) -> tuple[list[Finding], pd.DataFrame]:
    """Clips that are there twice, and test clips whose bytes stand in train."""
    known = clips[(clips["sha256"] != "") & (clips["subset"] != "")]
    copies = known["sha256"].duplicated(keep=False)
    many = "clips in any subset whose sha256 is that of another clip in any subset"
    firsts = known[known["subset"].isin(TRAINED)].sort_values("clip_id").drop_duplicates("sha256")
    found = known[known["subset"] == "test"].merge(firsts, on="sha256", suffixes=("", "_other"))
    leak, culprits = _leak("bytes", found, clips, "test clips whose sha256 is that of a clip in train or validation")
    return [_finding("clips_with_same_bytes", "clips", copies.sum(), many), *leak], culprits


def same_pictures(clips: pd.DataFrame, fingerprints: pd.DataFrame, limit: float) -> tuple[list[Finding], pd.DataFrame]:
    """Clips that look like a clip of another source, and test clips that look like one in train.

    `limit` is the largest distance, in bits of 64, of two clips that are held to be the same.
    """
    rows = clips[clips["subset"] != ""].merge(fingerprints[["clip_id", "hashes"]], on="clip_id")
    hashes, sources = pictures.stacked(rows), rows["group"].to_numpy(object)
    test, trained = (rows["subset"].isin(names).to_numpy() for names in (("test",), TRAINED))
    alike = pictures.nearest(hashes, hashes, sources, sources, limit, cropped=False)
    in_train = pictures.nearest(hashes[test], hashes[trained], sources[test], sources[trained], limit)
    others = rows[trained].reset_index(drop=True).add_suffix("_other").reindex(in_train["position"])
    found = pd.concat([rows[test].reset_index(drop=True), others.reset_index(drop=True)], axis=1)
    found = found.assign(distance=in_train["distance"]).loc[in_train["distance"] <= limit]
    near = f"of another source by {limit:g} of 64 bits or less of a pHash, mean over {pictures.FRAMES} frames"
    leak = f"test clips that differ from a clip in train or validation {near}, which for one of the two may be cropped"
    leaks, culprits = _leak("pictures", found, clips, leak)
    many = f"clips in any subset that differ from a clip in any subset {near}"
    compared = "clips with frames that are not plain, so that their pictures can be compared"
    seen = int(((hashes[:, :, pictures.WHOLE] != 0).sum(axis=1) >= pictures.FRAMES / 2).sum())
    return [
        _finding("clips_compared_by_pictures", "clips", seen, compared),
        _finding("clips_with_same_pictures", "clips", (alike["distance"] <= limit).sum(), many),
        *leaks,
    ], culprits


def as_text(found: pd.DataFrame) -> str:
    """The findings about no single class, a line each with its definition."""
    lines = []
    for row in found[found["class_name"] == ""].itertuples():
        value = "–" if pd.isna(row.value) else f"{row.value:.6g}"
        name = " ".join(part for part in (row.metric, row.subset, row.status) if part)
        lines.append(f"  {value:>9} {'%' if row.unit == 'percent' else row.unit:<7} {name}: {row.definition}")
    return "\n".join(lines)


def _leak(
    found_by: str, found: pd.DataFrame, clips: pd.DataFrame, definition: str
) -> tuple[list[Finding], pd.DataFrame]:
    """Count and share of the test clips that were found, and with which clip of train each of them was."""
    total, tested = (clips["subset"] == "test").sum(), clips["subset"].isin(TRAINED).any()
    if not tested:
        definition = f"not tested, since there is no clip in train: {definition}"
    culprits = pd.DataFrame(
        {
            "found_by": found_by,
            "clip_id": found["clip_id"],
            "subset": found["subset"],
            "other": found["clip_id_other"],
            "other_subset": found["subset_other"],
            "distance": found.get("distance", np.nan),
        }
    )
    share = 100 * len(found) / total if total and tested else np.nan
    count = len(found) if tested else np.nan
    return [
        _finding(f"test_leaked_by_{found_by}", "clips", count, definition, "test"),
        _finding(
            f"test_leaked_by_{found_by}_share",
            "percent",
            share,
            f"test_leaked_by_{found_by} in percent of the test clips",
            "test",
        ),
    ], culprits[CULPRITS].sort_values("clip_id", ignore_index=True)


def _finding(metric: str, unit: str, value: float, definition: str, subset: str = "", class_name: str = "") -> Finding:
    names = {"subset": subset, "class_name": class_name, "status": ""}
    return names | {"metric": metric, "unit": unit, "value": value, "definition": definition}
