"""A clip is read once: not again while it is unchanged, and not again after a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pandas as pd
import pytest

from dvfl.data import readings
from dvfl.data.errors import DataError
from dvfl.data.index import build_index, index_shard
from dvfl.files import OutputError


@pytest.fixture
def read(monkeypatch):
    """Names of the clips that were really read, in order."""
    names = []
    really = readings.read_clip
    monkeypatch.setattr(readings, "read_clip", lambda root, clip: names.append(clip) or really(root, clip))
    return names


def test_a_changed_clip_alone_is_read_again(folder, definition, video, tmp_path, read):
    kept = tmp_path / "kept/readings"
    first = build_index(folder, definition, 1, kept)
    assert len(read) == 24
    pd.testing.assert_frame_equal(build_index(folder, definition, 1, kept), first)
    assert len(read) == 24
    video("clips/run/run_g0_c0.avi", frames=9)
    video("clips/run/run_g6_c0.avi")
    (folder / "run/run_g1_c0.avi").unlink()
    (folder / "jump/jump_g0_c0.avi").write_bytes(b"broken")
    index = build_index(folder, definition, 1, kept).set_index("clip_id")
    assert sorted(read[24:]) == ["jump/jump_g0_c0.avi", "run/run_g0_c0.avi", "run/run_g6_c0.avi"]
    assert index.loc["run/run_g0_c0.avi", "frames"] == 9 and "run/run_g1_c0.avi" not in index.index
    pd.testing.assert_frame_equal(index.reset_index(), build_index(folder, definition, 1))


def test_another_pattern_reads_nothing(folder, definition, video, tmp_path, read):
    video("clips/run/run_g0_c0.avi", frames=9)
    build_index(folder, definition, 1, tmp_path / "kept")
    other = definition.model_copy(update={"group": r"_(?P<group>g\d+)_", "min_frames": 7})
    index = build_index(folder, other, 1, tmp_path / "kept")
    assert len(read) == 24
    assert set(index["group"]) == {f"g{k}" for k in range(6)}
    assert index["status"].value_counts().to_dict() == {"too_short": 23, "ok": 1}


def test_a_killed_indexing_goes_on(folder, definition, tmp_path, monkeypatch, read):
    counted = readings.read_clip

    def killed_at_the_tenth(root, clip):
        if len(read) == 10:
            raise KeyboardInterrupt
        return counted(root, clip)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(readings, "read_clip", killed_at_the_tenth)
        build_index(folder, definition, 1, tmp_path / "kept")
    index = build_index(folder, definition, 1, tmp_path / "kept")
    assert len(read) == len(set(read)) == 24
    pd.testing.assert_frame_equal(index, build_index(folder, definition, 1))


def test_other_files_and_unreadable_ones_are_read_again(folder, definition, tmp_path, read):
    kept = tmp_path / "kept"
    build_index(folder, definition, 1, kept)
    moved = folder.rename(tmp_path / "moved")
    build_index(moved, definition, 1, kept)
    assert len(read) == 48
    clip = "run/run_g3_c0.avi"
    with closing(sqlite3.connect(kept / "0of1.sqlite", isolation_level=None)) as store:
        store.execute("UPDATE readings SET modified = ? WHERE clip_id = ?", (readings.NO_DATE, clip))
    build_index(moved, definition, 1, kept)
    assert read[48:] == [clip]
    os.utime(moved / clip, (1, 1))
    build_index(moved, definition, 1, kept)
    assert read[49:] == [clip]


def test_shards_share_the_clips_and_the_index_is_the_same(folder, definition, tmp_path, read):
    sharded = definition.model_copy(update={"index_shards": 3})
    counts = [index_shard(folder, sharded, shard, 1, tmp_path / "kept") for shard in range(3)]
    assert sum(counts) == len(set(read)) == 24 and min(counts) > 0
    index = build_index(folder, sharded, 1, tmp_path / "kept")
    assert len(read) == 24
    pd.testing.assert_frame_equal(index, build_index(folder, definition, 1))
    with pytest.raises(DataError, match="no shard 3: index_shards is 3"):
        index_shard(folder, sharded, 3, 1, tmp_path / "kept")


def test_batches_leave_no_trace(folder, definition, tmp_path, monkeypatch):
    whole = build_index(folder, definition, 1)
    monkeypatch.setattr("dvfl.data.index.ROWS_AT_ONCE", 7)
    monkeypatch.setattr(readings, "CHUNK", 2)
    monkeypatch.setattr(readings, "QUEUE", 9)
    pd.testing.assert_frame_equal(build_index(folder, definition, 2), whole)


def test_killed_without_a_warning_it_goes_on(folder, definition, tmp_path, read):
    """kill -9 at the tenth clip, in a process of its own."""
    script = f"""
import os, signal
from pathlib import Path
from dvfl.config import DatasetDefinition
from dvfl.data import readings
from dvfl.data.index import build_index
really, seen = readings.read_clip, []
def read(root, clip):
    if len(seen) == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    seen.append(clip)
    return really(root, clip)
readings.read_clip = read
definition = DatasetDefinition.model_validate({definition.model_dump(mode="json")!r})
build_index(Path({str(folder)!r}), definition, 1, Path({str(tmp_path / "kept")!r}))
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    build_index(folder, definition, 1, tmp_path / "kept")
    assert len(read) == 24 - 10


def test_a_file_that_is_damaged_or_cannot_be_written_is_named(folder, definition, tmp_path):
    kept = tmp_path / "kept"
    build_index(folder, definition, 1, kept)
    (kept / "0of1.sqlite").write_bytes(b"no database" * 500)
    with pytest.raises(DataError, match=r"0of1\.sqlite: is damaged .*remove it and run the same command again"):
        build_index(folder, definition, 1, kept)
    (kept / "0of1.sqlite").unlink()
    (kept / "0of1.sqlite").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*0of1\.sqlite"):
        build_index(folder, definition, 1, kept)
