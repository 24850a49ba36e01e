"""Each of the five data sets from a server with its owner's layout to clips in class folders."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import shutil
import subprocess
import threading
import time
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import yaml

from dvfl.config import Config, check_config, merge
from dvfl.data import acquire as module
from dvfl.data import registry
from dvfl.data.acquire import acquire, acquire_released, await_files
from dvfl.data.errors import DataError
from dvfl.data.index import build_index, clips_root
from dvfl.data.lists import read_lists
from dvfl.data.splits import make_split
from tests.data import owners
from tests.data.archives import zip_of
from tests.data.server import breaks_after, serving
from tests.data.test_extract import RARS, readable_rar

SETS = [
    pytest.param(name, marks=pytest.mark.skipif(name in RARS and not readable_rar(), reason="no libarchive here"))
    for name in owners.COUNTS
]
NETWORK = {"model": "video_focalnet_tiny"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    from tests.data.conftest import write_video

    return write_video(tmp_path_factory.mktemp("clip") / "clip.avi", frames=3, height=32, width=32).read_bytes()


@pytest.fixture(scope="module")
def running(clip):
    with serving() as server:
        for name in ("ucf101", "ucf50", "hmdb51", "kinetics400"):
            server.files |= getattr(owners, name)(clip)
        yield server


@pytest.fixture
def server(running):
    running.asked.clear()
    running.faults.clear()
    return running


@pytest.fixture
def configure(server, tmp_path):
    def config(name: str, **values) -> Config:
        """The config of one data set, with values of its definition."""
        base = {
            "datasets": [name],
            "dataset_definitions": merge(owners.definitions(str(tmp_path / "resources")), {name: values}),
            "teacher": NETWORK,
            "student": NETWORK,
            "arms": {"student": {"network": "student"}},
            "fetch": {"rewrite": owners.mirrors(server.url()), "backoff": 0, "retries": 2, "timeout": 5},
        }
        return check_config(base)

    return config


@pytest.fixture
def account(tmp_path, clip) -> Path:
    """A folder with what a user with an account has downloaded of SSv2, a while ago."""
    folder = tmp_path / "downloads"
    put(folder, owners.ssv2(clip))
    return folder


def put(folder: Path, files: dict[str, bytes], age: float = 60.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, (time.time() - age,) * 2)


def everything(config: Config, name: str) -> dict:
    for shard in registry.shards(config.dataset_definitions[name]):
        acquire(config, name, shard)
    return acquire(config, name)


@pytest.mark.parametrize("name", SETS)
def test_from_the_owners_archives_to_an_index(configure, server, account, name):
    config = configure(name, **({"archives": str(account)} if name == "ssv2" else {}))
    definition = config.dataset_definitions[name]
    got = everything(config, name)
    assert (got["clips"], got["classes"]) == (owners.COUNTS[name], 2)
    index = build_index(clips_root(definition), definition, 1)
    assert len(index) == owners.COUNTS[name] and set(index["status"]) == {"ok"}
    if name == "ssv2":
        assert set(index["class_name"]) == {each.replace("[", "").replace("]", "") for each in owners.SSV2_CLASSES}
    if name == "kinetics400":
        mended = clips_root(definition) / f"abseiling/{owners.YOUTUBE.format(number=0)}_000003_000013.mp4"
        assert mended.read_bytes().endswith(b"mended")
    asked = len(server.asked)
    assert everything(config, name) == got
    assert len(server.asked) == asked  # nothing is fetched, nor extracted, twice


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "kinetics400"])
def test_lists_lie_side_by_side(configure, name):
    if name in RARS and not readable_rar():
        pytest.skip("no libarchive here")
    config = configure(name)
    everything(config, name)
    names = {file.name for file in (config.dataset_definitions[name].source.folder / "lists").iterdir()}
    assert {"ucf101": "trainlist01.txt", "hmdb51": "run_test_split3.txt", "kinetics400": "val.csv"}[name] in names


@pytest.mark.parametrize("name", ["ucf50", "ucf101", "hmdb51"])
def test_the_authors_lists_come_alone_and_their_labels_are_compared(configure, server, name):
    server.files |= owners.released(name)
    config = configure(name)
    for _ in range(2):
        assert [each["files"] for each in acquire_released(config, name)["archives"]] == [1, 1, 1]
    assert len(server.asked) == 3
    listed = read_lists(config.dataset_definitions[name].lists_folder("released"))["released"]
    assert listed["subset"].value_counts().to_dict() == {"train": 10, "test": 2}
    assert listed["mislabelled"].sum() == (12 if name == "hmdb51" else 0)
    with pytest.raises(DataError, match="kinetics400 has no released lists"):
        acquire_released(configure("kinetics400"), "kinetics400")


def test_shards_share_the_parts(configure, server):
    config = configure("kinetics400")
    acquire(config, "kinetics400", 0)
    first = {path for path, _ in server.asked if "part_" in path}
    assert first == {f"/s3/kinetics/400/{part}.tar.gz" for part in ("train/part_0", "train/part_2", "val/part_0")}
    acquire(config, "kinetics400", 1)
    assert len({path for path, _ in server.asked if "part_" in path}) == 5
    with pytest.raises(DataError, match="no shard 2: it has 2, from 0"):
        acquire(config, "kinetics400", 2)


def test_shards_may_run_at_once(configure):
    config = configure("kinetics400")
    jobs = [threading.Thread(target=acquire, args=(config, "kinetics400", shard)) for shard in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert acquire(config, "kinetics400")["clips"] == 10


def test_archives_are_removed_where_the_config_says_so(configure, account, tmp_path):
    for name, values in (("kinetics400", {}), ("ssv2", {"archives": str(account)})):
        config = configure(name, **values)
        config = config.model_copy(update={"fetch": config.fetch.model_copy(update={"keep_archives": False})})
        got = everything(config, name)
        assert not list((tmp_path / "resources").rglob("*gz"))
        assert everything(config, name) == got
    assert len(list(account.iterdir())) == 4  # what came by hand stays


def test_a_break_in_one_part_is_mended(configure, server):
    server.faults["/s3/kinetics/400/train/part_1.tar.gz"] = [breaks_after(100)]
    assert everything(configure("kinetics400"), "kinetics400")["clips"] == 10


def test_too_few_clips_are_an_error_that_says_what_to_do(configure):
    config = configure("kinetics400", source={"expected": {"clips": 11, "classes": 2}})
    with pytest.raises(DataError, match=r"10 clips where 11 are expected; to extract again, remove .*extracted"):
        everything(config, "kinetics400")


def test_killed_at_any_moment_and_run_again(dvfl_command, tmp_path):
    moments = random.Random(0)
    clip = moments.randbytes(3000)
    file = tmp_path / "mine.yaml"
    kills = 0
    with serving() as server:
        server.files, server.pace = owners.kinetics400(clip), 0.1
        values = {
            "datasets": ["kinetics400"],
            "dataset_definitions": owners.definitions(str(tmp_path / "resources")),
            "fetch": {"rewrite": dict(owners.mirrors(server.url())), "connections": 2},
        }
        file.write_text(yaml.safe_dump(values))
        while True:
            server.asked.clear()
            process = dvfl_command("fetch", "kinetics400", "--shard", "0", "--config", file)
            while not server.asked and process.poll() is None:
                time.sleep(0.01)
            try:
                _, said = process.communicate(timeout=moments.uniform(0.2, 1.2) if kills < 4 else 60)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
    assert (process.returncode, kills) == (0, 4), said
    files = sorted(tmp_path.rglob("resources/kinetics400/clips/*/*"))
    assert len(files) == 6 and all(file.read_bytes() == clip for file in files)
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith((".part", ".part.json"))]
    assert not list(tmp_path.glob("resources/kinetics400/extracting/*/*"))


def test_what_fails_is_said_in_lines_that_say_what_to_do(server, command, tmp_path):
    definitions = owners.definitions(str(tmp_path / "resources"))
    definitions["ucf50"]["source"]["archives"][0]["name"] = "UCF50.zip"
    definitions["ucf50"]["source"]["archives"][0]["urls"] = ["https://www.crcv.ucf.edu/nowhere.zip"]
    values = {
        "datasets": ["ucf50"],
        "dataset_definitions": definitions,
        "fetch": {"rewrite": dict(owners.mirrors(server.url()))},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    code, out, err = command("fetch", "ucf50", "--config", tmp_path / "mine.yaml")
    said = [line for line in err.splitlines() if line.startswith("dvfl: ")]
    assert (code, out) == (1, "")
    assert said[0] == "dvfl: UCF50.zip could not be fetched:"
    assert said[1] == "dvfl:   https://www.crcv.ucf.edu/nowhere.zip: answers 404 Not Found"
    assert str(tmp_path / "resources/ucf50/archives/UCF50.zip") in said[2]


LISTS_ZIP = "/crcv/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip"


@pytest.fixture
def serve_lists(server, configure, clip, tmp_path):
    """`serve_lists(body)`: the config of a user with clips of UCF101, whose lists the server answers with that body."""
    good = server.files[LISTS_ZIP]
    for name in owners.CLASSES:
        put(tmp_path / "have" / name, {f"v_{name}_g{group:02d}_c01.avi": clip for group in range(1, 7)})

    def serve(body: bytes) -> Config:
        server.files[LISTS_ZIP] = body
        return configure("ucf101", root=str(tmp_path / "have"), validation_fraction=0.34)

    yield serve
    server.files[LISTS_ZIP] = good


def evil_link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("ucfTrainTestlist/classInd.txt")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "../../../../etc/passwd")
    return stream.getvalue()


def locked() -> bytes:
    body = bytearray(zip_of({"classInd.txt": b"1 run"}))
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(header) + flags] |= 1
    return bytes(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda: zip_of({"good.txt": b"good", "../evil.txt": b"evil"}), "would land outside its folder"),
        (lambda: zip_of({"good.txt": b"good", "/tmp/dvfl-evil.txt": b"evil"}), "would land outside its folder"),
        (evil_link, "a link or a device"),
        (locked, "protected by a password"),
        (lambda: zip_of({"bomb.txt": bytes(2_000_000)}, zipfile.ZIP_DEFLATED), "more than 50 times its size"),
    ],
    ids=["../evil", "absolute", "link", "password", "bomb"],
)
def test_an_evil_archive_leaves_nothing_behind(serve_lists, tmp_path, body, message):
    config = serve_lists(body())
    before = {path for path in tmp_path.rglob("*")}
    with pytest.raises(DataError, match=message):
        acquire(config, "ucf101")
    new = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} - {path.relative_to(tmp_path) for path in before}
    own = Path("resources/ucf101")
    allowed = [own / folder for folder in ("archives", "extracting", "extracted")]
    files = [path for path in new if (tmp_path / path).is_file()]
    assert all(any(path.is_relative_to(folder) for folder in allowed) for path in files)
    assert not [path for path in files if path.suffix == ".txt" and not path.is_relative_to(own / "extracting")]
    assert not Path("/tmp/dvfl-evil.txt").exists()


@pytest.mark.parametrize("own", [False, True], ids=["fetched", "archives"])
def test_a_damaged_archive_does_not_lock_out_the_good_one(serve_lists, server, configure, tmp_path, own):
    good = server.files[LISTS_ZIP]
    damaged = bytearray(good)
    damaged[good.index(b"v_run_g")] ^= 1  # stored, so that its CRC alone tells
    serve_lists(bytes(damaged))
    folder = tmp_path / ("downloads" if own else "resources/ucf101/archives")
    file = folder / LISTS_ZIP.rpartition("/")[2]
    if own:
        put(folder, {file.name: bytes(damaged)})
    config = configure("ucf101", root=str(tmp_path / "have"), **({"archives": str(folder)} if own else {}))
    with pytest.raises(DataError, match="remove it and run the same command again"):
        acquire(config, "ucf101")
    file.unlink()
    server.files[LISTS_ZIP] = good
    if own:
        put(folder, {file.name: good})
    assert acquire(config, "ucf101")["clips"] == 12
    record = tmp_path / f"resources/ucf101/archives/{file.name}.sha256"
    assert record.read_text().split() == [hashlib.sha256(good).hexdigest(), file.name]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"testlist01.txt": "run/v_run_g01_c01.avi\r\n\r\n  \r\njump/v_jump_g01_c01.avi\r\n"}, None),
        ({"trainlist01.txt": "run/v_run_g02_c01.avi\r\n"}, r"trainlist01\.txt:1: .* a column is missing"),
        ({"testlist01.txt": "sit/v_sit_g01_c01.avi\n"}, r"testlist01\.txt:1: class 'sit' is not in .*classInd\.txt"),
        ({"testlist01.txt": "run/v_run_g02_c01.avi\n"}, r"testlist01\.txt:1: .* is listed at .*trainlist01\.txt:1"),
    ],
    ids=["CRLF and blank lines", "a column is missing", "unknown class", "a clip twice"],
)
def test_a_wrong_list_is_named_with_file_and_line(serve_lists, clip, changed, message):
    good = zipfile.ZipFile(io.BytesIO(owners.ucf101(clip)[LISTS_ZIP]))
    lists = {PurePosixPath(name).name: good.read(name) for name in good.namelist()}
    wrong = lists | {name: text.encode() for name, text in changed.items()}
    config = serve_lists(zip_of({f"ucfTrainTestlist/{name}": text for name, text in wrong.items()}))
    acquire(config, "ucf101")
    definition = config.dataset_definitions["ucf101"]
    index = build_index(clips_root(definition), definition, 1)
    if message is None:
        assert make_split(index, definition, "split1")["subset"].value_counts()["test"] == 2
    else:
        with pytest.raises(DataError, match=message):
            make_split(index, definition, "split1")


# ------------------------------------------------------------------------------------------------ what users have


def test_own_archives_are_read_where_they_are(configure, server, tmp_path):
    files = {path.rpartition("/")[2]: body for path, body in server.files.items() if "UCF101" in path}
    if not readable_rar():
        pytest.skip("no libarchive here")
    put(tmp_path / "have", files)
    assert acquire(configure("ucf101", archives=str(tmp_path / "have")), "ucf101")["clips"] == 12
    assert server.asked == []
    assert {file.name for file in (tmp_path / "have").iterdir()} == set(files)  # nothing added, nothing removed


def test_own_clips_are_used_where_they_are(configure, server, tmp_path, clip):
    root = tmp_path / "UCF-101"
    for name in owners.CLASSES:
        put(root / name, {f"v_{name}_g0{group}_c01.avi": clip for group in range(4)})
    config = configure("ucf101", root=str(root))
    got = acquire(config, "ucf101")
    assert (got["root"], got["clips"]) == (str(root), 8)
    assert [path.rpartition("/")[2] for path, _ in server.asked] == ["UCF101TrainTestSplits-RecognitionTask.zip"]


def test_own_clips_in_one_folder_get_class_folders_by_links(configure, server, account, tmp_path, clip):
    root = tmp_path / "webm"
    put(root, {f"{number}.webm": clip for number in range(1, 13)})
    config = configure("ssv2", root=str(root), archives=str(account))
    assert acquire(config, "ssv2")["clips"] == 12
    definition = config.dataset_definitions["ssv2"]
    index = build_index(clips_root(definition), definition, 1)
    assert len(index) == 12 and index["class_name"].nunique() == 2
    assert acquire(config, "ssv2")["clips"] == 12


def test_own_clips_with_own_lists_need_nobody(configure, server, serve_lists, tmp_path):
    (tmp_path / "lists").mkdir()
    have = {"root": str(tmp_path / "have"), "lists": {"official": str(tmp_path / "lists")}}
    assert acquire(configure("ucf101", **have), "ucf101")["clips"] == 12
    assert server.asked == []


def test_all_that_is_still_to_be_fetched_must_fit_before_anything_is(configure, server, monkeypatch):
    archives = owners.definitions("")["ucf101"]["source"]["archives"]
    fetched = [each | {"size": 6_000} for each in archives if each["content"] != "released"]
    others = [each for each in archives if each["content"] == "released"]
    config = configure("ucf101", source={"archives": fetched + others})
    monkeypatch.setattr(module, "_check_reader", lambda *_: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 0, 10_000))
    with pytest.raises(DataError, match=r"UCF101.*\.zip, UCF101\.rar need .* more and .* free: free some space"):
        acquire(config, "ucf101")
    assert server.asked == []


def test_own_parts_that_lie_flat_are_read_where_their_names_tell_which_they_are(configure, server, tmp_path, capsys):
    parts = {path.rpartition("/")[2]: body for path, body in server.files.items() if "/train/part_" in path}
    put(tmp_path / "have", {name: body for name, body in parts.items() if name != "part_3.tar.gz"})
    assert everything(configure("kinetics400", archives=str(tmp_path / "have")), "kinetics400")["clips"] == 10
    asked = sorted("/".join(path.split("/")[-2:]) for path, _ in server.asked if "part_" in path)
    assert asked == ["train/part_0.tar.gz", "train/part_3.tar.gz", "val/part_0.tar.gz"]  # which of two is part_0?
    said = capsys.readouterr().err
    assert f"{tmp_path / 'have'} has no train/part_0.tar.gz, val/part_0.tar.gz: fetched instead" in said
    assert "has no train/part_3.tar.gz or part_3.tar.gz: fetched instead" in said


def test_fetching_by_hand_looks_at_the_users_folders_first(server, command, tmp_path):
    (tmp_path / "empty").mkdir()
    for values, message in (
        ({"root": str(tmp_path / "gone")}, "root: .*gone does not exist"),
        ({"archives": str(tmp_path / "gone")}, "archives: .*gone does not exist"),
        ({"root": str(tmp_path / "empty")}, "root: .*empty holds no clips; give the folder that holds <class>/<clip>"),
    ):
        definitions = merge(owners.definitions(str(tmp_path / "resources")), {"ucf101": values})
        mine = {"datasets": ["ucf101"], "dataset_definitions": definitions}
        mine["fetch"] = {"rewrite": dict(owners.mirrors(server.url()))}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
        code, _, err = command("fetch", "ucf101", "--config", tmp_path / "mine.yaml")
        assert code == 1 and re.search(f"dvfl: dataset_definitions.ucf101.{message}", err), err


# --------------------------------------------------------------------------------------------- files that come by hand


def test_what_needs_an_account_says_all_that_one_must_know(configure, tmp_path):
    definition = configure("ssv2").dataset_definitions["ssv2"]
    with pytest.raises(DataError) as error:
        await_files("ssv2", definition)
    said = str(error.value)
    assert "https://www.qualcomm.com/" in said and str(tmp_path / "resources/ssv2/archives") in said
    assert "download-package-labels.zip" in said and "20bn-something-something-v2-?? (numbered parts" in said
    assert "zipped ones, 20bn-something-something-v2-??.zip, may stay so" in said
    assert "dataset_definitions.ssv2.archives" in said and "take it out of `datasets`" in said
    with pytest.raises(DataError, match="cannot be fetched without an account"):
        acquire(configure("ssv2"), "ssv2")


@pytest.mark.parametrize("order", [list, reversed], ids=["as they are numbered", "the last part first"])
def test_it_goes_on_by_itself_once_the_files_are_there(configure, tmp_path, clip, monkeypatch, capsys, order):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "SETTLED", 0)  # each file stays untouched for long enough before the next one comes
    files = owners.ssv2(clip)
    config = configure("ssv2", source={"archives": archives_of_ssv2(files, 1.01)})
    waiting = threading.Thread(target=await_files, args=("ssv2", config.dataset_definitions["ssv2"], 1.0))
    waiting.start()
    for name in order(files):
        time.sleep(0.1)
        assert waiting.is_alive()
        put(tmp_path / "resources/ssv2/archives", {name: files[name]})
    waiting.join(timeout=5)
    assert not waiting.is_alive()
    said = capsys.readouterr().err
    assert said.count("Waiting for them, up to 1 h") == 1 and "dataset_definitions.ssv2.source.wait_hours" in said
    assert acquire(config, "ssv2")["clips"] == 12


def test_a_file_that_still_grows_is_waited_for(configure, tmp_path, clip):
    definition = configure("ssv2").dataset_definitions["ssv2"]
    files = owners.ssv2(clip)
    put(tmp_path / "resources/ssv2/archives", files)
    await_files("ssv2", definition)
    put(tmp_path / "resources/ssv2/archives", {name: files[name] for name in list(files)[-1:]}, age=0)
    with pytest.raises(DataError, match=r"v2-02 \(still growing\)"):
        await_files("ssv2", definition)


def archives_of_ssv2(files: dict[str, bytes], roughly: float) -> list[dict]:
    """The registry's entries with the size of the tiny parts, as roughly as their owner says it."""
    size = sum(len(body) for name, body in files.items() if "-v2-" in name)
    archives = owners.definitions("")["ssv2"]["source"]["archives"]
    return [each | ({"total_size": round(roughly * size)} if "?" in each["name"] else {}) for each in archives]


def test_parts_that_are_too_small_together_say_that_one_is_missing(configure, account, clip):
    archives = archives_of_ssv2(owners.ssv2(clip), 1.0)
    (account / "20bn-something-something-v2-02").unlink()
    with pytest.raises(DataError, match=r"-v2-\?\? \(.* are there: a part is missing or not whole\)"):
        acquire(configure("ssv2", archives=str(account), source={"archives": archives}), "ssv2")


@pytest.mark.parametrize("together", [False, True], ids=["each part zipped", "all parts in one zip"])
def test_parts_may_stay_zipped(configure, account, clip, together):
    parts = {name: body for name, body in owners.ssv2(clip).items() if "-v2-" in name}
    for name in parts:
        (account / name).unlink()
    first = next(iter(parts))
    put(account, {f"{first}.zip": zip_of(parts)} if together else {f"{n}.zip": zip_of({n: parts[n]}) for n in parts})
    assert acquire(configure("ssv2", archives=str(account)), "ssv2")["clips"] == 12


def test_a_first_or_last_part_that_is_missing(configure, account):
    config = configure("ssv2", archives=str(account))
    (account / "20bn-something-something-v2-02").unlink()
    with pytest.raises(DataError, match="a part is missing, or one is not whole") as error:
        acquire(config, "ssv2")
    assert "remove" not in str(error.value)
    second = (account / "20bn-something-something-v2-01").rename(account / "second")
    with pytest.raises(DataError, match="v2-00 alone: a part is missing, or one is not whole"):
        acquire(config, "ssv2")
    second.rename(account / "20bn-something-something-v2-01")
    (account / "20bn-something-something-v2-00").unlink()
    with pytest.raises(DataError, match="20bn-something-something-v2-00 is missing"):
        acquire(config, "ssv2")


def test_an_archive_without_clips_is_named(configure, server, account):
    put(account, {"20bn-something-something-download-package-labels.zip": zip_of({"readme.pdf": b"read me"})})
    with pytest.raises(DataError, match=r"labels\.zip holds no lists"):
        acquire(configure("ssv2", archives=str(account)), "ssv2")
