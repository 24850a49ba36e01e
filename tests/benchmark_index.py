"""How fast, and in how much memory, a large data set is indexed; and that a second time nothing is read.

    python -m tests.benchmark_index --clips 100000 --shards 16 --workers 2

Writes a tree of tiny clips, all of different bytes, indexes it by the jobs that the workflow would run, one process
each, and prints clips/s, the peak memory of the jobs, and how many clips each round read: all of them, none, one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dvfl.config import DatasetDefinition
from dvfl.data.index import build_index, index_shard, write_index
from tests.data.conftest import write_video

CLASSES = 400
ROUNDS = {"first": "all is new", "second": "nothing has changed", "third": "one clip has changed"}


def make_tree(root: Path, clips: int) -> None:
    """root/c<class>/v_g<number>_c01.avi: copies of a handful of clips of 4 kB, each with its number behind its end."""
    kinds = [write_video(root.parent / f"kind{k}.avi", 4 + k, 32, 32).read_bytes() for k in range(5)]
    for label in range(CLASSES):
        (root / f"c{label:03d}").mkdir(parents=True)
    for number in range(clips):
        file = root / f"c{number % CLASSES:03d}" / f"v_g{number:06d}_c01.avi"
        file.write_bytes(kinds[number % len(kinds)] + number.to_bytes(8, "big"))


def job(root: Path, kept: Path, shards: int, shard: int | None, workers: int) -> dict[str, float]:
    """What one job does, with its peak memory and that of its largest child, MB."""
    definition = DatasetDefinition(kind="folder", root=root, group=r"^(?P<group>.+)_c\d+$", index_shards=shards)
    if shard is not None:
        done = index_shard(root, definition, shard, workers, kept)
    else:
        index = build_index(root, definition, workers, kept)
        assert index["status"].eq("ok").all() and index["sha256"].is_unique
        write_index(index, kept.parent / "index.parquet")
        done = len(index)
    peaks = [resource.getrusage(who).ru_maxrss / 1000 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"done": done, "own_mb": peaks[0], "child_mb": peaks[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        folder, shard = Path(options.job["folder"]), options.job["shard"]
        print(json.dumps(job(folder / "clips", folder / "kept", options.shards, shard, options.workers)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tree(folder / "clips", options.clips)
        for which, why in ROUNDS.items():
            if which == "third":
                next((folder / "clips/c000").iterdir()).open("ab").write(b"changed")
            begin, found = time.perf_counter(), []
            for shard in [*range(options.shards), None]:
                about = json.dumps({"folder": name, "shard": shard})
                command = [sys.executable, "-m", "tests.benchmark_index", "--job", about]
                command += ["--shards", str(options.shards), "--workers", str(options.workers)]
                found.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
            seconds = time.perf_counter() - begin
            *shards, whole = found
            print(
                f"{which} time, {why}: {sum(each['done'] for each in shards):.0f} of {whole['done']:.0f} clips read, "
                f"{seconds:.0f} s, {whole['done'] / seconds:.0f} clips/s; peak memory of a shard's job "
                f"{max(each['own_mb'] for each in shards):.0f} MB (a process that reads "
                f"{max(each['child_mb'] for each in shards):.0f} MB), of the index's {whole['own_mb']:.0f} MB"
            )


if __name__ == "__main__":
    main()
