"""Copies are known by their pictures; other clips, plain ones and those of one source are not taken for copies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from dvfl.audit import pictures
from dvfl.audit.pictures import FRAMES, distances, fingerprint, fingerprint_clips, nearest, stacked
from dvfl.config import AuditConfig, DatasetDefinition
from dvfl.data.index import build_index

LIMIT = AuditConfig().distance


def hashes(*paths, frames=16):
    return np.stack([fingerprint(path, frames) for path in paths])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"add": 40},
        {"left": 0.1, "right": 0.1, "top": 0.1, "bottom": 0.1},
        {"left": 0.08, "right": 0.04, "top": 0.02, "bottom": 0.06, "add": 25},
    ],
)
def test_a_copy_is_known_and_another_clip_is_not(clip, copied, tmp_path, change):
    paths = [clip(f"{seed}.avi", seed) for seed in range(4)]
    copy = copied(paths[2], tmp_path / "copy.mp4", **change)
    found = distances(hashes(copy), hashes(*paths))[0]
    assert found.argmin() == 2 and found[2] <= LIMIT
    assert np.delete(found, 2).min() > LIMIT + 2
    assert np.allclose(distances(hashes(*paths), hashes(copy))[:, 0], found)


def test_a_clip_is_at_no_distance_from_itself(clip):
    one = hashes(clip("a.avi", 1))
    assert distances(one, one)[0, 0] == 0
    shuffled = np.random.default_rng(0).integers(1, 2**63, (200, FRAMES, 25)).astype(np.uint64)
    assert 24 < distances(one, shuffled).mean() < 34  # about half of 64 bits, the best of five ways


def test_plain_clips_are_not_compared(clip, grey):
    found = distances(hashes(grey("a.avi"), clip("b.avi", 1)), hashes(grey("c.avi")))
    assert np.isinf(found).all()


def test_the_nearest_clip_is_of_another_source(clip):
    three = hashes(*(clip(f"{seed}.avi", seed) for seed in (1, 1, 2)))
    sources = np.array(["x", "x", "y"], object)
    found = nearest(three, three, sources, sources)
    assert found["position"].tolist()[:2] == [2, 2] and found["distance"].min() > LIMIT
    apart = np.array(["x", "z", "y"], object)
    assert nearest(three, three, apart, apart)["distance"].tolist()[:2] == [0, 0]
    assert np.isinf(nearest(three, three[:0], sources, sources[:0])["distance"]).all()


def by_counting_bits(one, other, one_source, other_source, limit, cropped):
    """The plain way: every pair, its frames that are plain in neither, every window, bit by bit."""
    best = np.full(len(one), np.inf), np.full(len(one), -1)
    for row, column in np.ndindex(len(one), len(other)):
        a, b = one[row], other[column]
        common = (a[:, 0] != 0) & (b[:, 0] != 0)
        if one_source[row] == other_source[column] or common.sum() < FRAMES / 2:
            continue
        windows = [(0, 0), *(pair for w in range(1, a.shape[1]) for pair in ((0, w), (w, 0)))] if cropped else [(0, 0)]
        distance = min(np.bitwise_count(a[common, v] ^ b[common, w]).sum() / common.sum() for v, w in windows)
        if distance <= limit and distance < best[0][row]:
            best[0][row], best[1][row] = distance, column
    return best


@pytest.mark.parametrize("exact", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cropped", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_is_what_the_plain_comparison_of_all_pairs_finds(monkeypatch, exact, cropped, seed):
    monkeypatch.setattr(pictures, "_exact", lambda: exact)
    monkeypatch.setattr(pictures, "SIDE", 11)
    rng = np.random.default_rng(seed)
    clips = rng.integers(1, 2**63, (40, FRAMES, 3)).astype(np.uint64)
    for copy in range(20, 35):  # of an earlier clip or one of its windows, with up to 24 bits of each frame changed
        shown = clips[rng.integers(20), :, rng.integers(3) if cropped else 0].copy()
        for bit in rng.choice(63, rng.integers(25), replace=False):
            shown ^= np.uint64(1) << np.uint64(bit)
        clips[copy, :, 0] = shown
    clips[36] = clips[35] = clips[3]  # as near as each other: the first counts
    clips[rng.random((40, FRAMES)) < 0.15] = 0  # plain frames
    sources = rng.integers(12, size=40).astype(str).astype(object)
    for limit in (0, 10, 10.3, 32):
        found = nearest(clips[15:], clips[:30], sources[15:], sources[:30], limit, cropped)
        distance, position = by_counting_bits(clips[15:], clips[:30], sources[15:], sources[:30], limit, cropped)
        assert np.allclose(found["distance"], distance, atol=1e-5)
        assert found["position"][np.isfinite(distance)].tolist() == position[np.isfinite(distance)].tolist()
    assert np.isfinite(distance).sum() > 10


def test_fingerprints_are_read_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "SIDE", 3)
    hashes = np.random.default_rng(0).integers(0, 2**64, (8, FRAMES * 25), np.uint64)
    made = pd.DataFrame({"clip_id": list("abcdefgh"), "sha256": "x", "hashes": list(hashes)})
    for clips in (made, made[:0]):
        pictures.write_fingerprints(clips, tmp_path / "f.parquet")
        read = pictures.read_fingerprints(tmp_path / "f.parquet")
        assert list(read) == list(clips) and read["clip_id"].tolist() == clips["clip_id"].tolist()
        assert np.array_equal(stacked(read), stacked(clips))


def test_blocks_leave_no_trace(clip, monkeypatch):
    many = np.random.default_rng(0).integers(1, 2**63, (50, FRAMES, 25)).astype(np.uint64)
    sources = np.arange(50).astype(object)
    whole = nearest(many, many, sources, sources)
    monkeypatch.setattr("dvfl.audit.pictures.SIDE", 7)
    assert nearest(many, many, sources, sources).equals(whole)


def test_processes_leave_no_trace(clip, tmp_path):
    for name in ("run", "sit"):
        for number in range(20):
            clip(f"clips/{name}/{number}.avi", number, frames=8, height=48, width=64)
    root = tmp_path / "clips"
    index = build_index(root, DatasetDefinition(kind="folder", root=root), 1)
    index.loc[0, "status"] = "unreadable"
    one, two = (fingerprint_clips(root, index, workers) for workers in (1, 2))
    assert len(one) == 39 and one["clip_id"].tolist() == two["clip_id"].tolist()
    assert np.array_equal(stacked(one), stacked(two))


def test_what_was_hashed_before_a_kill_is_kept(clip, tmp_path, monkeypatch):
    for name in ("run", "sit"):
        for number in range(3):
            clip(f"clips/{name}/{number}.avi", 10 * (name == "sit") + number, frames=8, height=48, width=64)
    root, kept, hashed = tmp_path / "clips", tmp_path / "kept", []
    index = build_index(root, DatasetDefinition(kind="folder", root=root), 1)

    def killed_at_the_fourth(path, frames):
        if len(hashed) == 3:
            raise KeyboardInterrupt
        hashed.append(path)
        return fingerprint(path, frames)

    monkeypatch.setattr(pictures, "fingerprint", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        fingerprint_clips(root, index, 1, kept)
    monkeypatch.setattr(pictures, "fingerprint", lambda path, frames: hashed.append(path) or fingerprint(path, frames))
    found = fingerprint_clips(root, index, 1, kept)
    assert sorted(hashed) == sorted(root / clip_id for clip_id in index["clip_id"])  # each once
    assert np.array_equal(stacked(found), stacked(fingerprint_clips(root, index, 1)))
    del hashed[:]
    clip("clips/run/0.avi", 77, frames=8, height=48, width=64)  # other bytes, and they alone
    index = build_index(root, DatasetDefinition(kind="folder", root=root), 1)
    again = fingerprint_clips(root, index, 1, kept)
    assert hashed == [root / "run/0.avi"] and not np.array_equal(stacked(again), stacked(found))
    monkeypatch.setattr(pictures, "RECIPE", 2)
    del hashed[:]
    fingerprint_clips(root, index, 1, kept)
    assert len(hashed) == 6


def test_a_long_comparison_shows_how_far_it_is(monkeypatch, capsys):
    many = np.random.default_rng(0).integers(1, 2**63, (20, FRAMES, 25)).astype(np.uint64)
    nearest(many, many, np.arange(20), np.arange(20))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(pictures, "SIDE", 7)
    nearest(many, many, np.arange(20), np.arange(20))
    assert "Comparing pictures: 9 of 9 done" in capsys.readouterr().err
