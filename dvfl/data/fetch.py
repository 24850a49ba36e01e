"""Downloads that survive breaks: resumed by range, checked while they stream, never half a file under its final name.

requests and urllib3 connect, follow redirects and verify certificates. Neither they nor pooch, which begins anew after
every break, go on where a download stopped; that is here, and no more: `<name>.part` grows, `<name>.part.json` says
which address and version it is of, and only what has been verified gets its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3
from filelock import FileLock

from dvfl.config import ChecksumConfig, FetchConfig
from dvfl.data.errors import DataError
from dvfl.files import OutputError, atomic, explain, read_json, write_json
from dvfl.progress import Progress
from dvfl.redaction import redact

CHUNK = 1 << 16
MEGABYTE = 1_000_000
LONGEST_PAUSE = 300.0  # seconds
MAGIC = {
    ".rar": (b"Rar!\x1a\x07",),
    ".zip": (b"PK\x03\x04", b"PK\x05\x06"),
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
}
WEB_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")


class FetchError(DataError):
    """A file could not be fetched; the message says why each address failed, and what to do."""


class _Refused(Exception):
    """This address will not do, however often it is asked."""


class _Interrupted(Exception):
    """Worth another attempt, after a pause of so many seconds at least."""

    def __init__(self, reason: str, pause: float = 0.0):
        super().__init__(reason)
        self.pause = pause


class _Stopped(Exception):
    """Another file failed, or the user ended it."""


@dataclass(frozen=True)
class Download:
    """A file that is wanted, and what is known of it; what `remember` records of it stands beside `path`."""

    path: Path
    urls: tuple[str, ...]
    size: int | None = None
    checksum: ChecksumConfig | None = None


def fetch_all(wanted: Sequence[Download], settings: FetchConfig, label: str) -> dict[Path, str]:
    """Downloads files, several at once; the sha256 of each.

    What is there already is verified; a file that fails does not stop the others. Raises FetchError with all that
    failed or does not fit on the disk together, and OutputError where the disk is full.
    """
    check_space(wanted)
    stop = threading.Event()
    got: dict[Path, str] = {}
    failed: list[str] = []
    with _Bytes(label, len(wanted)) as progress, ThreadPoolExecutor(settings.connections) as pool:
        try:
            jobs = {pool.submit(fetch, each, settings, progress.of(each.path), stop): each.path for each in wanted}
            for job in as_completed(jobs):
                try:
                    got[jobs[job]] = job.result()
                except FetchError as error:
                    failed.append(str(error))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        raise FetchError("\n".join(failed))
    return got


def check_space(wanted: Sequence[Download]) -> None:
    """Whether the disk holds all that is still to be fetched, as far as sizes are known. Raises FetchError.

    The files lie on one disk. A size that nobody has published is looked at when its download begins.
    """
    left = {each.path: each.size - _Part(each).size for each in wanted if each.size and not each.path.exists()}
    if not left:
        return
    folder = next(iter(left)).parent
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if sum(left.values()) > free:
        names = ", ".join(path.name for path in left)
        raise FetchError(_too_little(f"{names} need{'s' if len(left) == 1 else ''}", sum(left.values()), folder, free))


def _too_little(who_need: str, size: int, folder: Path, free: int) -> str:
    return (
        f"{who_need} {size / 1e9:.1f} GB more and {folder} has {free / 1e9:.1f} GB free: free some space or let "
        f"source.folder name another disk, then run the same command again"
    )


class _Bytes:
    """Progress of several downloads together, in megabytes."""

    def __init__(self, label: str, files: int):
        self.progress, self.lock, self.files = Progress(f"{label}, MB", 0), threading.Lock(), files
        self.done: dict[Path, int] = {}
        self.total: dict[Path, int] = {}

    def __enter__(self) -> _Bytes:
        self.progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.progress.__exit__(*error)

    def of(self, path: Path) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            with self.lock:
                self.done[path], self.total[path] = done, total
                mean = sum(self.total.values()) / len(self.total)  # those not begun count like those begun
                self.progress.total = round(mean * self.files / MEGABYTE)
                self.progress.update(round(sum(self.done.values()) / MEGABYTE))

        return report


def fetch(
    wanted: Download,
    settings: FetchConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
    stop: threading.Event | None = None,
) -> str:
    """Downloads a file, or verifies the one that is there; its sha256. `report` hears of bytes done and in all."""
    stop = stop or threading.Event()
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(wanted.path.with_name(f".{wanted.path.name}.lock")):
        if wanted.path.exists():
            return verify(wanted.path, wanted)
        part = _Part(wanted)
        given_up: dict[str, str] = {}
        fruitless = 0
        while left := [url for url in wanted.urls if url not in given_up]:
            # Without a checksum no other address can go on with what is there, so its own is asked as long as it may.
            able = [url for url in left if part.resumable_from(rewritten(url, settings))]
            troubles: dict[str, str] = {}
            pause, before = 0.0, part.size
            for url in able or left:
                try:
                    return _attempt(rewritten(url, settings), part, settings, report, stop)
                except _Refused as error:
                    given_up[url] = str(error)
                except _Interrupted as error:
                    troubles[url], pause = str(error), max(pause, error.pause)
                    if part.size > before:
                        break
            fruitless = 0 if part.size > before else fruitless + 1
            if fruitless > settings.retries:
                given_up |= troubles
                fruitless = 0
            elif troubles:
                pause = min(LONGEST_PAUSE, max(pause, settings.backoff * 2 ** max(0, fruitless - 1)))
                url, reason = list(troubles.items())[-1]
                count = f" ({fruitless} of {settings.retries})" if fruitless else ""
                # In one piece: several downloads say so at once.
                sys.stderr.write(f"{redact(url)}: {redact(reason)}, again in {pause:g} s{count}\n")
                sys.stderr.flush()
                if stop.wait(pause):
                    raise _Stopped
        raise FetchError(_failure(wanted, given_up))


def rewritten(url: str, settings: FetchConfig) -> str:
    """The address as the user's own mirror has it."""
    for beginning, replacement in settings.rewrite.items():
        if url.startswith(beginning):
            return replacement + url.removeprefix(beginning)
    return url


def _failure(wanted: Download, reasons: dict[str, str]) -> str:
    lines = [f"{wanted.path.name} could not be fetched:"]
    lines += [f"  {redact(url)}: {redact(reason)}" for url, reason in reasons.items()]
    return "\n".join(lines) + (
        f"\n  run the same command again later, which goes on from what is there; or download the file in another way "
        f"and put it at {wanted.path}"
    )


# ------------------------------------------------------------------------------------------------------ one attempt


class _Part:
    """The unfinished file, its hashes, and which version of the file it is the beginning of."""

    def __init__(self, wanted: Download):
        self.wanted = wanted
        self.path = wanted.path.with_name(f"{wanted.path.name}.part")
        self.notes = wanted.path.with_name(f"{wanted.path.name}.part.json")
        self.size = self.path.stat().st_size if self.path.exists() else 0
        self.version: dict[str, Any] = {}
        if self.size:
            with suppress(OSError, ValueError):
                self.version = read_json(self.notes)
        self.hashes: _Hashes | None = None

    def resumable_from(self, url: str) -> bool:
        """Whether what is there can be the beginning of what this address has."""
        same = self.version.get("url") == url and self.version.get("validator")
        return self.size > 0 and bool(same or self.wanted.checksum)

    def validator(self, url: str) -> str | None:
        return self.version.get("validator") if self.version.get("url") == url else None

    def begin(self, url: str, validator: str | None, total: int | None) -> None:
        """The server sends the file from its first byte."""
        self.discard()
        self.version = {"url": url, "validator": validator, "total": total}
        self.hashes = _Hashes(self.wanted)
        write_json(self.notes, self.version)

    def go_on(self) -> None:
        if self.hashes is None or self.hashes.size != self.size:
            self.hashes = _Hashes(self.wanted)
            self.hashes.read(self.path)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)
        self.size, self.version, self.hashes = 0, {}, None

    def finish(self) -> str:
        """Verifies what has come and gives it its name; its sha256. Raises _Refused."""
        self.go_on()
        problem = _problem(self.hashes, self.wanted)
        if problem:
            self.discard()
            raise _Refused(f"sends a file that {problem}")
        sha256 = self.hashes.sha256
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self.wanted.path)
        self.notes.unlink(missing_ok=True)
        return sha256


def _attempt(
    url: str, part: _Part, settings: FetchConfig, report: Callable[[int, int], None], stop: threading.Event
) -> str:
    """Asks an address for what is missing; the file's sha256. Raises _Refused, _Interrupted or a UserError."""
    headers = {"Accept-Encoding": "identity"}  # ranges are of the file, not of a compressed form of it
    resumed = part.resumable_from(url)
    if resumed:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator(url):
            headers["If-Range"] = part.validator(url)
    try:
        with requests.get(url, headers=headers, stream=True, timeout=settings.timeout) as response:
            total = _begin(response, url, part, resumed)
            if total is None or part.size < total:
                _receive(response, part, total, report, stop)
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise _Interrupted(f"the connection broke ({error})") from error
        raise _Refused(
            "its certificate does not verify, so nobody knows who answers; check this machine's clock and its "
            "certificates (the package ca-certificates; REQUESTS_CA_BUNDLE names a bundle of your own)"
        ) from error
    except (
        requests.exceptions.InvalidSchema,
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
    ) as error:
        raise _Refused(f"is not an address ({error})") from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _Interrupted(f"sent nothing for {settings.timeout:g} s") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Interrupted(f"the connection broke ({_innermost(error)})") from error
    if total is not None and part.size < total:
        raise _Interrupted(f"sent {part.size:,} of {total:,} bytes")
    try:
        return part.finish()
    except _Refused as error:
        if resumed:  # perhaps of two versions; from its first byte it may be right
            raise _Interrupted(str(error)) from None
        raise


def _innermost(error: BaseException) -> str:
    while isinstance(error.args[0] if error.args else None, BaseException):
        error = error.args[0]
    return str(getattr(error, "reason", error))


def _begin(response: requests.Response, url: str, part: _Part, resumed: bool) -> int | None:
    """Looks at the answer's head; the part stands where the body goes on. The whole file's size, if it is known."""
    status, wanted = response.status_code, part.wanted
    if status == 416 and resumed:
        total = _number(r"bytes \*/(\d+)", response.headers.get("Content-Range"))
        if total == part.size and wanted.size in (None, total):
            return total
        part.discard()
        raise _Interrupted("has no such range of bytes, so the download begins anew")
    if status in (408, 425, 429) or status >= 500:
        pause = _number(r"(\d+)$", response.headers.get("Retry-After"))
        raise _Interrupted(f"answers {status} {response.reason}", pause or 0)
    if status == 206:
        first = _number(r"bytes (\d+)-", response.headers.get("Content-Range"))
        total = _number(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range"))
        before = part.validator(url), part.version.get("total")
        changed = any(
            old and new and old != new for old, new in zip(before, (_validator(response), total), strict=True)
        )
        if not resumed or first != part.size or changed:
            part.discard()
            raise _Interrupted("sends other bytes than it was asked for, so the download begins anew")
        part.go_on()
    elif status == 200:
        total = _number(r"(\d+)$", response.headers.get("Content-Length"))
        part.begin(url, _validator(response), total)
    else:
        hint = "; it wants an account" if status in (401, 403) else ""
        raise _Refused(f"answers {status} {response.reason}{hint}")
    if wanted.size and total and total != wanted.size:
        part.discard()
        raise _Refused(f"has a file of {total:,} bytes, not the {wanted.size:,} expected: it is another file")
    total = total or wanted.size
    _check_space(part, total)
    return total


def _validator(response: requests.Response) -> str | None:
    """What tells one version of the file from another: a strong ETag, else the date."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _number(pattern: str, text: str | None) -> int | None:
    match = re.match(pattern, text or "")
    return int(match[1]) if match else None


def _check_space(part: _Part, total: int | None) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if total and total - part.size > free:
        name, folder = part.wanted.path.name, part.path.parent
        raise FetchError(_too_little(f"{name} needs", total - part.size, folder, free))


def _receive(
    response: requests.Response,
    part: _Part,
    total: int | None,
    report: Callable[[int, int], None],
    stop: threading.Event,
) -> None:
    """Appends the body to the part."""
    with part.path.open("ab") as file:
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            if stop.is_set():
                raise _Stopped
            if part.size == 0:
                _check_kind(part.wanted.path.name, chunk)
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                part.hashes = None
                raise OutputError(explain(error, part.path)) from error
            part.size += len(chunk)
            part.hashes.update(chunk)
            report(part.size, total or part.size)


def _check_kind(name: str, beginning: bytes) -> None:
    """Refuses a web page, such as a login form, that is served in the file's place."""
    magic = MAGIC.get(Path(name).suffix.lower())
    page = beginning.lstrip()[:32].lower().startswith(WEB_PAGE)
    if page or (magic and not beginning.startswith(magic)):
        what = "a web page" if page else "something else"
        raise _Refused(
            f"sends {what} instead of {name}: the file has moved or wants a login; open the address in a browser"
        )


# ----------------------------------------------------------------------------------------------------- verification


class _Hashes:
    """sha256 and, where another one is published, that as well."""

    def __init__(self, wanted: Download):
        names = {"sha256"} | ({wanted.checksum.algorithm} if wanted.checksum else set())
        self.of = {name: hashlib.new(name) for name in names}
        self.size = 0

    @property
    def sha256(self) -> str:
        return self.of["sha256"].hexdigest()

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        for each in self.of.values():
            each.update(chunk)

    def read(self, path: Path) -> None:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                self.update(chunk)


def verify(path: Path, wanted: Download) -> str:
    """Checks size and checksum of a file, the user's own or that of `wanted`; its sha256. Raises FetchError.

    Where no checksum is published, it is compared with the one that `remember` has recorded.
    """
    hashes = _Hashes(wanted)
    hashes.read(path)
    problem = _problem(hashes, wanted)
    if problem:
        raise FetchError(f"{path} {problem}; remove it and run the same command again")
    return hashes.sha256


def remember(wanted: Download, sha256: str) -> None:
    """Records the sha256 of a file that has been seen to be whole, which must not change from then on.

    Not before its contents have been read without error, else a damaged file would lock out the right one. Nothing to
    do where a checksum is published.
    """
    record = _record(wanted)
    if wanted.checksum is None and not record.exists():
        with atomic(record) as partial:
            partial.write_text(f"{sha256}  {wanted.path.name}\n")  # as `sha256sum --check` reads it


def _record(wanted: Download) -> Path:
    return wanted.path.with_name(f"{wanted.path.name}.sha256")


def _problem(hashes: _Hashes, wanted: Download) -> str | None:
    """What is wrong with a file of these hashes."""
    if wanted.size and hashes.size != wanted.size:
        return f"has {hashes.size:,} bytes, not the {wanted.size:,} expected: it is another file or not whole"
    if wanted.checksum:
        algorithm, value = wanted.checksum.algorithm, wanted.checksum.value
        found = hashes.of[algorithm].hexdigest()
        by = wanted.checksum.published_by
        return None if found == value else f"has the {algorithm} {found}, not the {value} published by {by}"
    record = _record(wanted)
    if record.exists() and record.read_text().split()[:1] != [hashes.sha256]:
        return (
            f"has the sha256 {hashes.sha256}, not the one seen first, in {record} (remove that record if the owner has "
            f"replaced the file)"
        )
    return None
