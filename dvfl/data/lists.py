"""The lists that say which clips train and test, read as their owners publish them.

Each split becomes a frame with one row a clip: `clip` (<class>/<file>, or the bare name where the list has no class
folders), `class_name`, `subset` (train, test, unused), `place` (file and line) and `mislabelled` (whether the list
gives the clip a number that is not its class's). What Something-Something-v2 and Kinetics call validation is `test`
here, as in published results: the labels of their own test clips are not public.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from dvfl.data.errors import DataError

COLUMNS = ["clip", "class_name", "subset", "place", "mislabelled"]
VIDEO = r"\.(avi|mp4|m4v|mov|mkv|webm|mpe?g|wmv|flv|3gp|ts|ogv|gif)$"  # what a clip's name ends in
HMDB51_FLAGS = {"1": "train", "2": "test", "0": "unused"}

Lists = dict[str, pd.DataFrame]  # by the name of the split


def read_lists(folder: Path) -> Lists:
    """All splits whose lists are in a folder; the names of the files tell whose format it is."""
    for signatures, read in READERS.items():
        if any(any(folder.glob(signature)) for signature in signatures):
            return read(folder)
    known = ", ".join(signature for signatures in READERS for signature in signatures)
    raise DataError(f"{folder}: holds no list that is known by its name ({known}); give the folder of the lists")


def holds_lists(folder: Path) -> bool:
    return any(any(folder.glob(signature)) for signatures in READERS for signature in signatures)


def listed_classes(folder: Path | None) -> dict[str, str] | None:
    """The class of each clip where clips lie in one folder and only the lists know it; None where folders do."""
    frames = read_lists(folder).values() if folder else []
    clips = {clip: name for frame in frames for clip, name in zip(frame["clip"], frame["class_name"], strict=True)}
    return None if not clips or any("/" in clip for clip in clips) else clips


def match_clips(listed: Iterable[str], clip_ids: Iterable[str]) -> list[str]:
    """For each listed clip the id of the one that it names, '' where there is none.

    Folders above the class and a video's extension do not matter: copies are stored and re-encoded in many ways. Upper
    and lower case matter only where several clips would do, since UCF101's lists and copies write HandstandPushups in
    two ways. Raises DataError where two clips have one name.
    """
    listed, clip_ids = list(listed), list(clip_ids)
    parts = 2 if any("/" in clip for clip in listed) else 1
    exact: dict[str, str] = {}
    folded: dict[str, set[str]] = {}
    for clip_id in clip_ids:
        key = _key(clip_id, parts)
        if exact.setdefault(key, clip_id) != clip_id:
            raise DataError(f"{clip_id} and {exact[key]} have one name in the lists: keep one of them")
        folded.setdefault(key.casefold(), set()).add(clip_id)
    return [_find(_key(clip, parts), exact, folded) for clip in listed]


def _find(key: str, exact: dict[str, str], folded: dict[str, set[str]]) -> str:
    alike = folded.get(key.casefold(), set())
    return exact.get(key) or (next(iter(alike)) if len(alike) == 1 else "")


def _key(clip: str, parts: int) -> str:
    return re.sub(VIDEO, "", "/".join(clip.split("/")[-parts:]), flags=re.IGNORECASE)


# ------------------------------------------------------------------------------------------------------- the formats


def read_ucf101(folder: Path) -> Lists:
    """trainlistNN.txt (<class>/<clip> <class number>) and testlistNN.txt (<class>/<clip>), CRLF; classInd.txt."""
    class_file = folder / "classInd.txt"
    numbers: dict[str, str] = {}
    for place, line in _lines(class_file) if class_file.is_file() else ():
        number, name = _columns(place, line, r"(\d+)\s+(\S.*)", "<number> <class>")
        numbers[name] = number
    lists: Lists = {}
    for number in sorted({path.stem[-2:] for path in folder.glob("t*list[0-9][0-9].txt")}):
        split = _Split(numbers, class_file)
        for place, line in _lines(_there(folder / f"trainlist{number}.txt")):
            clip, label = _columns(place, line, r"(\S.*)\s+(\d+)", "<class>/<clip> <class number>")
            name = _class_of(clip, place)
            split.add(clip, name, "train", place)
            if numbers and numbers[name] != label:
                raise DataError(f"{place}: {name} has number {label} here and {numbers[name]} in {class_file}")
        for place, line in _lines(_there(folder / f"testlist{number}.txt")):
            clip = line.split()[0]
            split.add(clip, _class_of(clip, place), "test", place)
        lists[f"split{int(number)}"] = split.frame()
    return lists


def read_hmdb51(folder: Path) -> Lists:
    """<class>_test_split<N>.txt, one line a clip: <clip> <flag>, where 1 is train, 2 test and 0 unused."""
    class_file = folder / "class_list.txt"  # not in the archive, but often beside the lists
    classes = [line for _, line in _lines(class_file)] if class_file.is_file() else []
    splits: dict[str, _Split] = {}
    for path in sorted(folder.glob("*_test_split*.txt")):
        found = re.fullmatch(r"(.+)_test_split(\d+)", path.stem)
        if found is None:
            raise DataError(f"{path}: is not named <class>_test_split<number>.txt; give it its name back")
        split = splits.setdefault(f"split{found[2]}", _Split(classes, class_file))
        for place, line in _lines(path):
            clip, flag = _columns(place, line, r"(\S.*)\s+(\S+)", "<clip> <flag>")
            if flag not in HMDB51_FLAGS:
                raise DataError(f"{place}: the flag is {flag!r}; it must be 1 (train), 2 (test) or 0 (unused)")
            split.add(f"{found[1]}/{clip}", found[1], HMDB51_FLAGS[flag], place)
    return {name: splits[name].frame() for name in sorted(splits)}


def read_ssv2(folder: Path) -> Lists:
    """*train.json and *validation.json, [{id, template, …}, …], and *labels.json, {class: number}."""
    class_file = next(iter(sorted(folder.glob("*labels.json"))), folder / "labels.json")
    split = _Split(_json(_there(class_file)), class_file)
    for ending, subset in (("train", "train"), ("validation", "test")):
        for path in sorted(folder.glob(f"*{ending}.json")):
            for number, entry in enumerate(_json(path), start=1):
                place = f"{path}, entry {number}"
                if not isinstance(entry, dict) or not {"id", "template"} <= entry.keys():
                    raise DataError(f"{place}: has no `id` or no `template`; get the file again from its owner")
                template = entry["template"].replace("[", "").replace("]", "")
                split.add(str(entry["id"]), template, subset, place)
    return {"split1": split.frame()}


def read_kinetics(folder: Path) -> Lists:
    """train.csv and val.csv with label, youtube_id, time_start and time_end; the clip is <id>_<start>_<end>."""
    split = _Split(*_kinetics_classes(folder))
    for file, subset in (("train.csv", "train"), ("val.csv", "test")):
        path = folder / file
        lines = _lines(path) if path.is_file() else iter(())
        header = next(csv.reader([next(lines, ("", ""))[1]]), [])
        for place, line in lines:
            row = dict(zip(header, next(csv.reader([line])), strict=False))
            try:
                start, end = int(row["time_start"]), int(row["time_end"])
                split.add(f"{row['youtube_id']}_{start:06d}_{end:06d}", row["label"], subset, place)
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"{place}: {line!r} lacks a column ({error}); it needs label, youtube_id, time_start and time_end"
                ) from None
    return {"split1": split.frame()}


def read_kinetics_numbered(folder: Path) -> Lists:
    """train_processed.txt and valid_processed.txt, <clip> <first frame> <last frame> <number of the class>."""
    classes, class_file = _kinetics_classes(folder)
    split = _Split(classes, class_file)
    for ending, subset in (("train", "train"), ("valid", "test")):
        path = folder / f"{ending}_processed.txt"
        for place, line in _lines(path) if path.is_file() else ():
            clip, number = _columns(place, line, r"(\S+)\s+\d+\s+\d+\s+(\d+)", "<clip> <first> <last> <class number>")
            if int(number) >= len(classes):
                raise DataError(f"{place}: class {number} is unknown; {class_file} has {len(classes)}, from 0")
            split.add(clip, classes[int(number)], subset, place)
    return {"split1": split.frame()}


def read_csv_pair(folder: Path) -> Lists:
    """train.csv and val.csv: Kinetics' annotations where they have their header, else the released kind."""
    first = next(_lines(next(path for path in (folder / "train.csv", folder / "val.csv") if path.is_file())), ("", ""))
    return read_kinetics(folder) if "youtube_id" in first[1] else read_released(folder)


def read_released(folder: Path) -> Lists:
    """The released code's train.csv and val.csv: <subset>/<class>/<clip> and a label, with a comma or space between.

    The class is the folder's name, since HMDB51's labels there are 2..52 in the order of a folder walk, while its
    labels.csv says 0..50. A label must be one for each class; clips whose label is not their class's number in
    labels.csv are marked.
    """
    class_file = folder / "labels.csv"
    lines = list(_lines(class_file))[1:] if class_file.is_file() else []
    columns = [_columns(place, line, r"(\d+)\s*,\s*(\S.*)", "<number>,<class>") for place, line in lines]
    numbers = {name: int(number) for number, name in columns}
    split = _Split(numbers, class_file)
    labels: dict[str, str] = {}
    for file, subset in (("train.csv", "train"), ("val.csv", "test")):
        for place, line in _lines(_there(folder / file)):
            path, label = _columns(place, line, r"(\S.*?)\s*[,\s]\s*(\d+)", "<class>/<clip>,<label>")
            name = _class_of(path, place)
            if labels.setdefault(name, label) != label:
                raise DataError(f"{place}: {name} has label {label} here and {labels[name]} before; make them one")
            mislabelled = int(label) != numbers.get(name, int(label))
            split.add("/".join(path.split("/")[-2:]), name, subset, place, mislabelled)
    return {"released": split.frame()}


READERS: dict[tuple[str, ...], Callable[[Path], Lists]] = {
    ("trainlist[0-9][0-9].txt", "testlist[0-9][0-9].txt"): read_ucf101,
    ("*_test_split*.txt",): read_hmdb51,
    ("*labels.json",): read_ssv2,
    ("train_processed.txt", "valid_processed.txt"): read_kinetics_numbered,
    ("train.csv", "val.csv"): read_csv_pair,
}


# ------------------------------------------------------------------------------------------------------------- parts


class _Split:
    """Clips of one split as they are read; refuses a class that the class file lacks, and a clip listed twice."""

    def __init__(self, classes: Iterable[str], class_file: Path) -> None:
        self.classes, self.class_file = set(classes), class_file
        self.rows: list[tuple[str, str, str, str, bool]] = []
        self.places: dict[str, str] = {}

    def add(self, clip: str, class_name: str, subset: str, place: str, mislabelled: bool = False) -> None:
        if self.classes and class_name not in self.classes:
            raise DataError(f"{place}: class {class_name!r} is not in {self.class_file}; mend one of the two files")
        first = self.places.setdefault(clip, place)
        if first != place:
            raise DataError(f"{place}: {clip} is listed at {first} already; remove one of the two lines")
        self.rows.append((clip, class_name, subset, place, mislabelled))

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=COLUMNS)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place and text of each line that is not blank, whatever its line end."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not a text file; get it again from its owner") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _columns(place: str, line: str, pattern: str, form: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, line)
    if found is None:
        raise DataError(f"{place}: {line!r} is not {form}: a column is missing or is not what it should be")
    return found.groups()


def _class_of(clip: str, place: str) -> str:
    parts = clip.split("/")
    if len(parts) < 2:
        raise DataError(f"{place}: {clip!r} has no class folder; it must be <class>/<clip>")
    return parts[-2]


def _kinetics_classes(folder: Path) -> tuple[list[str], Path]:
    path = next(iter(sorted(folder.glob("*label*map*.txt"))), folder / "label_map_k400.txt")
    return ([line for _, line in _lines(path)] if path.is_file() else []), path


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not JSON ({error}); get it again from its owner") from None


def _there(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: is missing beside the other lists; get it from their owner")
    return path
