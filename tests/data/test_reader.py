"""The right frames of good clips, and one clear line for each kind of bad one."""

from __future__ import annotations

import pickle
import struct
import wave

import av
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from dvfl.data.errors import UnreadableClip
from dvfl.data.reader import probe, read_frames, scaled_size

KINDS = [
    ("a.avi", {}),
    ("b_frames.avi", {"options": {"bf": "2", "g": "12"}}),
    ("odd.avi", {"height": 47, "width": 63}),
    ("h264.mp4", {"codec": "libx264", "options": {"g": "6"}}),
    ("odd444.mp4", {"codec": "libx264", "pixels": "yuv444p", "height": 47, "width": 63}),
    ("mpeg4.mov", {}),
    ("vp8.webm", {"codec": "libvpx"}),
    (
        "hidden_frames.webm",
        {"codec": "libvpx", "options": {"auto-alt-ref": "1", "arnr-maxframes": "7"}},
    ),
    ("vp9.webm", {"codec": "libvpx-vp9"}),
    ("old.wmv", {"codec": "wmv2"}),
    ("moving.gif", {"codec": "gif", "pixels": "rgb8"}),
    ("matroska.mkv", {}),
    ("portrait.mp4", {"height": 96, "width": 40}),
    ("a name: with colon.avi", {}),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind[0])
def kind(request, video):
    name, options = request.param
    if options.get("codec", "mpeg4") not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {options['codec']}")
    return video(name, **options), options.get("height", 48), options.get("width", 64)


def test_any_container_gives_the_frames_asked_for(kind, numbers):
    path, height, width = kind
    info = probe(path)
    assert (info.frames, info.fps, info.height, info.width) == (20, 25.0, height, width)
    asked = [15, 3, 3, 19, 0, 7]
    frames = read_frames(path, asked)
    assert frames.dtype == np.uint8
    assert frames.shape == (6, height, width, 3)
    assert numbers(frames) == asked


def test_frames_do_not_depend_on_what_else_is_read(kind):
    path, *_ = kind
    whole = read_frames(path, range(20))
    for index in (0, 9, 19):
        assert np.array_equal(read_frames(path, [index])[0], whole[index])


def test_a_single_frame(video, numbers):
    path = video("one.avi", frames=1)
    assert probe(path).frames == 1
    assert numbers(read_frames(path, [0, 0])) == [0, 0]


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (47, 63), (40, 40), (16, 120)])
def test_short_side(video, numbers, shape):
    path = video("clip.avi", height=shape[0], width=shape[1])
    frames = read_frames(path, [2, 11], short_side=36)
    assert frames.shape == (2, *scaled_size(*shape, 36), 3)
    assert min(frames.shape[1:3]) == 36
    assert numbers(frames) == [2, 11]


def test_a_phone_clip_stands_upright(video):
    path = video("phone.mp4", height=48, width=64)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    quarter_turn = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *quarter_turn)
    path.write_bytes(data)
    info = probe(path)
    assert (info.height, info.width) == (64, 48)
    assert read_frames(path, [0], short_side=24).shape == (1, 32, 24, 3)


def test_frames_are_resized_as_the_interpolation_says(tmp_path):
    """FFmpeg's two are nearer to torchvision's of the same name than to its other."""
    path = tmp_path / "noise.avi"
    levels = np.random.default_rng(0).integers(60, 200, (96, 128, 1), np.uint8).repeat(3, axis=2)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv444p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(levels, format="rgb24")))
        file.mux(stream.encode())
    whole = torch.from_numpy(read_frames(path, [0])).permute(0, 3, 1, 2)
    theirs = {
        name: v2.functional.resize(whole, [40], interpolation=v2.InterpolationMode(name), antialias=True).float()
        for name in ("bilinear", "bicubic")
    }
    for name, other in (("bilinear", "bicubic"), ("bicubic", "bilinear")):
        ours = torch.from_numpy(read_frames(path, [0], 40, name)).permute(0, 3, 1, 2).float()
        assert 2 * (ours - theirs[name]).abs().mean() < (ours - theirs[other]).abs().mean()
    assert np.array_equal(read_frames(path, [0], 40), read_frames(path, [0], 40, "bilinear"))


def noise(path, frames=30, **options):
    """A video that does not compress, so that a share of its bytes is a share of its frames."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as file:
        codec = "libvpx" if path.suffix == ".webm" else "mpeg4"
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return path


def truncated(path, share, **options):
    data = noise(path, **options).read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    return path


def folder_named_like_a_clip(path):
    path.mkdir()
    return path


def written(path, content):
    path.write_bytes(content)
    return path


BAD = {
    "missing": (lambda d: d / "none.avi", "does not exist"),
    "empty": (lambda d: written(d / "empty.avi", b""), "is empty"),
    "text": (lambda d: written(d / "text.avi", b"Dear diary,\n" * 99), "cannot be decoded"),
    "playlist": (lambda d: written(d / "x.avi", b"#EXTM3U\nhttp://a/b\n"), "cannot be decoded"),
    "random bytes": (
        lambda d: written(d / "r.mp4", np.random.default_rng(0).bytes(5000)),
        "cannot be decoded",
    ),
    "folder": (lambda d: folder_named_like_a_clip(d / "folder.avi"), "is a folder"),
    "sound": (lambda d: sound(d / "sound.avi"), "has no video stream"),
    "half an avi": (lambda d: truncated(d / "half.avi", 0.5), "breaks off: promises 30 frames"),
    "most of an avi": (lambda d: truncated(d / "most.avi", 0.8), "breaks off"),
    "half a webm": (lambda d: truncated(d / "half.webm", 0.5), "breaks off"),
    "half an mp4": (lambda d: truncated(d / "half.mp4", 0.5), "cannot be decoded"),
    "half an mp4 whose index comes first": (
        lambda d: truncated(d / "fast.mp4", 0.5, movflags="faststart"),
        "breaks off",
    ),
    "header only": (lambda d: truncated(d / "header.avi", 0.02), ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_clip_is_described_in_one_line(name, tmp_path, capfd):
    make, reason = BAD[name]
    path = make(tmp_path)
    with pytest.raises(UnreadableClip) as caught:
        probe(path)
    assert reason in caught.value.reason
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(caught.value.reason) < 100
    assert capfd.readouterr().err == ""


def test_damage_in_the_middle_is_noticed(tmp_path):
    path = noise(tmp_path / "damaged.avi")
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 5, 4 * len(data) // 5)
    data[middle] = bytes(len(data[middle]))
    path.write_bytes(data)
    with pytest.raises(UnreadableClip):
        probe(path)


def test_a_frame_that_is_not_there(video):
    path = video("short.avi", frames=4)
    with pytest.raises(UnreadableClip, match="has 4 frames; frame 9 was asked for"):
        read_frames(path, [0, 9])
    with pytest.raises(ValueError, match="numbered from 0"):
        read_frames(path, [-1])
    with pytest.raises(ValueError, match="at least one"):
        read_frames(path, [])


def test_the_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(UnreadableClip("a.avi", "is empty (0 bytes)")))
    assert str(error) == "a.avi: is empty (0 bytes)"


def test_real_clips(real_clips):
    for path in sorted(real_clips.glob("*/*.avi"))[::40]:
        info = probe(path)
        assert (info.width, info.height) == (320, 240)
        assert 24 < info.fps < 31
        whole = read_frames(path, range(info.frames))
        assert np.array_equal(read_frames(path, [info.frames - 1, 5]), whole[[-1, 5]])


@pytest.mark.parametrize("options", [{}, {"codec": "libx264"}, {"codec": "libvpx"}], ids=["avi", "mp4", "webm"])
def test_decord_gives_the_same_pixels_where_it_reads_in_order(video, options):
    decord = pytest.importorskip("decord", reason="decord has no wheel for this platform")
    container = {"libx264": "mp4", "libvpx": "webm"}.get(options.get("codec"), "avi")
    if options.get("codec", "mpeg4") not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {options['codec']}")
    path = video(f"clip.{container}", **options)
    theirs = decord.VideoReader(str(path), num_threads=1).get_batch(range(20)).asnumpy()
    assert np.abs(theirs.astype(int) - read_frames(path, range(20))).mean() < 0.5
