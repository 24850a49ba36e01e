"""From the owner's archives to clips in class folders: wait, fetch, extract, count."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from dvfl.config import ArchiveConfig, Config, DatasetDefinition
from dvfl.data import registry
from dvfl.data.errors import DataError
from dvfl.data.extract import ARCHIVES, extract, require_libarchive
from dvfl.data.fetch import Download, check_space, fetch_all, remember, verify
from dvfl.data.index import clips_root
from dvfl.files import atomic, read_json, write_json

POLL_SECONDS = 5.0
SETTLED = 10.0  # seconds since its last byte after which a file counts as whole
MOST_NAMED = 5  # files in one line
WHOLE = 0.95  # of total_size: owners state it roughly


# ------------------------------------------------------------------------------------------------- files by hand


def await_files(name: str, definition: DatasetDefinition, hours: float | None = None) -> None:
    """Waits until the files that need an account are there and no longer grow.

    Says once which files, from where, and where to put them. Raises DataError after `hours` (wait_hours).
    """
    hours = definition.source.wait_hours if hours is None else hours
    end = time.monotonic() + 3600 * hours
    told = False
    while lacking := _lacking(definition):
        if time.monotonic() >= end:
            raise DataError(_how_to_get(name, definition, lacking))
        if not told:
            key = f"dataset_definitions.{name}.source.wait_hours"
            said = (
                f"{_how_to_get(name, definition, lacking)}\nWaiting for them, up to {hours:g} h ({key} says how long)."
            )
            print(said, file=sys.stderr, flush=True)
            told = True
        time.sleep(POLL_SECONDS)


def _lacking(definition: DatasetDefinition) -> list[str]:
    """Files to be put there by hand that are not there yet, or still grow."""
    lacking = []
    for archive in registry.by_hand(definition):
        try:
            files = registry.files_of(definition, archive.name)
        except DataError as error:  # a part in the middle is still to come
            lacking.append(str(error))
            continue
        size, total = sum(file.stat().st_size for file in files), archive.total_size
        if not files:
            zipped = f" (numbered parts, all of them; zipped ones, {archive.name}.zip, may stay so)"
            lacking.append(f"{archive.name}{zipped if '?' in archive.name else ''}")
        elif total and size < WHOLE * total:
            there = f"{size / 1e9:.3g} of about {total / 1e9:.3g} GB are there"
            lacking.append(f"{archive.name} ({there}: a part is missing or not whole)")
        lacking += [f"{file.name} (still growing)" for file in files if time.time() - file.stat().st_mtime < SETTLED]
    return lacking


def _how_to_get(name: str, definition: DatasetDefinition, lacking: list[str]) -> str:
    place = definition.archives or definition.source.folder / "archives"
    files = "\n".join(f"  {each}" for each in lacking)
    return (
        f"{name} cannot be fetched without an account. {definition.source.access}\n"
        f"Then put these files into {place}, and the run goes on by itself:\n{files}\n"
        f"If you have them elsewhere, name their folder under dataset_definitions.{name}.archives, or that of the "
        f"clips under dataset_definitions.{name}.root.\n"
        f"To run without {name}, take it out of `datasets`; its claims then say that they were not tested."
    )


# -------------------------------------------------------------------------------------------------- fetch, extract


def acquire(config: Config, name: str, shard: int | None = None) -> dict[str, Any]:
    """Gets a data set's lists and clips, or one shard of its parts; what there is now, for fetched.json.

    What was extracted before is left alone. Raises DataError and OutputError.
    """
    definition = config.dataset_definitions[name]
    if shard is not None and shard not in registry.shards(definition):
        raise DataError(f"{name} has no shard {shard}: it has {len(registry.shards(definition))}, from 0")
    wanted = registry.needed(definition)
    _check_reader(definition, wanted)
    missing = [each for each in wanted if not registry.extracted_marker(definition, each.name).exists()]
    check_space([_download(definition, each) for each in missing if not registry.files_of(definition, each.name)])
    done = [_get(config, name, archive) for archive in wanted if archive.content == "lists"]
    if shard is not None:
        return {"dataset": name, "shard": shard, "archives": _get_parts(config, name, shard)}
    done += [_get(config, name, archive) for archive in wanted if archive.content == "clips"]
    if definition.root is not None and definition.source.layout != "class_folders":
        _link_own_clips(definition)
    found = _count(clips_root(definition))
    _check_counts(name, definition, found)
    return {
        "dataset": name,
        "root": str(clips_root(definition)),
        "clips": sum(found.values()),
        "classes": len(found),
        "archives": done,
    }


def acquire_released(config: Config, name: str) -> dict[str, Any]:
    """Gets the lists of a data set that another than its owner has released. Raises DataError and OutputError."""
    wanted = registry.released(config.dataset_definitions[name])
    if not wanted:
        raise DataError(f"{name} has no released lists to fetch: give their folder under `lists.released`")
    return {"dataset": name, "archives": [_get(config, name, archive) for archive in wanted]}


def _download(definition: DatasetDefinition, archive: ArchiveConfig) -> Download:
    path = definition.source.folder / "archives" / archive.name
    return Download(path, tuple(archive.urls), archive.size, archive.checksum)


def _check_reader(definition: DatasetDefinition, wanted: list[ArchiveConfig]) -> None:
    """Before hours of download, not after."""
    for archive in wanted:
        if archive.name.endswith(".rar") and not registry.extracted_marker(definition, archive.name).exists():
            require_libarchive(archive.name)


def _get(config: Config, name: str, archive: ArchiveConfig) -> dict[str, Any]:
    """Fetches and extracts one archive, unless that is done; what its marker says. Shards want the same lists."""
    definition = config.dataset_definitions[name]
    marker = registry.extracted_marker(definition, archive.name)
    marker.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(marker.with_name(f".{marker.name}.lock")):
        return read_json(marker) if marker.exists() else _get_anew(config, name, archive)


def _get_anew(config: Config, name: str, archive: ArchiveConfig) -> dict[str, Any]:
    definition = config.dataset_definitions[name]
    own = registry.files_of(definition, archive.name)
    download = _download(definition, archive)
    path = download.path
    if not archive.urls and (lacking := _lacking(definition)):
        raise DataError(_how_to_get(name, definition, lacking))
    if not own:
        _say_not_there(definition, [(archive.name,)])
    if own:
        # Numbered parts have no size of their own, and a record each.
        numbered = {file: Download(path.with_name(file.name), ()) for file in own}
        files = {file: download if file.name == archive.name else each for file, each in numbered.items()}
        hashes = {file: verify(file, each) for file, each in files.items()}
    else:
        files, hashes = {path: download}, fetch_all([download], config.fetch, f"Fetching {archive.name}")
    done = _extract(definition, hashes, archive.name, archive.content, archive.nested)
    for file, each in files.items():
        remember(each, hashes[file])
    if archive.urls and path in hashes and not config.fetch.keep_archives:
        path.unlink()
    return done


def _get_parts(config: Config, name: str, shard: int) -> list[dict[str, Any]]:
    """Fetches and extracts every shards-th part of the lists."""
    definition = config.dataset_definitions[name]
    source = definition.source
    downloads = {}
    bare: Counter[str] = Counter()
    for parts in source.parts:
        for number, url in enumerate(_part_urls(config, name, parts.name, tuple(parts.urls))):
            part = f"{parts.name}/{PurePosixPath(url).name}"
            bare[PurePosixPath(url).name] += 1
            if number % source.shards == shard:
                downloads[part] = Download(source.folder / "archives" / part, (url,))
    waiting = {
        part: each for part, each in downloads.items() if not registry.extracted_marker(definition, part).exists()
    }
    # Where a train and a val part have the same file name, only their folder tells which is which.
    names = {part: (part, each.path.name)[: 1 + (bare[each.path.name] == 1)] for part, each in waiting.items()}
    own = {part: files[0] for part in waiting if (files := registry.files_of(definition, *names[part]))}
    _say_not_there(definition, [names[part] for part in waiting if part not in own])
    hashes = {file: verify(file, waiting[part]) for part, file in own.items()}
    missing = [download for part, download in waiting.items() if part not in own]
    if missing:
        hashes |= fetch_all(missing, config.fetch, f"Fetching shard {shard} of {name}")
    for part, download in waiting.items():
        file = own.get(part, download.path)
        _extract(definition, {file: hashes[file]}, part, "clips", False)
        remember(download, hashes[file])
        if file == download.path and not config.fetch.keep_archives:
            file.unlink()
    return [read_json(registry.extracted_marker(definition, part)) for part in downloads]


def _say_not_there(definition: DatasetDefinition, wanted: list[tuple[str, ...]]) -> None:
    """Says which files the user's folder of archives does not have, under any of their names, and are fetched."""
    if definition.archives is None or not wanted:
        return
    lines = [" or ".join(names) for names in wanted]
    more = f", and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
    said = f"{definition.archives} has no {', '.join(lines[:MOST_NAMED])}{more}: fetched instead"
    print(said, file=sys.stderr, flush=True)


def _part_urls(config: Config, name: str, parts: str, urls: tuple[str, ...]) -> list[str]:
    """Addresses that the owner's list holds, one a line."""
    definition = config.dataset_definitions[name]
    names = (f"{parts}/{parts}.txt", *(PurePosixPath(url).name for url in urls))
    own = registry.files_of(definition, *names)
    if not own:
        _say_not_there(definition, [names])
    path = own[0] if own else definition.source.folder / "archives" / parts / f"{parts}.txt"
    listed = Download(path, urls)
    hashes = {} if own else fetch_all([listed], config.fetch, f"Fetching the list of {parts} of {name}")
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    wrong = [line for line in lines if "://" not in line]
    if wrong or not lines:
        raise DataError(f"{path}: {wrong[0] if wrong else 'nothing'!r} is no address; remove the file and run again")
    for sha256 in hashes.values():
        remember(listed, sha256)
    return lines


def _extract(
    definition: DatasetDefinition, hashes: dict[Path, str], name: str, content: str, nested: bool
) -> dict[str, Any]:
    """Extracts an archive, of which we have each file's sha256, and marks it as extracted, at last."""
    source, files = definition.source, list(hashes)
    target = source.folder / content
    target.mkdir(parents=True, exist_ok=True)
    if files[0].suffix.lower() not in ARCHIVES and "?" not in name:
        with atomic(target / files[0].name) as partial:
            shutil.copyfile(files[0], partial)
        count = 1
    else:
        place = registry.clip_places(definition) if content == "clips" else registry.place_list
        scratch = source.folder / "extracting" / name.replace("?", "0")
        count = extract(files, scratch, target, place, nested, joined="?" in name)
        if not count:
            raise DataError(f"{files[0]} holds no {content}: the owner has changed its layout, or it is another file")
    size = sum(file.stat().st_size for file in files)
    summary = {"archive": name, "files": count, "bytes": size, "sha256": list(hashes.values())}
    write_json(registry.extracted_marker(definition, name), summary)
    return summary


def _link_own_clips(definition: DatasetDefinition) -> None:
    """Gives the user's own clips, in whatever folders they lie, a class folder each by links."""
    place, target = registry.clip_places(definition), definition.source.folder / "clips"
    for folder, _, files in os.walk(definition.root, followlinks=True):
        for file in files:
            relative = place(PurePosixPath(file))
            if relative is None:
                continue
            link = target / relative
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(Path(folder, file).resolve())


# --------------------------------------------------------------------------------------------------------- counts


def _count(root: Path) -> Counter[str]:
    """Clips by class."""
    found: Counter[str] = Counter()
    if root.is_dir():
        for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
            found[folder.name] = sum(registry.is_clip(PurePosixPath(file)) for file in os.listdir(folder))
    return found


def _check_counts(name: str, definition: DatasetDefinition, found: Counter[str]) -> None:
    """Compares with what the owner's set has. Raises DataError; for a user's own copy it is only said."""
    expected = definition.source.expected
    if definition.root is not None and not found.total():
        where = "<class>/<clip>" if definition.source.layout == "class_folders" else "clips that the lists name"
        raise DataError(
            f"dataset_definitions.{name}.root: {definition.root} holds no clips; give the folder that holds {where}"
        )
    problems = [
        f"{number:,} {what} where {wanted:,} are expected"
        for what, number, wanted in (
            ("clips", sum(found.values()), expected.clips),
            ("classes", len(found), expected.classes),
        )
        if wanted is not None and number != wanted
    ]
    if not problems:
        return
    text = f"{name}: {clips_root(definition)} holds {' and '.join(problems)}"
    if definition.root is None:
        raise DataError(
            f"{text}; to extract again, remove {definition.source.folder / 'extracted'} and run the same command; to "
            f"take what is there, set dataset_definitions.{name}.source.expected to these numbers"
        )
    print(f"{text}: your own copy is used as it is", file=sys.stderr)
