"""Splits: which clips train, choose (validation) and test.

Test clips are those of a published list (split<k> of an owner, `released`), a fold of a k-fold (fold<k>of<n>), or a
share of the clips held out by group. Clips of one group never straddle, but between train and test of a published list,
which is followed as it is, and of clips<k>, which is drawn clip by clip to measure what leaking does: the audit counts
what they leak. Validation is held out of train by group.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from dvfl.config import DatasetDefinition
from dvfl.config.datasets import SPLITS
from dvfl.data.errors import DataError
from dvfl.data.lists import match_clips, read_lists
from dvfl.data.sources import fold_of
from dvfl.files import atomic
from dvfl.randomness import derive_seed

SUBSETS = ("train", "validation", "test")
ATTEMPTS = 5  # seeds to try for each number of folds
MOST_FOLDS = 20


def make_split(index: pd.DataFrame, definition: DatasetDefinition, name: str) -> pd.DataFrame:
    """Subset (train, validation, test) of every clip that is ok and, where there is a list, listed: clip_id, subset.

    The same index, definition and name give the same split, whatever the order of the rows. Raises DataError where it
    cannot be made, or where list and index differ and the definition makes that an error.
    """
    rows = index[index["status"] == "ok"].sort_values("clip_id", ignore_index=True)
    seed = (definition.split_seed, "split", name)
    listed = published_list(definition, name)
    fold = re.fullmatch(r"fold(\d+)of(\d+)", name)
    by_clip = re.fullmatch(r"clips\d+", name) is not None
    if listed is not None:
        _check_mismatch(index, listed, definition, name)
        subset = _by_list(rows, listed)
    elif fold is not None:
        held = _fold(rows, int(fold[1]), int(fold[2]), definition)
        subset = pd.Series(np.where(held, "test", "train"), index=rows.index)
    elif by_clip:
        held = _hold_out_clips(rows, definition.test_fraction, (*seed, "test"))
        subset = pd.Series(np.where(held, "test", "train"), index=rows.index)
    elif re.fullmatch(r"split\d+", name):
        _check_groups(rows, len(SUBSETS), index)
        held = _hold_out(rows, definition.test_fraction, "test", (*seed, "test"), left=2)
        subset = pd.Series(np.where(held, "test", "train"), index=rows.index)
    else:
        raise DataError(f"splits: there is no split {name!r}; there are {SPLITS}")
    rest = rows[subset == "train"]
    _check_groups(rest, 2, index)
    held = _hold_out(rest, definition.validation_fraction, "validation", (*seed, "validation"))
    subset.loc[rest.index[held]] = "validation"
    split = pd.DataFrame({"clip_id": rows["clip_id"], "subset": subset.astype("str")})
    split = split[split["subset"] != ""].reset_index(drop=True)
    try:
        check_split(split, index, leaks=listed is not None or by_clip)
    except DataError as error:
        place = f" of {definition.lists_folder(definition.lists_of(name))}" if listed is not None else ""
        raise DataError(f"splits: {name}{place}: {error}") from error
    return split


def check_drawn(clips: pd.DataFrame, definition: DatasetDefinition) -> None:
    """Raise DataError where a class has too few groups for a split that is drawn; `clips` has class_name and group."""
    drawn = [name for name in definition.splits if definition.lists_of(name) is None]
    needed = [2 if name.startswith("clips") else len(SUBSETS) for name in drawn]
    if needed:
        _check_groups(clips, max(needed), clips)


def published_list(definition: DatasetDefinition, name: str) -> pd.DataFrame | None:
    """The published list that a split follows, as `read_lists` has it; None where the split is drawn."""
    which = definition.lists_of(name)
    if definition.kind == "motions" and which is None and not re.fullmatch(r"clips\d+", name):
        raise DataError(f"splits: {name!r} is not an official split; of rendered clips there are split1 and clips<k>")
    if name == "released" and which is None:
        raise DataError("splits: 'released' needs the released lists; give their folder under `lists.released`")
    if which is None:
        return None
    folder = definition.lists_folder(which)
    lists = read_lists(folder)
    if name not in lists:
        raise DataError(f"splits: {name!r} has no list in {folder}, which has {', '.join(lists)}")
    _check_counts(lists[name], definition, name, folder)
    return lists[name]


def _check_counts(listed: pd.DataFrame, definition: DatasetDefinition, name: str, folder: Path) -> None:
    """Raise where the owner's list is not as long as it is known to be."""
    expected = definition.source.expected.splits.get(name, {}) if definition.source else {}
    found = listed["subset"].value_counts()
    for subset, count in expected.items():
        if found.get(subset, 0) != count:
            raise DataError(
                f"{folder}: {name} lists {found.get(subset, 0):,} clips of {subset} where {count:,} are expected: get "
                f"the lists anew from their owner, or set source.expected.splits.{name} to what they hold"
            )


def mismatches(index: pd.DataFrame, listed: pd.DataFrame) -> pd.DataFrame:
    """Clips that a list and the index do not agree about: clip_id, subset, problem, place.

    `problem` is `missing` (listed, not there), `unlisted` (there, in no part of the list), or the status that keeps a
    listed clip out. Clips that the list itself leaves unused are no problem.
    """
    rows = listed.assign(clip_id=match_clips(listed["clip"], index["clip_id"]))
    status = index.set_index("clip_id")["status"]
    used = rows[rows["subset"] != "unused"]
    problem = used["clip_id"].map(status).fillna("missing")
    lost = used.assign(problem=problem, clip_id=used["clip_id"].where(used["clip_id"] != "", used["clip"]))
    extra = pd.DataFrame({"clip_id": sorted(set(index["clip_id"]) - set(rows["clip_id"]))})
    extra = extra.assign(subset="", problem="unlisted", place="")
    columns = ["clip_id", "subset", "problem", "place"]
    return pd.concat([lost.loc[problem != "ok", columns], extra[columns]], ignore_index=True)


def check_split(split: pd.DataFrame, index: pd.DataFrame, leaks: bool = False) -> None:
    """Raise DataError unless subsets share no group and each of them has every class.

    With `leaks`, train and test may share groups: a published list is followed as it is.
    """
    unknown = set(split["clip_id"]) - set(index["clip_id"])
    if unknown:
        raise DataError(f"the split has {min(unknown)!r}, which is not in the index: index again")
    rows = split.merge(index, on="clip_id")
    bound = rows[rows["subset"] != "test"] if leaks else rows
    subsets = bound.groupby("group")["subset"].agg(lambda names: sorted(set(names)))
    straddling = subsets[subsets.map(len) > 1]
    if len(straddling):
        group, names = straddling.index[0], straddling.iloc[0]
        raise DataError(
            f"group {group!r} has clips in {' and '.join(names)}: it must be in one; "
            f"mend `group`, or the list that the split follows"
        )
    classes = set(index["class_name"])
    for subset in SUBSETS:
        lacking = sorted(classes - set(rows.loc[rows["subset"] == subset, "class_name"]))
        if lacking:
            raise DataError(
                f"class {lacking[0]!r} has no clip in subset {subset!r} of the split; add such clips, or leave it out"
            )


def few_clips(
    index: pd.DataFrame,
    split: pd.DataFrame,
    clips_per_class: int,
    seed: int,
    subsets: Sequence[str] = ("train",),
) -> list[str]:
    """Ids of `clips_per_class` clips of each class: the few that are labelled, sorted.

    Groups come in an order that only `seed` and their names decide; whole groups are taken and the
    last one is cut. So fewer clips are always a subset of more. Raises DataError where a class
    has too few.
    """
    rows = split[split["subset"].isin(list(subsets))].merge(index, on="clip_id")
    rows = rows.assign(turn=[derive_seed(seed, "few", group) for group in rows["group"]])
    rows = rows.sort_values(["turn", "group", "clip_id"])
    counts = rows.groupby("class_name").size()
    if counts.min() < clips_per_class:
        name = counts.idxmin()
        raise DataError(
            f"class {name!r} has {counts[name]} clips in {' and '.join(subsets)}, fewer than the "
            f"clips_per_class of {clips_per_class}: ask for {counts[name]} or fewer"
        )
    return sorted(rows.groupby("class_name").head(clips_per_class)["clip_id"])


def write_split(split: pd.DataFrame, path: str | Path) -> None:
    """Write clip_id, subset as CSV; the file appears whole or not at all."""
    with atomic(path) as temporary:
        split.to_csv(temporary, index=False, lineterminator="\n")


def read_split(path: str | Path) -> pd.DataFrame:
    """The split that `write_split` wrote."""
    return pd.read_csv(path, dtype="str", keep_default_na=False)


def _by_list(rows: pd.DataFrame, listed: pd.DataFrame) -> pd.Series:
    """train or test as listed, '' for clips that the list leaves out."""
    used = listed[listed["subset"] != "unused"]
    subsets = dict(zip(match_clips(used["clip"], rows["clip_id"]), used["subset"], strict=True))
    return rows["clip_id"].map(subsets).fillna("").astype("str")


def _check_mismatch(index: pd.DataFrame, listed: pd.DataFrame, definition: DatasetDefinition, name: str) -> None:
    """Where the definition makes a difference between list and index an error, raise it."""
    found = mismatches(index, listed)
    if definition.lists is None or definition.lists.mismatch == "report" or found.empty:
        return
    counts = ", ".join(f"{count} {problem}" for problem, count in found["problem"].value_counts().items())
    first = found.iloc[0]
    at = f" ({first['place']})" if first["place"] else ""
    raise DataError(
        f"{name}: list and index differ in {len(found)} clips ({counts}), the first is {first['clip_id']}{at}: get the "
        f"missing clips, or set `lists.mismatch: report` to go on without them"
    )


def _fold(rows: pd.DataFrame, number: int, count: int, definition: DatasetDefinition) -> np.ndarray:
    """Mask of test fold `number` of `count`, which together are all clips; every class on both sides of each.

    Where the group pattern names a `fold`, fold k holds every count-th of its values from the k-th on: as many folds as
    values leave one of them out. Elsewhere whole groups are drawn, by the split seed.
    """
    if not 1 <= number <= count or count < 2:
        raise DataError(
            f"splits: there is no fold {number} of {count}: folds are numbered from 1, and there are two or more"
        )
    names = np.array([fold_of(clip, definition.group) for clip in rows["clip_id"]])
    classes = rows["class_name"].nunique()
    if len(names) and (names != "").all():
        values = np.unique(names)
        if count > len(values):
            raise DataError(f"splits: {count} folds of {len(values)} {values[0]}…{values[-1]}: ask for fewer folds")
        partitions = [[np.isin(names, values[start::count]) for start in range(count)]]
    else:
        seeds = [(definition.split_seed, "folds", attempt) for attempt in range(ATTEMPTS)]
        partitions = (_draw_folds(rows, count, seed) for seed in seeds)
    for folds in partitions:
        if all(_divides(rows, fold, classes, left=2) for fold in folds):
            return folds[number - 1]
    raise DataError(
        f"splits: {count} folds by group do not give every class clips in each fold and two groups outside it: ask for "
        f"fewer folds, or make `group` finer"
    )


def _check_groups(rows: pd.DataFrame, needed: int, index: pd.DataFrame) -> None:
    """Every class of the index needs a group of its own for each subset it is shared among."""
    counts = rows.groupby("class_name")["group"].nunique()
    counts = counts.reindex(sorted(index["class_name"].unique()), fill_value=0)
    for name, count in counts.items():
        if count < needed:
            found = sorted(rows.loc[rows["class_name"] == name, "group"].unique())
            listed = f" ({', '.join(found)})" if found else ""
            raise DataError(
                f"class {name!r} has {count} groups of usable clips{listed} and needs {needed}, "
                f"one for each of {', '.join(SUBSETS[-needed:] if needed == 3 else SUBSETS[:2])}: "
                f"add clips of other sources, leave the class out, or make `group` finer"
            )


def _hold_out_clips(rows: pd.DataFrame, fraction: float, seed: tuple[str | int, ...]) -> np.ndarray:
    """Mask of `fraction` of each class's clips, drawn clip by clip whatever their source."""
    turn = rows["clip_id"].map(lambda clip: derive_seed(*seed, clip))
    place = turn.groupby(rows["label"]).rank(method="first")
    sizes = rows.groupby("label")["clip_id"].transform("size")
    return (place <= (fraction * sizes).round().clip(lower=1)).to_numpy()


def _hold_out(
    rows: pd.DataFrame, fraction: float, subset: str, seed: tuple[str | int, ...], left: int = 1
) -> np.ndarray:
    """Mask of about `fraction` of the clips: whole groups, every class on both sides.

    At least `left` groups of every class remain. Of the folds that will do, the one nearest to
    the fraction; where a seed has none, the next seed, then fewer and larger folds.
    """
    classes = rows["class_name"].nunique()
    for test in _folds(rows, fraction, seed):
        good = [fold for fold in test if _divides(rows, fold, classes, left)]
        if good:
            return min(good, key=lambda fold: abs(fold.mean() - fraction))
    raise DataError(
        f"no share of the groups near {fraction:g} has every class and leaves every class to the "
        f"others, so subset {subset!r} cannot be made: change its fraction or make `group` finer"
    )


def _folds(rows: pd.DataFrame, fraction: float, seed: tuple[str | int, ...]) -> Iterator[list[np.ndarray]]:
    """Masks of about the fraction (2/5: 2 of 5 folds together), for one number of folds and seed after the other."""
    wanted = Fraction(fraction).limit_denominator(MOST_FOLDS).denominator
    most = min(wanted, rows["group"].nunique(), rows.groupby("label").size().max())
    for count in range(most, 1, -1):
        together = max(1, round(fraction * count))
        for attempt in range(ATTEMPTS):
            folds = _draw_folds(rows, count, (*seed, count, attempt))
            yield [np.any([folds[(first + k) % count] for k in range(together)], axis=0) for first in range(count)]


def _draw_folds(rows: pd.DataFrame, count: int, seed: tuple[str | int, ...]) -> list[np.ndarray]:
    """Masks of `count` folds of whole groups, the classes spread evenly over them."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # heavy, and only needed to draw

    # The one for groups keeps a table of groups by classes: 800 MB for Kinetics, whose clips are groups of their own.
    draw = StratifiedKFold if rows["group"].is_unique else StratifiedGroupKFold
    folds = draw(count, shuffle=True, random_state=derive_seed(*seed) % 2**32)
    with warnings.catch_warnings():  # a class with fewer clips than folds: checked after
        warnings.simplefilter("ignore", UserWarning)
        parts = [part for _, part in folds.split(rows, rows["label"], rows["group"])]
    return [np.isin(np.arange(len(rows)), part) for part in parts]


def _divides(rows: pd.DataFrame, held: np.ndarray, classes: int, left: int) -> bool:
    remaining = rows[~held].groupby("class_name")["group"].nunique()
    return rows[held]["class_name"].nunique() == classes and len(remaining) == classes and remaining.min() >= left
