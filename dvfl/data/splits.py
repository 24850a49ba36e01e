"""Splits: which clips train, choose (validation) and test; clips of one group never straddle."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dvfl.config import DatasetDefinition
from dvfl.data.errors import DataError
from dvfl.files import atomic
from dvfl.randomness import derive_seed

SUBSETS = ("train", "validation", "test")
ATTEMPTS = 5  # seeds to try for each number of folds


def make_split(index: pd.DataFrame, definition: DatasetDefinition, name: str) -> pd.DataFrame:
    """Subset (train, validation, test) of every clip that is ok: clip_id, subset, by clip_id.

    Test clips are the official list's (motions) or a share of the clips held out by group; the
    validation clips are held out of the rest in the same way. The same index, definition and name
    give the same split, whatever the order of the rows. Raises DataError where it cannot be made.
    """
    rows = index[index["status"] == "ok"].sort_values("clip_id", ignore_index=True)
    seed = (definition.split_seed, "split", name)
    if definition.kind == "motions":
        subset = _official(rows, definition.root, name)
    else:
        _check_groups(rows, len(SUBSETS), index)
        held = _hold_out(rows, definition.test_fraction, "test", (*seed, "test"), left=2)
        subset = pd.Series(np.where(held, "test", "train"), index=rows.index)
    rest = rows[subset == "train"]
    _check_groups(rest, 2, index)
    held = _hold_out(rest, definition.validation_fraction, "validation", (*seed, "validation"))
    subset.loc[rest.index[held]] = "validation"
    split = pd.DataFrame({"clip_id": rows["clip_id"], "subset": subset.astype("str")})
    split = split[split["subset"] != ""].reset_index(drop=True)
    check_split(split, index)
    return split


def check_split(split: pd.DataFrame, index: pd.DataFrame) -> None:
    """Raise DataError unless subsets share no group and each of them has every class."""
    unknown = set(split["clip_id"]) - set(index["clip_id"])
    if unknown:
        raise DataError(f"the split has {min(unknown)!r}, which is not in the index: index again")
    rows = split.merge(index, on="clip_id")
    subsets = rows.groupby("group")["subset"].agg(lambda names: sorted(set(names)))
    straddling = subsets[subsets.map(len) > 1]
    if len(straddling):
        group, names = straddling.index[0], straddling.iloc[0]
        raise DataError(f"group {group!r} has clips in {' and '.join(names)}: it must be in one")
    classes = set(index["class_name"])
    for subset in SUBSETS:
        lacking = sorted(classes - set(rows.loc[rows["subset"] == subset, "class_name"]))
        if lacking:
            raise DataError(f"class {lacking[0]!r} has no clip in subset {subset!r} of the split")


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


def _official(rows: pd.DataFrame, root: Path, name: str) -> pd.Series:
    """train or test by the lists root/lists/{train,test}list<NN>.txt, '' for clips in neither."""
    number = re.fullmatch(r"split(\d+)", name)
    if number is None:
        raise DataError(f"splits: {name!r} is not an official split; they are split1, split2, …")
    subset = pd.Series("", index=rows.index)
    for kind in ("train", "test"):
        path = root / "lists" / f"{kind}list{int(number[1]):02d}.txt"
        if not path.is_file():
            raise DataError(f"splits: {name!r} has no list {path}")
        listed = {line.split()[0] for line in path.read_text().splitlines() if line.strip()}
        subset[rows["clip_id"].isin(listed)] = kind
    return subset


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
    """Masks of the folds, for one number of folds and seed after the other."""
    from sklearn.model_selection import StratifiedGroupKFold  # heavy, and only needed to draw

    most = min(round(1 / fraction), rows["group"].nunique(), rows.groupby("label").size().max())
    for count in range(most, 1, -1):
        for attempt in range(ATTEMPTS):
            state = derive_seed(*seed, count, attempt) % 2**32
            folds = StratifiedGroupKFold(count, shuffle=True, random_state=state)
            with warnings.catch_warnings():  # a class with fewer clips than folds: checked after
                warnings.simplefilter("ignore", UserWarning)
                parts = [part for _, part in folds.split(rows, rows["label"], rows["group"])]
            yield [np.isin(np.arange(len(rows)), part) for part in parts]


def _divides(rows: pd.DataFrame, held: np.ndarray, classes: int, left: int) -> bool:
    remaining = rows[~held].groupby("class_name")["group"].nunique()
    return rows[held]["class_name"].nunique() == classes and len(remaining) == classes and remaining.min() >= left
