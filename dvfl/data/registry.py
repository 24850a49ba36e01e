"""A registered data set on disk: where its files lie, which of them are there, and where a clip of an archive belongs.

<folder>/archives/     as the owner gives them out; a list's parts in <folder>/archives/<list>/
<folder>/lists/        labels and splits
<folder>/released/     lists that another than the owner has released
<folder>/clips/<class>/<clip>
<folder>/extracted/    what has been extracted, one file an archive
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dvfl.config import ArchiveConfig, DatasetDefinition
from dvfl.data.errors import DataError
from dvfl.data.extract import Place
from dvfl.data.lists import VIDEO


def needed(definition: DatasetDefinition) -> list[ArchiveConfig]:
    """Archives that are wanted: neither clips nor official lists that the user has are fetched."""
    have = {"released"}  # wanted for their own split alone
    have |= {"clips"} if definition.root is not None else set()
    have |= {"lists"} if _own_lists(definition) else set()
    return [archive for archive in definition.source.archives if archive.content not in have]


def _own_lists(definition: DatasetDefinition) -> Path | None:
    """Folder of the user's own copy of the owner's lists."""
    return None if definition.fetches_lists("official") else definition.lists_folder("official")


def released(definition: DatasetDefinition) -> list[ArchiveConfig]:
    """Archives of lists that another than the owner has released."""
    return [archive for archive in definition.source.archives if archive.content == "released"]


def shards(definition: DatasetDefinition) -> range:
    """Jobs that fetch the parts, numbered."""
    fetched = definition.kind == "archives" and definition.root is None and definition.source.parts
    return range(definition.source.shards if fetched else 0)


def comes_by_hand(definition: DatasetDefinition) -> bool:
    """Whether there are files that nobody can fetch without an account."""
    return definition.kind == "archives" and any(not archive.urls for archive in needed(definition))


def by_hand(definition: DatasetDefinition) -> list[ArchiveConfig]:
    """Those of these files that are not extracted yet."""
    wanted = [archive for archive in needed(definition) if not archive.urls]
    return [archive for archive in wanted if not extracted_marker(definition, archive.name).exists()]


def extracted_marker(definition: DatasetDefinition, name: str) -> Path:
    """The file that says that an archive has been extracted; `name` may stand in a list's folder."""
    return definition.source.folder / "extracted" / f"{name.replace('?', '0')}.json"


def files_of(definition: DatasetDefinition, *names: str) -> list[Path]:
    """The files that the archive consists of, where the user has them or where they are fetched to; none if absent.

    `names` are those that it may have, the first that is there counts. Raises DataError where numbered parts lack one
    in the middle.
    """
    for folder in (definition.archives, definition.source.folder / "archives"):
        for name in names if folder is not None else ():
            pattern = name.replace("?", "[0-9]")
            found = sorted(folder.glob(pattern))
            if not found and "?" in name:  # the owner zips the parts
                found = sorted(folder.glob(f"{pattern}.zip"))
            if found:
                _check_numbers(found, name)
                return found
    return []


def _check_numbers(files: list[Path], name: str) -> None:
    if "?" not in name:
        return
    first, last = name.index("?"), name.rindex("?") + 1
    numbers = [int(file.name[first:last]) for file in files]
    lacking = sorted(set(range(numbers[-1] + 1)) - set(numbers))
    if lacking:
        part = f"{name[:first]}{lacking[0]:0{last - first}d}{files[0].name[last:]}"
        raise DataError(f"{files[0].parent}: {part} is missing, though a later part is there: put it beside the others")


# --------------------------------------------------------------------------------------------- where a clip belongs


def place_list(member: PurePosixPath) -> PurePosixPath | None:
    """Lists stand side by side, whatever folder the archive has them in."""
    is_list = member.suffix in (".txt", ".csv", ".json") and not member.name.startswith(".")
    return PurePosixPath(member.name) if is_list else None


def clip_places(definition: DatasetDefinition) -> Place:
    """<class>/<clip> of an archive's member; None for what is no clip or has no label. Reads the lists."""
    layout = definition.source.layout
    lists = _own_lists(definition) or definition.source.folder / "lists"
    if layout == "class_folders":
        return _in_class_folder
    classes = {"kinetics": _kinetics_classes, "ssv2": _ssv2_classes}[layout](lists)

    def place(member: PurePosixPath) -> PurePosixPath | None:
        name = classes.get(member.stem)
        return PurePosixPath(name, member.name) if name and is_clip(member) else None

    return place


def _in_class_folder(member: PurePosixPath) -> PurePosixPath | None:
    return PurePosixPath(*member.parts[-2:]) if is_clip(member) and len(member.parts) > 1 else None


def is_clip(member: PurePosixPath) -> bool:
    return not member.name.startswith(".") and re.search(VIDEO, member.name, re.IGNORECASE) is not None


def _ssv2_classes(lists: Path) -> dict[str, str]:
    """Class by clip: a template without the brackets around what stands in for the objects."""
    classes: dict[str, str] = {}
    for file in _lists(lists, "*train.json", "*validation.json"):
        try:
            for clip in json.loads(file.read_text()):
                classes[str(clip["id"])] = re.sub(r"[\[\]]", "", clip["template"]).replace("/", "-")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}: is not a list of clips with `id` and `template` ({error}); fetch it anew"
            ) from error
    return classes


def _kinetics_classes(lists: Path) -> dict[str, str]:
    """Class by clip: <video>_<start>_<end>, in seconds with six digits."""
    classes: dict[str, str] = {}
    for file in _lists(lists, "*train.csv", "*val.csv"):
        with file.open(newline="") as text:
            try:
                for row in csv.DictReader(text):
                    times = f"{int(row['time_start']):06d}_{int(row['time_end']):06d}"
                    classes[f"{row['youtube_id']}_{times}"] = row["label"].replace("/", "-")
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{file}: needs the columns label, youtube_id, time_start and time_end ({error!r}); fetch it anew"
                ) from error
    return classes


def _lists(folder: Path, *patterns: str) -> Iterable[Path]:
    for pattern in patterns:
        files = sorted(folder.glob(pattern))
        if not files:
            raise DataError(f"{folder} has no list {pattern}: without it no clip has a class; fetch the lists anew")
        yield from files
