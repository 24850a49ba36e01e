"""How cost grows: time and memory of a network as one size of its input grows, and of index and splits with the clips.

Each point is measured in a process of its own, since a process's peak of memory never falls:

    echo '{"work": "forward", "frames": 8, …}' | python -m dvfl.bench.growth

reads a point's fields as JSON and prints what was measured as the last line. Time is counted in seconds of a processor,
which other work on the machine disturbs least, and of one thread unless asked, since threads that wait count as well.
Memory is what a peak adds to what the process held before: with the network and its input in place, and after a pass of
the smallest size, so that what libraries load is in neither.
"""

from __future__ import annotations

import datetime
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dvfl.profile.latency import Precision, measure_call
from dvfl.profile.machine import cpu_name, package_versions
from dvfl.profile.profile import ProfileError, in_a_fresh_process
from dvfl.progress import track
from dvfl.train.memory import allocate_large_blocks_apart

if TYPE_CHECKING:  # nothing of them in a process that measures a network
    import pandas as pd

    from dvfl.config import DatasetDefinition

FRAMES = (4, 8, 16, 32, 64)
RESOLUTIONS = (112, 160, 224, 288, 336)  # pixels a side
BATCHES = (1, 2, 4, 8, 16)
CLIPS = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)

# The made-up data set: as many classes however many clips, in groups of a few as those of UCF101 are.
CLASSES, IN_A_GROUP = 5, 4
GROUP = r"(?P<group>.+)_n\d+$"

MEASURED = ("cpu_seconds", "seconds", "peak_memory_mb", "peak_memory_increase_mb")


@dataclass(frozen=True)
class Point:
    """One measurement. `work`: forward or step of the network; index or split of `clips` clips."""

    work: str
    model: str = "vfl_net"
    num_classes: int = 101
    frames: int = 8
    img_size: int = 224
    batch: int = 1
    clips: int = 0
    precision: Precision = "bfloat16"
    threads: int = 1
    repeats: int = 3

    def __str__(self) -> str:
        if self.clips:
            return f"{self.work} of {self.clips} clips"
        return f"{self.work} of {self.model}, {self.batch} x {self.frames}x{self.img_size}x{self.img_size}"


@dataclass(frozen=True)
class Series:
    """Points that differ in one size alone: `sizes[i]` of whatever `along` names is that of `points[i]`."""

    along: str
    points: tuple[Point, ...]
    sizes: tuple[int, ...]


def series(base: Point, index_clips: int = CLIPS[-1]) -> list[Series]:
    """What the figure shows; sizes that do not grow are those of `base`.

    index_clips: the most that are written and indexed: a CPU second for every thousand, and 4 kB of disk for each.
    """
    found = []
    for along, field, sizes in (
        ("frames", "frames", FRAMES),
        ("resolution", "img_size", RESOLUTIONS),
        ("batch", "batch", BATCHES),
    ):
        for work in ("forward", "step"):
            points = tuple(replace(base, work=work, **{field: size}) for size in sizes)
            found.append(Series(along, points, sizes))
    for work, most in (("split", CLIPS[-1]), ("index", index_clips)):
        sizes = tuple(size for size in CLIPS if size <= most)
        found.append(Series("clips", tuple(replace(base, work=work, clips=size) for size in sizes), sizes))
    return found


def measure_growth(wanted: list[Series]) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each point of each series, and why points could not be measured, if any.

    A row is the point's fields, along, size, and what `work` found, or NaN. A point of several series is measured once.
    """
    points = list(dict.fromkeys(point for each in wanted for point in each.points))
    found, problems = {}, []
    for point in track(points, len(points), "Points measured"):
        try:
            found[point] = in_a_fresh_process(asdict(point), "dvfl.bench.growth", str(point))
        except ProfileError as problem:  # a large one on a small machine: the others still say something
            found[point] = dict.fromkeys(MEASURED, math.nan)
            problems.append(str(problem))
    rows = [
        asdict(point) | {"along": each.along, "size": size} | found[point]
        for each in wanted
        for point, size in zip(each.points, each.sizes, strict=True)
    ]
    return rows, problems


def circumstances() -> dict[str, str]:
    """The machine, PyTorch's version and the date."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    return {"machine": cpu_name(), **package_versions(["torch"]), "date": now}


def work(point: Point) -> dict[str, float]:
    """Measures a point in this process: medians of seconds and CPU seconds of a pass, and memory in 10^6 bytes."""
    with _PREPARED[point.work](point) as (call, warm_up):
        measured = measure_call(call, repeats=point.repeats if warm_up else 1, warm_up=warm_up)
    times = statistics.median(measured.cpu_seconds), statistics.median(measured.seconds)
    memory = measured.peak_memory / 1e6, measured.peak_memory_increase / 1e6
    return dict(zip(MEASURED, times + memory, strict=True))


# What is timed, and how many passes go before it.
Prepared = Iterator[tuple[Callable[[], Any], int]]


@contextmanager
def forward(point: Point) -> Prepared:
    import torch

    network, clips = _network(point)
    network.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=point.precision == "bfloat16"):
        network(clips[:1, :, :, :32, :32])
        yield lambda: network(clips), 1


@contextmanager
def step(point: Point) -> Prepared:
    """Loss, gradients and SGD with Nesterov momentum, as the paper's training."""
    from dvfl.bench.models import Step

    network, clips = _network(point)
    call = Step(network, clips, point.num_classes, point.precision)
    call.warm_up()
    yield call, 1


def _network(point: Point) -> tuple[Any, Any]:
    """The network with initial weights, and clips (B, T, 3, S, S) of noise."""
    import torch

    from dvfl.models import create_model

    torch.set_num_threads(point.threads)
    torch.manual_seed(0)
    size = {"num_frames": point.frames, "img_size": point.img_size}
    network = create_model(point.model, num_classes=point.num_classes, **size)
    return network, torch.randn(point.batch, point.frames, 3, point.img_size, point.img_size)


@contextmanager
def index(point: Point) -> Prepared:
    """All of it once, in one process: names found, every clip of 4 kB read, decoded and hashed, rows put together."""
    from dvfl.data.index import build_index

    with TemporaryDirectory(prefix="dvfl-growth-") as folder:
        some, root = Path(folder, "some"), Path(folder, "clips")
        write_clips(some, 2 * CLASSES)
        write_clips(root, point.clips)
        build_index(some, _definition(some), workers=1)
        yield lambda: build_index(root, _definition(root), workers=1), 0


@contextmanager
def split(point: Point) -> Prepared:
    """Train, validation and test drawn by group, out of an index in memory."""
    from dvfl.data.splits import make_split

    made_up, definition = made_up_index(point.clips), _definition(Path("clips"))
    make_split(made_up_index(CLIPS[0]), definition, "split1")
    yield lambda: make_split(made_up, definition, "split1"), 1


_PREPARED = {"forward": forward, "step": step, "index": index, "split": split}


def _definition(root: Path) -> DatasetDefinition:
    from dvfl.config import DatasetDefinition

    return DatasetDefinition(kind="folder", root=root, group=GROUP)


def clip_name(number: int) -> tuple[str, str, str]:
    """Class, group and clip id of a clip of the made-up data set."""
    label, within = number % CLASSES, number // CLASSES
    class_name, group = f"c{label}", f"v_c{label}_g{within // IN_A_GROUP:06d}"
    return class_name, group, f"{class_name}/{group}_n{within % IN_A_GROUP}.avi"


def made_up_index(clips: int) -> pd.DataFrame:
    """The index of a data set of `clips` clips, as far as a split reads it."""
    import pandas as pd

    rows = pd.DataFrame([clip_name(number) for number in range(clips)], columns=["class_name", "group", "clip_id"])
    labels = rows["class_name"].str.removeprefix("c").astype("int64")
    return rows.assign(label=labels, status="ok").sort_values("clip_id", ignore_index=True)


def write_clips(root: Path, clips: int) -> None:
    """Copies of one rendered clip of 32 x 32, each with its number behind the end, so that no two are the same file."""
    from dvfl.config import MotionsConfig
    from dvfl.data.motions import encode, render_clip

    config = MotionsConfig(frames=8, size=32)
    root.mkdir(parents=True)
    one = root / "one.avi"
    encode(render_clip(config, "Left", 0, 0), config.fps, one)
    content = one.read_bytes()
    one.unlink()
    for number in range(clips):
        path = root / clip_name(number)[2]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content + number.to_bytes(8, "big"))


if __name__ == "__main__":
    asked = Point(**json.load(sys.stdin))
    if asked.work == "step":
        allocate_large_blocks_apart()  # as a training does, and before PyTorch is imported
    print(json.dumps(work(asked)))
