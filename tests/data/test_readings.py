"""A clip is read once: not again while it is unchanged, and not again after a kill."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest

from dvfl.data import readings
from dvfl.data.index import build_index


@pytest.fixture
def read(monkeypatch):
    """Names of the clips that were really read, in order."""
    names = []
    really = readings.read_clip
    monkeypatch.setattr(readings, "read_clip", lambda root, clip: names.append(clip) or really(root, clip))
    return names


def test_a_changed_clip_alone_is_read_again(folder, definition, video, tmp_path, read):
    kept = tmp_path / "kept/readings.jsonl"
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
    with (tmp_path / "kept").open("a") as file:
        file.write('\n["run/run_g5_c1.avi", 12')  # a line that the kill cut short
    index = build_index(folder, definition, 1, tmp_path / "kept")
    assert len(read) == len(set(read)) == 24
    pd.testing.assert_frame_equal(index, build_index(folder, definition, 1))


def test_other_files_and_unreadable_ones_are_read_again(folder, definition, tmp_path, read):
    kept = tmp_path / "kept"
    build_index(folder, definition, 1, kept)
    moved = folder.rename(tmp_path / "moved")
    build_index(moved, definition, 1, kept)
    assert len(read) == 48
    lines = kept.read_text().splitlines()
    row = json.loads(lines[1])
    row[2] = readings.NO_DATE
    kept.write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]))
    build_index(moved, definition, 1, kept)
    assert read[48:] == [row[0]]
    os.utime(moved / row[0], (1, 1))
    build_index(moved, definition, 1, kept)
    assert read[49:] == [row[0]]
