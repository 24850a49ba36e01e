"""What a finished training leaves in its folder, and how a job finds what another has made meanwhile.

Snakemake removes a job's outputs when the job starts. One that waited in a cluster's queue, submitted after the
Snakemake of an earlier one was killed, would find nothing and train again what the earlier one has just made.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dvfl import plan
from dvfl.config import Config
from dvfl.files import read_json
from dvfl.run import Run
from dvfl.train.provenance import code_version, package_versions

OUTPUTS = ("weights.safetensors", "history.csv", "run.json")
BEGAN = "DVFL_BEGAN"  # when the Snakemake of this job began, in seconds of Unix time; outside a pipeline nobody waits


def is_there(run: Run, key: str) -> bool:
    """Whether the run is finished, made with the settings and inputs that the key stands for."""
    files = [run.directory / name for name in OUTPUTS]
    return all(file.exists() for file in files) and read_json(files[-1])["key"] == key


def trained_before(config: Config, run: Run, key: str, device: str) -> Run | None:
    """A finished run that this code made of the key's settings and inputs on such a device: with the very weights."""
    tested = plan.tested_anew(config, run)
    others = plan.tried_before(config, run) if tested is None else [tested]
    return next((other for other in others if is_there(other, key) and _would_be_the_same(other, device)), None)


def _would_be_the_same(run: Run, device: str) -> bool:
    """Whether this code, with these packages on such a device, made the run."""
    commit, dirty = code_version()
    now = {"commit": commit, "dirty": dirty, "versions": package_versions(), "device": device}
    about = read_json(run.directory / "run.json")
    return all(about[name] == value for name, value in now.items())


def keep_for_others(run: Run, resume: Path) -> None:
    """Keeps the run's files a second time, as links that take no space, in the folder that jobs of its key share."""
    if BEGAN not in os.environ:
        return
    for earlier in resume.parent.glob("*/finished"):
        shutil.rmtree(earlier)
    finished = resume / "finished"
    finished.mkdir(parents=True)
    for name in OUTPUTS:
        _link(run.directory / name, finished / name)


def made_meanwhile(run: Run, resume: Path) -> bool:
    """Puts back what another job has made since the Snakemake began that wants it; says whether there was any."""
    finished, began = resume / "finished", os.environ.get(BEGAN)
    if began is None or not all((finished / name).exists() for name in OUTPUTS):
        return False
    if finished.stat().st_mtime < float(began):  # it is to be made anew
        return False
    run.directory.mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        (run.directory / name).unlink(missing_ok=True)
        _link(finished / name, run.directory / name)
    return True


def _link(source: Path, target: Path) -> None:
    """The same file by another name; a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
