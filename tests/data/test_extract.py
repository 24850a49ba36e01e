"""Archives: what they hold arrives, what they must not hold never leaves them, and half of one is none."""

from __future__ import annotations

import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from dvfl.data import extract as module
from dvfl.data.errors import DataError
from dvfl.data.extract import ArchiveError, extract, require_libarchive
from dvfl.errors import UserError
from tests.data import rar_vectors as vectors
from tests.data.archives import rar5_of, rar_of, tgz_of, zip_of

FILES = {f"set/run/clip{number}.avi": random.Random(number).randbytes(3000) for number in range(4)}
RARS = ("ucf50", "ucf101", "hmdb51")  # data sets that come as rar


def readable_rar() -> bool:
    try:
        require_libarchive("x.rar")
    except ArchiveError:
        return False
    return True


needs_libarchive = pytest.mark.skipif(not readable_rar(), reason="this machine has no libarchive to read rar with")
needs_unar = pytest.mark.skipif(shutil.which("unar") is None, reason="no unar here; Debian: apt-get install unar")
WRITERS = [
    pytest.param(zip_of, ".zip", id="zip"),
    pytest.param(lambda files: zip_of(files, zipfile.ZIP_DEFLATED), ".zip", id="deflated"),
    pytest.param(tgz_of, ".tgz", id="tgz"),
    pytest.param(rar_of, ".rar", id="rar", marks=needs_libarchive),
    pytest.param(rar5_of, ".rar", id="rar5", marks=needs_libarchive),
]
RAR_WRITERS = pytest.mark.parametrize("write", [rar_of, rar5_of], ids=["rar", "rar5"])


@pytest.fixture
def attempt(tmp_path) -> Callable[..., int]:
    """Extracts bytes into tmp_path/target; whatever happens, nothing may appear outside of it."""

    def run(*parts: bytes, suffix: str = ".zip", place=lambda path: path, nested: bool = False) -> int:
        files = [tmp_path / f"archive{number}{suffix}" for number in range(len(parts))]
        for file, part in zip(files, parts, strict=True):
            file.write_bytes(part)
        try:
            return extract(files, tmp_path / "scratch", tmp_path / "target", place, nested, len(parts) > 1)
        finally:
            assert {entry.name for entry in tmp_path.iterdir()} <= {file.name for file in files} | {"scratch", "target"}

    return run


def tree(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("write", "suffix"), WRITERS)
def test_files_arrive_where_they_belong(attempt, tmp_path, write, suffix):
    def place(path: PurePosixPath) -> PurePosixPath | None:
        return None if path.stem == "clip3" else PurePosixPath(*path.parts[1:])

    assert attempt(write(FILES), suffix=suffix, place=place) == 3
    assert tree(tmp_path / "target") == {
        f"run/clip{number}.avi": FILES[f"set/run/clip{number}.avi"] for number in range(3)
    }
    assert not (tmp_path / "scratch").exists()


@needs_libarchive
def test_backslashes_are_folders(attempt, tmp_path):
    attempt(rar_of({"set\\run\\a.avi": b"a"}), suffix=".rar")
    assert tree(tmp_path / "target") == {"set/run/a.avi": b"a"}


@needs_libarchive
@RAR_WRITERS
def test_a_rar_of_rars(attempt, tmp_path, write):
    inner = {f"{name}.rar": write({f"{name}/{name}0.avi": name.encode()}) for name in ("clap", "run")}
    assert attempt(write(inner), suffix=".rar", nested=True) == 2
    assert tree(tmp_path / "target") == {"clap/clap0.avi": b"clap", "run/run0.avi": b"run"}


@pytest.mark.parametrize("wrapped", [False, True], ids=["raw", "each part zipped"])
def test_numbered_parts_are_one_tgz(attempt, tmp_path, wrapped):
    whole = tgz_of(FILES)
    parts = [whole[start : start + 5000] for start in range(0, len(whole), 5000)]
    assert len(parts) > 2
    assert attempt(*(zip_of({"part": part}) if wrapped else part for part in parts), suffix="") == 4
    assert tree(tmp_path / "target") == FILES


def test_a_last_part_that_is_missing(attempt, tmp_path):
    whole = tgz_of(FILES)
    with pytest.raises(ArchiveError, match="archive1: a part is missing, or one is not whole"):
        attempt(whole[:5000], whole[5000:10000], suffix="")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(("write", "suffix"), WRITERS)
@pytest.mark.parametrize("name", ["../evil", "set/../../evil", "/tmp/dvfl-evil", "C:\\evil", "..\\evil"])
def test_names_that_lead_elsewhere(attempt, tmp_path, write, suffix, name):
    before = set(tmp_path.parent.iterdir())
    with pytest.raises(ArchiveError, match="would land outside its folder"):
        attempt(write({"good.avi": b"good", name: b"evil"}), suffix=suffix)
    assert set(tmp_path.parent.iterdir()) == before
    assert not Path("/tmp/dvfl-evil").exists()
    assert not (tmp_path / "target").exists()


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("inside")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE],
    ids=["soft", "hard", "device", "pipe"],
)
def test_links_and_devices_in_a_tar(attempt, tmp_path, kind):
    with pytest.raises(ArchiveError, match="a link or a device"):
        attempt(tgz_of(FILES, special(kind, "../../etc/passwd")), suffix=".tgz")
    assert not (tmp_path / "target").exists()


def test_a_link_in_a_zip(attempt, tmp_path):
    archive = tmp_path / "archive0.zip"
    with zipfile.ZipFile(archive, "w") as file:
        info = zipfile.ZipInfo("inside")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="a link or a device"):
        attempt(archive.read_bytes())


@needs_libarchive
@RAR_WRITERS
def test_a_rar_with_any_byte_changed_or_cut_off(attempt, tmp_path, write):
    """libarchive alone passes most of these."""
    files = {f"run/clip{number}.avi": random.Random(number).randbytes(50) for number in range(2)}
    good, mark = write(files), {rar_of: 7, rar5_of: 8}[write]
    start, end = len(write({})) - mark, len(good) - mark  # marker, archive header and end mark say nothing of files
    first_file_ends = len(write({"run/clip0.avi": bytes(50)})) - mark  # cut here it is a whole rar of one file
    spoilt = [good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :] for at in range(start, end, 3)]
    spoilt += [good[:at] for at in range(start + 10, end) if at != first_file_ends]
    for body in spoilt:
        with pytest.raises(ArchiveError):
            attempt(body, suffix=".rar")
        assert not (tmp_path / "target").exists()


@needs_libarchive
@RAR_WRITERS
def test_a_link_in_a_rar(attempt, write):
    with pytest.raises(ArchiveError, match="a link or a device"):
        attempt(write(FILES, links={"inside": "../../etc/passwd"}), suffix=".rar")


@needs_libarchive
def test_an_evil_rar_in_a_good_one(attempt, tmp_path):
    with pytest.raises(ArchiveError, match="would land outside its folder"):
        attempt(rar_of({"clap.rar": rar_of({"../../evil": b"evil"})}), suffix=".rar", nested=True)
    assert not (tmp_path / "target").exists()


@needs_libarchive
@RAR_WRITERS
def test_a_rar_with_a_password(attempt, write):
    with pytest.raises(ArchiveError, match="protected by a password"):
        attempt(write(FILES, encrypted=True), suffix=".rar")


def packed_rar4() -> bytes:
    return rar_of({"stest1.txt": vectors.CONTENT}, method=0x35, packed={"stest1.txt": vectors.RAR4_PACKED})


@needs_libarchive
@pytest.mark.parametrize(
    ("archive", "names"),
    [
        (packed_rar4(), ["stest1.txt"]),
        (vectors.RAR5_PACKED, ["stest1.txt"]),
        (vectors.RAR5_SOLID, ["stest1.txt", "stest2.txt"]),
    ],
    ids=["rar", "rar5", "solid rar5"],
)
def test_what_rar_itself_has_packed(attempt, tmp_path, archive, names):
    assert attempt(archive, suffix=".rar") == len(names)
    assert tree(tmp_path / "target") == dict.fromkeys(names, vectors.CONTENT)


@needs_libarchive
def test_a_packed_rar_with_a_byte_changed(attempt, tmp_path):
    for archive, place in ((packed_rar4(), 60), (vectors.RAR5_PACKED, 90)):
        spoilt = bytearray(archive)
        spoilt[place] ^= 1
        with pytest.raises(ArchiveError, match="damaged or not whole"):
            attempt(bytes(spoilt), suffix=".rar")
    assert not (tmp_path / "target").exists()


@pytest.fixture
def without_unar(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("nothing")))


@pytest.fixture
def refusing(monkeypatch) -> None:
    """Whatever rar it is, libarchive does as it does with filters: one of another version may read solid ones."""
    error = require_libarchive("x.rar").exception.ArchiveError

    def gives_up(path: Path):
        yield module.Member("stest1.txt", "file", lambda: iter([bytes(3000)]))
        raise error("Parsing filters is unsupported.")

    monkeypatch.setattr(module, "_rar", gives_up)


@pytest.fixture
def unar_that(tmp_path_factory, monkeypatch) -> Callable[[str], Path]:
    """Puts a script in unar's place; the folder it is in."""

    def become(script: str) -> Path:
        folder = tmp_path_factory.mktemp("programs")
        (folder / "unar").write_text(f"#!/bin/sh\ncd {folder}\n{script}\n")
        (folder / "unar").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        return folder

    return become


@needs_libarchive
def test_a_solid_rar_on_a_machine_without_unar_is_not_called_damaged(attempt, tmp_path, without_unar):
    """Fetched anew it would be no better; a libarchive that has learned it may read it."""
    try:
        attempt(vectors.RAR4_SOLID, suffix=".rar")
    except ArchiveError as error:
        assert "libarchive cannot read it (RAR solid archive support unavailable" in str(error)
        assert "install unar, which can (Debian and Ubuntu: apt-get install unar;" in str(error)
        assert "or extract the file with unrar and give the folder as `root`" in str(error)
        assert not (tmp_path / "target").exists()
    else:
        assert tree(tmp_path / "target") == dict.fromkeys(["stest1.txt", "stest2.txt"], vectors.CONTENT)


@needs_libarchive
@needs_unar
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "in a stored one"])
def test_a_solid_rar_is_read_by_unar(attempt, tmp_path, nested):
    archive = rar_of({"inner.rar": vectors.RAR4_SOLID}) if nested else vectors.RAR4_SOLID
    assert attempt(archive, suffix=".rar", nested=nested) == 2
    assert tree(tmp_path / "target") == dict.fromkeys(["stest1.txt", "stest2.txt"], vectors.CONTENT)
    assert not (tmp_path / "scratch").exists()


@needs_libarchive
@needs_unar
def test_a_file_that_is_not_wanted_is_read_over_by_unar(attempt, tmp_path, refusing):
    def place(path: PurePosixPath) -> PurePosixPath | None:
        return path if path.stem == "stest2" else None

    assert attempt(vectors.RAR4_SOLID, suffix=".rar", place=place) == 1
    assert tree(tmp_path / "target") == {"stest2.txt": vectors.CONTENT}


@needs_libarchive
@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"name": b"../st2.txt"}, "would land outside its folder"),
        ({"name": b"/tmp/2.txt"}, "would land outside its folder"),
        ({"name": b"..\\st2.txt"}, "would land outside its folder"),
        ({"mode": 0o120777}, "a link or a device"),
        ({"size": 3_000_000_000}, "neither libarchive .* nor unar .* can read it"),
    ],
    ids=["above", "absolute", "backslash", "link", "size"],
)
def test_what_unar_must_not_extract(attempt, tmp_path, refusing, unar_that, header, message):
    (unar_that("cat content") / "content").write_bytes(2 * vectors.CONTENT)
    before = set(tmp_path.parent.iterdir())
    with pytest.raises(ArchiveError, match=message):
        attempt(vectors.second_of(vectors.RAR4_SOLID, **header), suffix=".rar")
    assert set(tmp_path.parent.iterdir()) == before
    assert not (tmp_path / "target").exists()


@needs_libarchive
@pytest.mark.parametrize(
    "script",
    ["cat content content", "head -c 4095 content", "head -c 2048 content", "tr 0 1 < content", "exit 1"],
    ids=["more", "less", "one", "other", "nothing"],
)
def test_what_unar_gives_is_checked(attempt, tmp_path, refusing, unar_that, script):
    (unar_that(script) / "content").write_bytes(2 * vectors.CONTENT)
    message = r"neither libarchive \(.*\) nor unar \(.*\) can read it; nothing .*extract it with unrar .*`root`"
    with pytest.raises(ArchiveError, match=message):
        attempt(vectors.RAR4_SOLID, suffix=".rar")
    assert not (tmp_path / "target").exists()


@needs_libarchive
@needs_unar
@pytest.mark.parametrize(("place", "file"), [(90, "stest1"), (-14, "stest2")])
def test_a_damaged_solid_rar(attempt, tmp_path, refusing, place, file):
    """unar's exit code says that all is well."""
    spoilt = bytearray(vectors.RAR4_SOLID)
    spoilt[place] ^= 1
    with pytest.raises(ArchiveError, match=rf"nor unar \({file}\.txt does not have its checksum\)"):
        attempt(bytes(spoilt), suffix=".rar")
    assert not (tmp_path / "target").exists()


@needs_libarchive
@needs_unar
def test_a_bomb_read_by_unar(attempt, tmp_path, refusing, monkeypatch):
    monkeypatch.setattr(module, "ALWAYS_ALLOWED", 4095)
    monkeypatch.setattr(module, "MOST_RATIO", 10)
    with pytest.raises(ArchiveError, match="unpacks to more than 10 times its size"):
        attempt(vectors.RAR4_SOLID, suffix=".rar")
    assert not (tmp_path / "target").exists()


@needs_libarchive
@needs_unar
def test_what_libarchive_wrote_before_it_gave_up_is_neither_kept_nor_counted(attempt, tmp_path, refusing, monkeypatch):
    monkeypatch.setattr(module, "ALWAYS_ALLOWED", 4096)
    monkeypatch.setattr(module, "MOST_RATIO", 10)
    assert attempt(vectors.RAR4_SOLID, suffix=".rar") == 2
    assert tree(tmp_path / "target") == dict.fromkeys(["stest1.txt", "stest2.txt"], vectors.CONTENT)


@needs_libarchive
def test_ctrl_c_ends_unar(attempt, tmp_path, refusing, unar_that):
    folder = unar_that("echo $$ > pid; exec cat content /dev/zero")
    (folder / "content").write_bytes(vectors.CONTENT)

    def killed(path: PurePosixPath) -> PurePosixPath:
        if path.stem == "stest2":
            raise KeyboardInterrupt
        return path

    with pytest.raises(KeyboardInterrupt):
        attempt(vectors.RAR4_SOLID, suffix=".rar", place=killed)
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)
    assert not (tmp_path / "target").exists()


@needs_libarchive
@pytest.mark.parametrize(("write", "unknown", "known"), [(rar_of, 0x99, 0x33), (rar5_of, 7, 3)], ids=["rar", "rar5"])
def test_a_rar_that_libarchive_cannot_decompress(attempt, tmp_path, without_unar, write, unknown, known):
    message = r"libarchive cannot read it .*([Nn]ot |[Uu]n)supported.*install unar.*or extract the file with unrar"
    with pytest.raises(ArchiveError, match=message):
        attempt(write(FILES, method=unknown), suffix=".rar")
    with pytest.raises(
        ArchiveError, match=r"damaged or not whole .*if a new copy fails as well, extract it with unrar"
    ):
        attempt(write(FILES, method=known), suffix=".rar")
    assert not (tmp_path / "target").exists()


@needs_libarchive
@needs_unar
@pytest.mark.parametrize(("write", "unknown"), [(rar_of, 0x99), (rar5_of, 7)], ids=["rar", "rar5"])
def test_a_rar_that_unar_cannot_decompress_either(attempt, tmp_path, write, unknown):
    with pytest.raises(ArchiveError, match=r"neither libarchive \(.*\) nor unar \(.*\) can read it"):
        attempt(write(FILES, method=unknown), suffix=".rar")
    assert not (tmp_path / "target").exists()


def test_a_zip_with_a_password(attempt):
    body = bytearray(zip_of({"a.avi": b"a" * 20}))
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(header) + flags] |= 1
    with pytest.raises(ArchiveError, match="protected by a password"):
        attempt(bytes(body))


@pytest.mark.parametrize(
    ("write", "suffix"),
    [(lambda files: zip_of(files, zipfile.ZIP_DEFLATED), ".zip"), (tgz_of, ".tgz")],
    ids=["zip", "tgz"],
)
def test_a_bomb(attempt, tmp_path, write, suffix):
    size = 3_000_000
    packed = write({"bomb.avi": bytes(size)})
    assert len(packed) * 100 < size
    with pytest.raises(ArchiveError, match="unpacks to more than 50 times its size"):
        attempt(packed, suffix=suffix)
    assert not (tmp_path / "target").exists()


def test_a_bomb_of_many_empty_files(attempt, monkeypatch):
    monkeypatch.setattr(module, "MOST_MEMBERS", 3)
    with pytest.raises(ArchiveError, match="more than 3 files"):
        attempt(zip_of(FILES))


def test_more_than_the_disk_has_free(attempt, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 5000))
    with pytest.raises(ArchiveError, match="more than the disk has free: free some space"):
        attempt(zip_of(FILES))


@pytest.mark.parametrize(("write", "suffix"), WRITERS)
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_archive(attempt, tmp_path, write, suffix, harm):
    body = bytearray(write(FILES))
    if harm == "cut":
        del body[len(body) * 2 // 3 :]
    else:
        body[len(body) // 2] ^= 0xFF
    with pytest.raises(ArchiveError, match=r"damaged or not whole.*remove it and run the same command again"):
        attempt(bytes(body), suffix=suffix)
    assert not (tmp_path / "target").exists()


def test_what_is_no_archive(attempt):
    with pytest.raises(DataError, match="damaged or not whole"):
        attempt(b"this is no archive")


def test_killed_in_the_middle_and_run_again(attempt, tmp_path):
    def killed(path: PurePosixPath) -> PurePosixPath:
        if path.stem == "clip2":
            raise KeyboardInterrupt
        return path

    with pytest.raises(KeyboardInterrupt):
        attempt(zip_of(FILES), place=killed)
    assert tree(tmp_path / "scratch") != {} and not (tmp_path / "target").exists()
    assert attempt(zip_of(FILES)) == 4
    assert tree(tmp_path / "target") == FILES
    assert not (tmp_path / "scratch").exists()


def test_killed_while_files_move_and_run_again(attempt, tmp_path, monkeypatch):
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if "clip2" in str(source):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            attempt(zip_of(FILES))
    assert attempt(zip_of(FILES)) == 4
    assert tree(tmp_path / "target") == FILES


def test_a_folder_that_cannot_be_written(attempt, tmp_path):
    (tmp_path / "target").write_text("a file where the clips belong")
    with pytest.raises((UserError, OSError)) as error:
        attempt(zip_of(FILES))
    from dvfl.errors import is_users_to_mend

    assert is_users_to_mend(error.value)


def test_a_machine_without_libarchive_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "libarchive", None)
    with pytest.raises(ArchiveError, match=r"UCF101\.rar is a rar.*apt-get install libarchive13.*`root`"):
        require_libarchive("UCF101.rar")
