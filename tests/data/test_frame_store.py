"""A frame from the store is the frame that is decoded, but for JPEG; nothing stale is read, nothing written twice."""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
import time
from collections import namedtuple
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
import yaml
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms import v2

from dvfl import paths
from dvfl.config import InputConfig
from dvfl.data.clips import ClipDataset, iterate_test, iterate_training
from dvfl.data.errors import DataError, UnreadableClip
from dvfl.data.frame_packing import _only_writer, write_store
from dvfl.data.frame_store import FrameStore, packs
from dvfl.data.index import build_index, write_index
from dvfl.data.reader import read_frames
from dvfl.data.splits import make_split
from dvfl.files import MissingInput, OutputError

INPUT = InputConfig(frames=4, img_size=24, short_side=32, views=None, frame_store={"quality": 95})


def small_packs(monkeypatch):
    monkeypatch.setattr("dvfl.data.frame_store.CLIPS", 5)


@pytest.fixture
def index(folder, definition):
    return build_index(folder, definition, 1)


@pytest.fixture
def store(folder, index, tmp_path):
    """Writes a store, and opens it."""

    def build(index=index, input=INPUT, workers=1, place="frames", **options):
        write_store(tmp_path / place, index, folder, input, workers=workers, **options)
        return FrameStore(tmp_path / place, index, input)

    return build


def files(place: Path) -> dict[str, tuple[int, int]]:
    """Packs with what tells that they were written anew."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in place.glob("[!.]*.frames")}


def moving(path: Path, frames: int = 12, height: int = 72, width: int = 96) -> Path:
    """Waves of all colours that move: every frame is another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height, :width] / 24
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25, options={"qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for k in range(frames):
            waves = np.stack([np.sin(x + k / 2), np.cos(y + k / 3), np.sin(x + y + k)], axis=-1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray((127 + 100 * waves).astype(np.uint8), format="rgb24")))
        file.mux(stream.encode())
    return path


def test_frames_are_those_that_are_decoded_but_for_jpeg(folder, definition, store):
    for name in ("run", "jump"):
        moving(folder / name / f"{name}_g9_c0.avi")
    index = build_index(folder, definition, 1)
    held = store(index)
    for clip, k in (("run/run_g9_c0.avi", [11, 0, 5, 5]), ("jump/jump_g9_c0.avi", [3]), ("run/run_g2_c1.avi", [0, 5])):
        stored, decoded = held.read(clip, k), read_frames(folder / clip, k, INPUT.short_side)
        assert stored.shape == decoded.shape and stored.dtype == np.uint8
        error = np.abs(stored.astype(int) - decoded)
        assert error.mean() < 4
    frames = held.read("run/run_g9_c0.avi", range(12)).astype(int)
    decoded = read_frames(folder / "run/run_g9_c0.avi", range(12), INPUT.short_side)
    apart = np.abs(frames[:, None] - decoded[None]).mean(axis=(2, 3, 4))
    assert (apart.argmin(axis=1) == np.arange(12)).all()  # each frame is nearest to itself


def test_a_better_quality_is_nearer_and_larger(folder, definition, store, tmp_path):
    moving(folder / "run/run_g9_c0.avi")
    index = build_index(folder, definition, 1)
    decoded = read_frames(folder / "run/run_g9_c0.avi", range(12), INPUT.short_side).astype(int)
    errors, sizes = [], []
    for quality in (30, 60, 95):
        settings = INPUT.model_copy(update={"frame_store": INPUT.frame_store.model_copy(update={"quality": quality})})
        frames = store(index, settings, place=f"q{quality}").read("run/run_g9_c0.avi", range(12))
        errors.append(np.abs(frames - decoded).mean())
        sizes.append(sum(path.stat().st_size for path in (tmp_path / f"q{quality}").glob("*.frames")))
    assert errors == sorted(errors, reverse=True) and sizes == sorted(sizes) and len(set(sizes)) == 3


def test_a_data_set_shows_frames_of_its_store(folder, definition, index, store, monkeypatch):
    split = make_split(index, definition, "split1")
    live = ClipDataset(index, split, folder, ("train",), INPUT, False, 0)
    stored = ClipDataset(index, split, folder, ("train",), INPUT, False, 0, store=store())
    expected = live.training_view(1, 3).float(), live.test_views(2, 2, 3).float()
    monkeypatch.setattr("dvfl.data.clips.read_frames", None)  # nothing is decoded from here on
    found = stored.training_view(1, 3), stored.test_views(2, 2, 3)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and (one - other).abs().mean() < 3


def test_processes_read_the_same(folder, definition, index, store):
    split = make_split(index, definition, "split1")
    dataset = ClipDataset(index, split, folder, ("train",), INPUT, True, 0, store=store())
    alone, helped = (
        [views for _, views, _ in iterate_training(dataset, range(len(dataset)), 0, 4, workers=workers)]
        for workers in (0, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert next(iterate_test(dataset, 1, 1, 2, workers=2))[1].shape == (2, 1, 4, 3, 24, 24)


def test_another_size_of_input_reads_the_same_store(folder, definition, index, store):
    larger = INPUT.model_copy(update={"frame_store": INPUT.frame_store.model_copy(update={"short_side": 40})})
    held = store(index, larger)
    assert held.read(index["clip_id"][0], [0]).shape[1] == 40
    split = make_split(index, definition, "split1")
    dataset = ClipDataset(index, split, folder, ("train",), larger, True, 0, store=held)
    assert dataset.training_view(0, 0).shape == (4, 3, 24, 24)


def test_frames_that_are_not_there(store, index):
    held = store()
    clip = index["clip_id"][0]
    with pytest.raises(UnreadableClip, match=r"has 6 frames of .*; frame 6 was asked for"):
        held.read(clip, [0, 6])
    for wrong in ([], [-1]):
        with pytest.raises(ValueError, match="numbered from 0"):
            held.read(clip, wrong)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * len(data)]
)
def test_a_damaged_pack_is_named(store, index, tmp_path, damage):
    held = store()
    for path in (tmp_path / "frames").glob("*.frames"):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        UnreadableClip, match=r"\.frames: frames of run/.* cannot be read .*delete it, then `dvfl frames`"
    ):
        held.read(index["clip_id"].max(), [5])


def changed_hash(index):
    return index.assign(sha256=index["sha256"].where(index.index != 3, "0" * 64))


def changed_length(index):
    return index.assign(frames=index["frames"].where(index.index != 3, 5))


@pytest.mark.parametrize("change", [changed_hash, changed_length])
def test_a_store_of_other_clips_is_not_used(store, index, tmp_path, change):
    store()
    with pytest.raises(MissingInput, match=r"1 of 2 packs are not there.*`dvfl frames`"):
        FrameStore(tmp_path / "frames", change(index), INPUT)


@pytest.mark.parametrize(
    ("short_side", "interpolation", "quality"), [(32, "bilinear", 94), (33, "bilinear", 95), (32, "bicubic", 95)]
)
def test_a_store_of_other_settings_is_not_used(store, index, tmp_path, short_side, interpolation, quality):
    store()
    other = INPUT.model_copy(
        update={
            "short_side": short_side,
            "interpolation": interpolation,
            "frame_store": INPUT.frame_store.model_copy(update={"quality": quality}),
        }
    )
    said = f"short side {short_side}, {interpolation}, quality {quality}, .*2 of 2 packs"
    with pytest.raises(MissingInput, match=said):
        FrameStore(tmp_path / "frames", index, other)
    assert paths.frames_directory("mine", other) != paths.frames_directory("mine", INPUT)
    with pytest.raises(MissingInput):
        FrameStore(tmp_path / "nowhere", index, INPUT)


def test_normalising_asks_for_no_other_store(store, index, tmp_path):
    """Frames are kept as bytes of colour, which mean and standard deviation come after."""
    store()
    other = INPUT.model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    assert FrameStore(tmp_path / "frames", index, other).read(index["clip_id"][0], [0]).size
    assert paths.frames_directory("mine", other) == paths.frames_directory("mine", INPUT)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_frames_are_kept_and_shown_as_the_interpolation_says(folder, definition, store, interpolation):
    clip = moving(folder / "run/run_g9_c0.avi")
    index = build_index(folder, definition, 1)
    kept = INPUT.frame_store.model_copy(update={"short_side": 40})
    input = INPUT.model_copy(update={"interpolation": interpolation, "frame_store": kept})
    held = store(index, input)
    decoded = torch.from_numpy(read_frames(clip, [5], 40, interpolation)[0]).permute(2, 0, 1)
    frame = decode_jpeg(encode_jpeg(decoded, 95))
    assert torch.equal(torch.from_numpy(held.read("run/run_g9_c0.avi", [5])[0]).permute(2, 0, 1), frame)

    split = make_split(index, definition, "split1").assign(subset="train")
    dataset = ClipDataset(index, split, folder, ("train",), input, False, 0, store=held)
    first = dataset.test_views(dataset.clip_ids.index("run/run_g9_c0.avi"))[0, 0]
    shown = torch.from_numpy(held.read("run/run_g9_c0.avi", [1])[0]).permute(2, 0, 1)
    smaller = v2.functional.resize(shown, [32], interpolation=v2.InterpolationMode(interpolation), antialias=True)
    assert torch.equal(first, v2.functional.center_crop(smaller, [24, 24]))


def test_what_decides_no_pixel_makes_no_store_stale(store, index, tmp_path):
    store()
    other = index.assign(label=1 - index["label"], group="x", fps=1.0).sample(frac=1, random_state=0)
    assert FrameStore(tmp_path / "frames", other, INPUT).read(index["clip_id"][0], [0]).size


def test_a_clip_that_changed_since_it_was_indexed_is_refused(store, index, folder, video):
    video(f"clips/{index['clip_id'][5]}", frames=7)
    with pytest.raises(UnreadableClip, match=r"has changed since it was indexed: index again"):
        store()


def test_a_changed_clip_costs_its_class_alone(store, index, folder, definition, video, tmp_path):
    store()
    before = files(tmp_path / "frames")
    video("clips/run/run_g0_c0.avi", frames=7)
    changed = build_index(folder, definition, 1)
    assert store(changed).read("run/run_g0_c0.avi", [6]).size
    after = files(tmp_path / "frames")
    assert len(before) == len(after) == 2 and len(before.items() & after.items()) == 1  # the stale pack is gone


def test_what_it_costs_and_gains_is_said_first(store, tmp_path):
    said = []

    def say(text):
        assert not files(tmp_path / "frames")
        said.append(text)

    store(say=say)
    size = sum(path.stat().st_size for path in (tmp_path / "frames").glob("*.frames"))
    assert len(said) == 1
    found = re.match(
        r"24 clips of 144 frames will take about ([\d.]+) MB, at most ([\d.]+) MB .* core hours; "
        r"a core then reads [\d,]+ clips/s for training, where decoding gives [\d,]+: [\d.]+ times as many",
        said[0],
    )
    assert float(found[1]) * 1e6 == pytest.approx(size, rel=0.1) and float(found[1]) <= float(found[2])
    store()  # nothing is left to write, so nothing is measured


def test_a_disk_too_small_is_refused(store, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("dvfl.data.frame_packing.shutil.disk_usage", lambda place: usage(10**9, 10**9, 10**4))
    with pytest.raises(DataError, match=r"0.01 MB free and the frames may take .* MB; nothing was stored; free some"):
        store()
    assert [path.name for path in (tmp_path / "frames").iterdir()] == [".0of1.lock"]


def test_a_disk_that_fills_up_leaves_what_is_whole(store, tmp_path, monkeypatch):
    small_packs(monkeypatch)
    from dvfl.data import frame_store

    encode, coded = frame_store.encode_jpeg, []

    def full(picture, quality):
        coded.append(1)
        if len(coded) > 16 * 6 + 2 * 5 * 6 + 7:  # the sample, two packs, and some of the third
            raise OSError(errno.ENOSPC, "No space left on device")
        return encode(picture, quality)

    monkeypatch.setattr(frame_store, "encode_jpeg", full)
    with pytest.raises(OutputError, match="the disk is full"):
        store()
    there = files(tmp_path / "frames")
    assert len(there) == 2 and not list((tmp_path / "frames").glob(".*.frames"))
    monkeypatch.setattr(frame_store, "encode_jpeg", encode)
    store()
    assert there.items() <= files(tmp_path / "frames").items()


def test_shards_and_processes_leave_no_trace(index, folder, store, tmp_path, monkeypatch):
    small_packs(monkeypatch)
    store(place="whole")
    store(place="helped", workers=2)
    shares = []
    for shard in range(3):
        with pytest.raises(MissingInput):
            FrameStore(tmp_path / "shared", index, INPUT)
        settings = INPUT.model_copy(update={"frame_store": INPUT.frame_store.model_copy(update={"shards": 3})})
        shares.append(write_store(tmp_path / "shared", index, folder, settings, shard)["packs"])
    assert sorted(itertools.chain(*shares)) == sorted(pack.path.name for pack in packs(tmp_path, index, INPUT))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for path in (tmp_path / "whole").glob("*.frames"):
        for other in ("helped", "shared"):
            assert (tmp_path / other / path.name).read_bytes() == path.read_bytes()


def test_two_do_not_write_the_same(store, tmp_path):
    (tmp_path / "frames").mkdir()
    with _only_writer(tmp_path / "frames/.0of1.lock"), pytest.raises(DataError, match="another process stores these"):
        store()
    store()


def test_killed_it_goes_on(empty_project, dvfl_command, tmp_path):
    """Killed after its first pack, with processes at work: they end, and what is there is not written again."""
    root = tmp_path / "many"
    for name, frames in (("blue", 6), ("red", 250), ("tan", 250)):
        for number in range(6):
            moving(root / name / f"{name}_g{number}_c0.avi", frames, 64, 64)
    values = {"input": {"frame_store": {}}, "dataset_definitions": {"colours": {"root": str(root)}}}
    file = empty_project.root / "store.yaml"
    config = empty_project.config(values)
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    write_index(build_index(root, config.dataset_definitions["colours"], 1), paths.index_path("colours"))
    place = Path("results/data/colours/frames/32px_bilinear_q90")
    job = dvfl_command("frames", "colours", "--config", file, "--workers", "2")
    try:
        deadline = time.monotonic() + 120
        while not files(place) and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        children = psutil.Process(job.pid).children(recursive=True)
    finally:
        os.kill(job.pid, signal.SIGKILL)
    job.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert children and not alive
    before = files(place)
    assert 1 <= len(before) < 3 and not list(place.glob("*.json"))
    (place / f".{next(iter(before)).split('.')[0]}.left.frames").write_bytes(b"half")
    again = dvfl_command("frames", "colours", "--config", file)
    said = again.communicate()[1]
    assert again.returncode == 0 and "colours 32px_bilinear_q90: " in said, said
    after = files(place)
    assert len(after) == 3 and before.items() <= after.items()
    assert [path.name for path in place.glob("*.json")] == ["0of1.json"]
    assert not list(place.glob(".*.frames")) and not list(place.glob(".sample*"))
