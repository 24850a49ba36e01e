"""The embedded data set: an object moves over a drifting background, and the motion is the class.

Every object has a way, a turn, a zoom, an orbit and shakes of its own, all of them drawn for a clip
of a group and never for a class: clip c of group g is the same draw for all classes. The class only
decides which of them runs with time; the others stand still at a random moment of theirs. So a
frame whose moment is not known tells nothing about the class: place, angle and size are
distributed alike in all of them. Played backwards, a clip is one of the class's mirror.

The clips are real videos in UCF101's layout: root/clips/<Class>/v_<Class>_g<NN>_c<NN>.avi, lists in
root/lists. A group is one appearance, shared by all classes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np

from dvfl.config import MotionsConfig
from dvfl.files import atomic
from dvfl.progress import track
from dvfl.randomness import generator

MIRROR = {
    "Left": "Right",
    "Right": "Left",
    "Up": "Down",
    "Down": "Up",
    "Clockwise": "Anticlockwise",
    "Anticlockwise": "Clockwise",
    "ZoomIn": "ZoomOut",
    "ZoomOut": "ZoomIn",
    "ShakeHorizontally": "ShakeHorizontally",
    "ShakeVertically": "ShakeVertically",
    "OrbitClockwise": "OrbitAnticlockwise",
    "OrbitAnticlockwise": "OrbitClockwise",
}
CLASSES = sorted(MIRROR)
RECIPE = 1  # raise it when the same config is to look different
CLIPS_WORTH_A_PROCESS = 100  # fewer are rendered before it has started
SPRITE = 96  # pixels of a sprite's side, several times its size in a frame


# --------------------------------------------------------------------------------------- motions


@dataclass(frozen=True)
class Pose:
    """Where an object is in each frame: arrays (frames,), lengths in frame widths, y downwards."""

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray  # radians, clockwise on the screen
    size: np.ndarray


@dataclass(frozen=True)
class Course:
    """What is drawn for a clip of a group, whatever its class; lengths in frame widths."""

    travel: float  # of the way, along x and along y
    turn: float  # radians
    zoom: float  # largest over smallest size
    radius: float  # of the orbit
    arc: float  # of the orbit, radians
    reach: float  # of a shake, to either side
    periods: float  # of a shake
    size: float  # in the middle of the zoom
    angle: float  # radians, in the middle of the turn
    orbit: float  # radians, in the middle of the arc
    shake: tuple[float, float]  # radians, phases along x and y
    moment: tuple[float, float, float]  # -0.5 .. 0.5: ways along x and y, zoom, where they stand

    @classmethod
    def drawn(cls, rng: np.random.Generator, size: float) -> Course:
        return cls(
            travel=rng.uniform(0.35, 0.45),
            turn=np.radians(rng.uniform(120, 270)),
            zoom=rng.uniform(1.8, 2.5),
            radius=rng.uniform(0.13, 0.18),
            arc=np.radians(rng.uniform(200, 330)),
            reach=rng.uniform(0.09, 0.12),
            periods=rng.uniform(1.5, 3),
            size=size * rng.uniform(0.92, 1.08),
            angle=rng.uniform(0, 2 * np.pi),
            orbit=rng.uniform(0, 2 * np.pi),
            shake=tuple(rng.uniform(0, 2 * np.pi, 2)),
            moment=tuple(rng.uniform(-0.5, 0.5, 3)),
        )


def pose(name: str, course: Course, frames: int) -> Pose:
    """The object's pose in each frame of a clip of class `name`."""
    time = np.linspace(-0.5, 0.5, frames)
    across, along, zoom = (np.full(frames, moment) for moment in course.moment)
    angle, orbit = np.full(frames, course.angle), np.full(frames, course.orbit)
    shake_x, shake_y = (np.full(frames, phase) for phase in course.shake)
    match name:
        case "Left":
            across = -time
        case "Right":
            across = time
        case "Up":
            along = -time
        case "Down":
            along = time
        case "Clockwise":
            angle = angle + course.turn * time
        case "Anticlockwise":
            angle = angle - course.turn * time
        case "ZoomIn":
            zoom = time
        case "ZoomOut":
            zoom = -time
        case "OrbitClockwise":
            orbit = orbit + course.arc * time
        case "OrbitAnticlockwise":
            orbit = orbit - course.arc * time
        case "ShakeHorizontally":
            shake_x = shake_x + 2 * np.pi * course.periods * time
        case "ShakeVertically":
            shake_y = shake_y + 2 * np.pi * course.periods * time
        case _:
            raise ValueError(f"{name!r} is not one of {', '.join(CLASSES)}")
    return Pose(
        x=0.5 + course.travel * across + course.radius * np.cos(orbit) + course.reach * np.sin(shake_x),
        y=0.5 + course.travel * along + course.radius * np.sin(orbit) + course.reach * np.sin(shake_y),
        angle=angle,
        size=course.size * course.zoom**zoom,
    )


# ------------------------------------------------------------------------------------ appearance


@dataclass(frozen=True)
class Appearance:
    """How the clips of a group look."""

    background: np.ndarray  # float32 (size, size, 3), 0..255, opposite edges meet
    target: np.ndarray  # sprite (SPRITE, SPRITE, 4): colour 0..255 and cover 0..1
    target_size: float  # side of the sprite, frame widths
    distractors: list[np.ndarray]  # sprites

    @classmethod
    def drawn(cls, rng: np.random.Generator, size: int) -> Appearance:
        base = rng.uniform(40, 120, 3)
        spots = [_spot(rng, base) for _ in range(rng.integers(0, 3))]
        background = _background(rng, size, base)
        return cls(background, _target(rng, base), rng.uniform(0.4, 0.48), spots)


def _background(rng: np.random.Generator, size: int, base: np.ndarray) -> np.ndarray:
    """Smooth clouds of one colour; all scales are a share of the frame."""
    blur = size * rng.uniform(0.05, 0.1)
    clouds = _blurred(rng.standard_normal((size, size, 3)), (blur, blur, 0), mode="wrap")
    clouds *= rng.uniform(8, 16) / clouds.std()
    return np.float32(np.clip(base + clouds, 0, 255))


def _blurred(noise: np.ndarray, sigma: float | tuple[float, ...], mode: str = "reflect") -> np.ndarray:
    from scipy.ndimage import gaussian_filter  # half a second, and every plan asks this module for its classes

    return gaussian_filter(noise, sigma, mode=mode)


def _target(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """A long, light shape with a dark head, so that it stands out and every angle is seen."""
    u, v = _plane()
    length, width = 0.9, rng.uniform(0.5, 0.65)
    taper = rng.uniform(0.2, 0.7)  # how much thinner the tail is than the head
    half = width * (1 - taper * (0.5 - u / 2))
    power = rng.uniform(2, 6)  # from an ellipse to a box
    cover = _soft((np.abs(u) / length) ** power + (np.abs(v) / half) ** power, 1.0)
    light, dark = base + rng.uniform(90, 140, 3), base * rng.uniform(0, 0.3, 3)
    head = _soft(rng.uniform(0.2, 0.4) - u, 0)[..., None]
    texture = _blurred(rng.standard_normal((SPRITE, SPRITE)), SPRITE * 0.06)
    texture *= rng.uniform(8, 16) / texture.std()
    colour = np.clip(head * dark + (1 - head) * light + texture[..., None], 0, 255)
    return np.float32(np.dstack([colour, cover]))


def _spot(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """A round sprite, darker than the background, less so than the target is lighter."""
    u, v = _plane()
    colour = base * rng.uniform(0.4, 0.9, 3)
    cover = _soft(np.hypot(u, v), 0.85)
    return np.float32(np.dstack([np.broadcast_to(colour, (SPRITE, SPRITE, 3)), cover]))


def _plane() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates -1..1 of a sprite's pixels: u to its head, v to its right side."""
    axis = np.linspace(-1, 1, SPRITE)
    return axis[None, :], axis[:, None]


def _soft(value: np.ndarray, edge: float) -> np.ndarray:
    """1 below the edge, 0 above it, and a slope between, so that outlines do not flicker."""
    return np.clip((edge - value) / 0.16 + 0.5, 0, 1)


# ------------------------------------------------------------------------------------- rendering


def render_clip(config: MotionsConfig, name: str, group: int, clip: int) -> np.ndarray:
    """Frames of one clip, uint8 (frames, size, size, 3): a pure function of its arguments."""
    look = Appearance.drawn(generator(config.seed, "motions", group), config.size)
    rng = generator(config.seed, "motions", group, clip)
    course = Course.drawn(rng, look.target_size)
    time = np.linspace(-0.5, 0.5, config.frames)
    frames = _drifting(look.background, *_slow_path(rng, time, 0.12))
    for spot in look.distractors:
        still = np.full(config.frames, rng.uniform(0.12, 0.2))
        _paste(frames, spot, Pose(*_slow_path(rng, time, 0.15), still * 0, still))
    _paste(frames, look.target, pose(name, course, config.frames))
    frames += rng.uniform(2, 6) * rng.standard_normal(frames.shape, dtype=np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


def _slow_path(rng: np.random.Generator, time: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """A straight way, `most` frame widths at most, from anywhere in any direction."""
    direction, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, most)
    x, y = rng.uniform(0, 1, 2)
    return x + length * np.cos(direction) * time, y + length * np.sin(direction) * time


def _drifting(background: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The background moved by x, y frame widths, float32 (frames, size, size, 3)."""
    size = len(background)
    twice = np.tile(background, (2, 2, 1))
    twice = np.pad(twice, ((0, 1), (0, 1), (0, 0)), mode="wrap")
    frames = np.empty((len(x), *background.shape), np.float32)
    for frame, shift_x, shift_y in zip(frames, -x * size % size, -y * size % size, strict=True):
        left, top = int(shift_x), int(shift_y)
        right, below = np.float32(shift_x - left), np.float32(shift_y - top)
        window = twice[top : top + size + 1, left : left + size + 1]
        rows = window[:-1] + below * (window[1:] - window[:-1])
        frame[:] = rows[:, :-1] + right * (rows[:, 1:] - rows[:, :-1])
    return frames


def _paste(frames: np.ndarray, sprite: np.ndarray, where: Pose) -> None:
    """Lay a sprite over float32 frames (frames, size, size, 3), in place."""
    size = frames.shape[1]
    centres = np.float32((np.arange(size) + 0.5) / size)
    # The nearest copy of the object, on a frame whose opposite edges meet.
    dx = (centres - np.float32(where.x)[:, None] + 0.5) % 1 - 0.5
    dy = (centres - np.float32(where.y)[:, None] + 0.5) % 1 - 0.5
    cos = np.float32(np.cos(where.angle) / where.size)[:, None]
    sin = np.float32(np.sin(where.angle) / where.size)[:, None]
    u = (cos * dx)[:, None, :] + (sin * dy)[:, :, None]  # sprite widths, 0 in its middle
    v = (cos * dy)[:, :, None] - (sin * dx)[:, None, :]
    inside = np.flatnonzero((np.abs(u) < 0.5) & (np.abs(v) < 0.5))
    column = np.minimum((u.reshape(-1)[inside] + 0.5) * SPRITE, SPRITE - 1).astype(np.int64)
    row = np.minimum((v.reshape(-1)[inside] + 0.5) * SPRITE, SPRITE - 1).astype(np.int64)
    texels = sprite[row, column]
    pixels = frames.reshape(-1, 3)
    under = pixels[inside]
    pixels[inside] = under + texels[:, 3:] * (texels[:, :3] - under)


# --------------------------------------------------------------------------------------- writing


def render_motions(config: MotionsConfig, root: Path, workers: int) -> None:
    """Render the data set under `root`, by `workers` processes, which its bytes do not depend on.

    What is there and complete for the same config is left alone, so a call that was killed goes
    on; for another config the clips are removed and rendered anew.
    """
    recipe = {"recipe": RECIPE, **config.model_dump(mode="json")}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    manifest, started = root / "manifest.json", root / "unfinished.json"
    marker = json.dumps({"sha256": digest, **recipe}, indent=2) + "\n"
    clips = [
        (name, group, clip)
        for group in range(1, config.train_groups + config.test_groups + 1)
        for clip in range(1, config.clips_per_group + 1)
        for name in CLASSES
    ]
    missing = [clip for clip in clips if not _path(root, *clip).is_file()]
    if _text(manifest) == marker and not missing:
        return
    if marker not in (_text(manifest), _text(started)):
        for stale in (root / "clips", root / "lists"):
            shutil.rmtree(stale, ignore_errors=True)
        missing = clips
    manifest.unlink(missing_ok=True)
    _write(started, marker)
    for name in CLASSES:
        (root / "clips" / name).mkdir(parents=True, exist_ok=True)
    _for_each(partial(_render_file, config, root), missing, workers)
    _write_lists(config, root / "lists", clips)
    started.replace(manifest)


def _render_file(config: MotionsConfig, root: Path, clip: tuple[str, int, int]) -> None:
    with atomic(_path(root, *clip)) as temporary:
        encode(render_clip(config, *clip), config.fps, temporary)


def encode(frames: np.ndarray, fps: int, path: Path) -> None:
    """Write an AVI of MPEG-4 at high quality, the same bytes for the same frames."""
    options = {"flags": "+bitexact+qscale", "global_quality": str(2 * 118), "g": "8"}
    with av.open(str(path), "w", format="avi", container_options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("mpeg4", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())


def _write_lists(config: MotionsConfig, folder: Path, clips: list[tuple[str, int, int]]) -> None:
    """UCF101's class list, and its first split: the last groups are the test's."""
    number = {name: k for k, name in enumerate(CLASSES, start=1)}
    train, test = [], []
    for name, group, clip in sorted(clips):
        line = f"{name}/{_path(Path(), name, group, clip).name}"
        if group <= config.train_groups:
            train.append(f"{line} {number[name]}")
        else:
            test.append(line)
    _write(folder / "classInd.txt", "".join(f"{k} {name}\n" for name, k in number.items()))
    _write(folder / "trainlist01.txt", "".join(f"{line}\n" for line in train))
    _write(folder / "testlist01.txt", "".join(f"{line}\n" for line in test))


def _path(root: Path, name: str, group: int, clip: int) -> Path:
    return root / "clips" / name / f"v_{name}_g{group:02d}_c{clip:02d}.avi"


def _for_each(work: Callable, items: list, workers: int) -> None:
    label = "Rendering clips"
    workers = min(workers, -(-len(items) // CLIPS_WORTH_A_PROCESS))
    if workers <= 1:
        for _ in track(map(work, items), len(items), label):
            pass
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in track(pool.map(work, items, chunksize=25), len(items), label):
            pass


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)
