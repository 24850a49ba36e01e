"""The class is in the motion and in nothing else; the bytes depend on the config alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from dvfl.config import MotionsConfig
from dvfl.data.motions import CLASSES, MIRROR, Course, pose, render_clip, render_motions
from dvfl.data.reader import probe, read_frames

TINY = MotionsConfig(train_groups=3, test_groups=1, clips_per_group=1, size=32, frames=6)
DRAWS = 400


def hashes(root: Path) -> dict[str, str]:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    render_motions(TINY, root, 1)
    return root


def courses(number=DRAWS):
    return [Course.drawn(np.random.default_rng(k), 0.4) for k in range(number)]


def test_the_layout_is_that_of_ucf101(tiny):
    assert len(CLASSES) == 12
    names = sorted(path.relative_to(tiny).as_posix() for path in tiny.rglob("*.avi"))
    assert len(names) == 12 * 4
    assert names[0] == "clips/Anticlockwise/v_Anticlockwise_g01_c01.avi"
    lists = tiny / "lists"
    classes = (lists / "classInd.txt").read_text().splitlines()
    assert classes[0] == "1 Anticlockwise"
    assert [line.split()[1] for line in classes] == sorted(CLASSES)
    train = (lists / "trainlist01.txt").read_text().splitlines()
    test = (lists / "testlist01.txt").read_text().splitlines()
    assert train[0] == "Anticlockwise/v_Anticlockwise_g01_c01.avi 1"
    assert test[0] == "Anticlockwise/v_Anticlockwise_g04_c01.avi"
    assert (len(train), len(test)) == (36, 12)
    listed = [line.split()[0] for line in train + test]
    assert sorted(listed) == [name.removeprefix("clips/") for name in names]
    assert not list(tiny.rglob(".*"))


def test_the_files_hold_what_was_rendered(tiny):
    path = tiny / "clips/ZoomIn/v_ZoomIn_g02_c01.avi"
    info = probe(path)
    assert (info.frames, info.fps, info.width, info.height) == (6, 25.0, 32, 32)
    error = np.abs(read_frames(path, range(6)).astype(int) - render_clip(TINY, "ZoomIn", 2, 1))
    assert error.mean() < 8


def test_the_bytes_depend_on_the_config_alone(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("dvfl.data.motions.CLIPS_WORTH_A_PROCESS", 10)
    render_motions(TINY, tmp_path, 2)
    assert hashes(tmp_path) == hashes(tiny)
    render_motions(TINY.model_copy(update={"seed": 1}), tmp_path, 1)
    other = hashes(tmp_path)
    assert other.keys() == hashes(tiny).keys()
    assert all(other[name] != value for name, value in hashes(tiny).items() if "clips" in name)


def test_what_is_complete_is_left_alone(tiny, tmp_path, monkeypatch):
    render_motions(TINY, tmp_path, 1)
    rendered = []
    monkeypatch.setattr(
        "dvfl.data.motions.render_clip",
        lambda *clip: rendered.append(clip[1:]) or render_clip(*clip),
    )
    render_motions(TINY, tmp_path, 1)
    assert rendered == []
    (tmp_path / "clips/Up/v_Up_g02_c01.avi").unlink()
    render_motions(TINY, tmp_path, 1)
    assert rendered == [("Up", 2, 1)]
    assert hashes(tmp_path) == hashes(tiny)


def test_a_killed_rendering_goes_on(tiny, tmp_path, monkeypatch):
    rendered = []

    def killed(*clip):
        if len(rendered) == 20:
            raise KeyboardInterrupt
        rendered.append(clip[1:])
        return render_clip(*clip)

    monkeypatch.setattr("dvfl.data.motions.render_clip", killed)
    with pytest.raises(KeyboardInterrupt):
        render_motions(TINY, tmp_path, 1)
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("*.avi"))) == 20
    assert not (tmp_path / "manifest.json").exists()
    render_motions(TINY, tmp_path, 1)
    assert hashes(tmp_path) == hashes(tiny)


def test_clips_of_another_config_do_not_stay(tmp_path):
    render_motions(TINY, tmp_path, 1)
    fewer = TINY.model_copy(update={"test_groups": 1, "train_groups": 3, "frames": 4})
    render_motions(fewer, tmp_path, 1)
    assert probe(tmp_path / "clips/Up/v_Up_g02_c01.avi").frames == 4
    assert len(list(tmp_path.rglob("*.avi"))) == 48


@pytest.mark.parametrize("name", CLASSES)
def test_backwards_a_class_is_its_mirror(name):
    assert MIRROR[MIRROR[name]] == name
    for course in courses(20):
        forwards, mirror = pose(name, course, 16), pose(MIRROR[name], course, 16)
        if name.startswith("Shake"):  # backwards, a shake has another phase
            one, other = course.shake
            moving = (np.pi - one, other) if name == "ShakeHorizontally" else (one, np.pi - other)
            mirror = pose(name, replace(course, shake=moving), 16)
        for part in ("x", "y", "angle", "size"):
            np.testing.assert_allclose(getattr(forwards, part)[::-1], getattr(mirror, part), atol=1e-9)


def test_the_motion_is_large_enough_to_be_seen():
    for course in courses(20):
        left, up = pose("Left", course, 16), pose("Up", course, 16)
        assert 0.3 < left.x[0] - left.x[-1] < 0.55
        assert 0.3 < up.y[0] - up.y[-1] < 0.55
        assert 100 < np.degrees(np.ptp(pose("Clockwise", course, 16).angle)) < 280
        zoom = pose("ZoomIn", course, 16).size
        assert 1.7 < zoom[-1] / zoom[0] < 2.6


def test_a_frame_of_unknown_moment_does_not_tell_the_class():
    """Place, angle and size at a random moment: the same distribution for every class."""
    rng = np.random.default_rng(0)

    def at_random_moments(name):
        poses = [pose(name, course, 16) for course in courses()]
        moments = rng.integers(16, size=len(poses))
        values = [
            (one.x[k], one.y[k], np.cos(one.angle[k]), np.sin(one.angle[k]), np.log(one.size[k]))
            for one, k in zip(poses, moments, strict=True)
        ]
        return np.array(values)

    found = {name: at_random_moments(name) for name in CLASSES}
    pooled = np.concatenate(list(found.values()))
    for name, values in found.items():
        for part in range(values.shape[1]):
            assert ks_2samp(values[:, part], pooled[:, part]).pvalue > 1e-4, (name, part)


@pytest.mark.parametrize(("one", "other"), [("Left", "Right"), ("Clockwise", "Anticlockwise")])
def test_pixels_of_single_frames_do_not_tell_a_class_from_its_mirror(one, other):
    """Pixel means of frames, and where what stands out is, agree within their spread."""
    config = MotionsConfig(size=32, frames=4)

    def statistics(name):
        found = []
        for group in range(80):
            frame = render_clip(config, name, group, 1)[group % 4].astype(float).mean(-1)
            weight = np.abs(frame - np.median(frame)) ** 4
            place = np.indices(frame.shape).reshape(2, -1) @ weight.reshape(-1) / weight.sum()
            found.append((frame.mean(), frame.std(), *place))
        return np.array(found)

    left, right = statistics(one), statistics(other)
    error = np.sqrt((left.var(0) + right.var(0)) / 80)
    assert (np.abs(left.mean(0) - right.mean(0)) < 4 * error).all()
