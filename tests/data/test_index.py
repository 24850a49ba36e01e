"""Every clip is listed, the bad ones with a reason; a hopeless folder is refused clearly."""

from __future__ import annotations

import hashlib

import pandas as pd
import pytest

from dvfl.config import DatasetDefinition
from dvfl.data.errors import DataError
from dvfl.data.index import COLUMNS, build_index, clips_root, read_index, write_index


def test_an_index_of_good_clips(folder, definition, tmp_path):
    index = build_index(folder, definition, 1)
    assert index.columns.tolist() == list(COLUMNS)
    assert {name: str(kind) for name, kind in index.dtypes.items()} == COLUMNS
    assert index["clip_id"].is_monotonic_increasing
    assert len(index) == 24
    first = index.iloc[0]
    path = folder / "jump/jump_g0_c0.avi"
    assert first["clip_id"] == "jump/jump_g0_c0.avi"
    assert (first["class_name"], first["label"], first["group"]) == ("jump", 0, "jump_g0")
    assert (first["frames"], first["fps"], first["width"], first["height"]) == (6, 25.0, 48, 40)
    assert first["bytes"] == path.stat().st_size
    assert first["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (first["status"], first["reason"]) == ("ok", "")
    write_index(index, tmp_path / "out/index.parquet")
    pd.testing.assert_frame_equal(read_index(tmp_path / "out/index.parquet"), index)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["index.parquet"]


def test_processes_leave_no_trace(folder, definition):
    pd.testing.assert_frame_equal(build_index(folder, definition, 2), build_index(folder, definition, 1))


def test_bad_clips_are_listed_not_fatal(folder, definition, video, caplog):
    (folder / "run/empty_g1_c0.avi").touch()
    (folder / "run/text_g1_c0.MP4").write_text("not a video")
    (folder / "run/nomatch.avi").write_bytes((folder / "run/run_g0_c0.avi").read_bytes())
    (folder / "run/deeper").mkdir()
    (folder / "run/deeper/run_g7_c0.avi").write_bytes((folder / "run/run_g0_c0.avi").read_bytes())
    video("clips/run/brief_g1_c0.avi", frames=2)
    (folder / "run/notes.txt").write_text("ignored")
    (folder / "run/.hidden.avi").write_text("ignored")
    (folder / "lost+found").mkdir(0o700)  # of a mounted disk
    (folder / "lost+found/a.avi").write_text("ignored")
    (folder / ".cache").mkdir()
    (folder / "list.csv").write_text("ignored")
    strict = definition.model_copy(update={"min_frames": 4})
    index = build_index(folder, strict, 1).set_index("clip_id")
    assert len(index) == 24 + 5
    assert index.loc["run/empty_g1_c0.avi", ["status", "reason"]].tolist() == [
        "unreadable",
        "is empty (0 bytes)",
    ]
    assert index.loc["run/text_g1_c0.MP4", "status"] == "unreadable"
    assert index.loc["run/nomatch.avi", "status"] == "no_group"
    assert index.loc["run/brief_g1_c0.avi", ["status", "reason"]].tolist() == [
        "too_short",
        "has 2 frames, fewer than 4",
    ]
    assert index.loc["run/deeper/run_g7_c0.avi", ["class_name", "group"]].tolist() == [
        "run",
        "run_g7",
    ]
    assert "1 .txt" in caplog.text
    ok = index["status"] == "ok"
    assert ok.sum() == 25
    assert (index.loc[ok, "reason"] == "").all()
    assert (index.loc[~ok, "reason"] != "").all()


def test_without_a_pattern_every_clip_is_its_own_source(folder):
    index = build_index(folder, DatasetDefinition(kind="folder", root=folder), 1)
    assert (index["group"] == index["clip_id"]).all()


def test_links_are_followed_but_not_in_circles(folder, definition, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "run").rename(tmp_path / "elsewhere/run")
    (folder / "run").symlink_to(tmp_path / "elsewhere/run")
    (tmp_path / "elsewhere/run/again").symlink_to(tmp_path / "elsewhere/run")
    assert len(build_index(folder, definition, 1)) == 24


def refused(root, pattern=None):
    definition = DatasetDefinition(kind="folder", root=root, group=pattern)
    with pytest.raises(DataError) as caught:
        build_index(root, definition, 1)
    return str(caught.value)


def test_hopeless_folders_are_refused(folder, tmp_path):
    assert "is not a folder" in refused(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    assert "holds no class folders" in refused(tmp_path / "bare")
    (tmp_path / "texts/run").mkdir(parents=True)
    (tmp_path / "texts/run/a.txt").touch()
    assert "holds no clips" in refused(tmp_path / "texts")
    (tmp_path / "single/run").mkdir(parents=True)
    (tmp_path / "single/run/a.avi").touch()
    assert "1 class (run)" in refused(tmp_path / "single")
    (tmp_path / "single/jump").mkdir()
    (tmp_path / "single/jump/a.avi").touch()
    assert "none of the 2 clips" in refused(tmp_path / "single")
    message = refused(folder, r"(?P<group>xyz\d+)")
    assert "matches no clip" in message
    assert "'jump_g0_c0'" in message


def test_a_root_is_needed():
    with pytest.raises(DataError, match="has no root"):
        clips_root(DatasetDefinition(kind="folder"))


def test_the_real_clips(real_clips):
    definition = DatasetDefinition(kind="folder", root=real_clips, group=r"(?P<group>.+)_c\d+$")
    index = build_index(real_clips, definition, 1)
    assert len(index) == 224
    assert index["status"].eq("ok").all()
    assert index["class_name"].nunique() == 6
