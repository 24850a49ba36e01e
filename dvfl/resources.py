"""What a job of each rule asks for: the one table of cores, memory and time, which the rules read.

A data set's size and a run's settings scale it, and so does the attempt: a job that was killed for its memory or its
time limit, and is tried again, gets as much again. On one machine cores and memory decide what runs side by side, and
time is not looked at. Profiles say where jobs run, and may replace a number (`set-resources`, `set-threads`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from dvfl import plan
from dvfl.config import Config, DatasetDefinition
from dvfl.run import Run


@dataclass(frozen=True)
class Needs:
    """Of a job's first attempt.

    `cores` are those that it can use on a cluster; on one machine a job that can use more than one takes all.
    `per_1000_clips` are minutes that it takes in addition, on its cores.
    """

    mem_mb: int
    minutes: float
    per_1000_clips: float = 0.0
    cores: int = 1
    gpus: bool = False  # as many as the config asks for


# Minutes are what is safe and not what is likely. Fetching: 2 MB a clip at 25 Mbit/s. Index and fingerprints: 20 clips
# a second and core, of 108 measured on UCF101 for the index. Audit of 240,000 clips: 2.3 GB measured, and from rates at
# 60,000 a quarter of an hour where the processor multiplies bfloat16, three times that where not.
NEEDS = {
    "tracking": Needs(1000, 15),
    "fetch_weights": Needs(1000, 60),
    "fetch_shard": Needs(1000, 60, per_1000_clips=10),
    "fetch": Needs(2000, 60, per_1000_clips=10, cores=4),
    "fetch_released": Needs(500, 30),
    "index_shard": Needs(1000, 15, per_1000_clips=0.2, cores=8),
    "index": Needs(2000, 15, per_1000_clips=0.2, cores=8),
    "split": Needs(1000, 15, per_1000_clips=0.02),
    "frames": Needs(500, 30, per_1000_clips=1, cores=8),
    "fingerprint": Needs(2000, 15, per_1000_clips=0.2, cores=8),
    "audit": Needs(3000, 15, per_1000_clips=0.2),
    "targets": Needs(2000, 30, gpus=True),
    "train": Needs(2000, 30, gpus=True),
    "distil": Needs(2000, 30, gpus=True),
    "trial": Needs(2000, 30, gpus=True),
    "test": Needs(2000, 30, gpus=True),
    "motion_check": Needs(2000, 30),
    "score": Needs(1000, 60),
    "choose": Needs(1000, 10),
    "tune": Needs(2000, 30, gpus=True),
    "tuned": Needs(1000, 15),
    "tune_figure": Needs(1000, 15),
    "profile": Needs(6000, 60, cores=4),
    "profile_larger_batches": Needs(6000, 120, cores=4),
    "benchmark": Needs(6000, 30, cores=4),
    "growth": Needs(9000, 60, cores=4),
    "tables": Needs(2000, 30),
    "figures": Needs(2000, 30),
    "protocol_effects": Needs(2000, 30),
    "released_loss": Needs(1000, 15),
    "report": Needs(2000, 30),
}

UNKNOWN = 300_000  # clips of a data set whose owner does not say: Kinetics-400 has about as many

# Of all that trains and tests: a process that decodes clips holds this much.
MB_A_WORKER = 1500
# Clips that a job trains on in a second, at the paper's 8 frames of 224 x 224; estimated for one GPU, not measured.
CLIPS_A_SECOND = 10
PAPER_PIXELS = 8 * 224 * 224


class Resources:
    """What the rules put under `threads` and `resources`."""

    def __init__(self, config: Config, cores: int | None):
        """`cores`: what --cores gives the one machine that all jobs share; None on a cluster."""
        self.config, self.all_cores = config, cores
        self.machine_cores = None if cores is None else usable_cores(cores)

    def cores(self, rule: str) -> int:
        """Of a job that can use several."""
        return NEEDS[rule].cores if self.machine_cores is None else self.machine_cores

    def measuring_cores(self, rule: str) -> int:
        """Of a job that nothing may run beside; on a cluster the profile asks for a node of its own."""
        return NEEDS[rule].cores if self.all_cores is None else self.all_cores

    def timed_cores(self, threads: int) -> int:
        """Of its threads, those that a measuring job really has."""
        return threads if self.machine_cores is None else usable_cores(threads)

    def training_cores(self, run: Run) -> int:
        """Threads of all its processes; on a cluster, where nobody else lends a core, those that decode as well."""
        train = plan.run_settings(self.config, run).train
        return train.asked_processes * (train.threads + (train.workers if self.machine_cores is None else 0))

    def __call__(
        self, rule: str, runs: Mapping[str, Run] | None = None, wildcard: str = "run"
    ) -> dict[str, Callable[..., int]]:
        """Resources of a rule, each a function of wildcards and attempt. `runs`: by its wildcard, where it has one."""
        needs = NEEDS[rule]

        def run_of(wildcards: Any) -> Run | None:
            return None if runs is None else runs[getattr(wildcards, wildcard)]

        def mem_mb(wildcards: Any, attempt: int, threads: int) -> int:
            run = run_of(wildcards)
            if run is not None:
                return attempt * self._training_mb(run, needs.mem_mb)
            return attempt * (needs.mem_mb + (500 * threads if rule == "frames" else 0))

        def runtime(wildcards: Any, attempt: int) -> int:
            run = run_of(wildcards)
            dataset = getattr(wildcards, "dataset", None) if run is None else run.dataset
            clips = clips_of(self.config.dataset_definitions[dataset]) if dataset and needs.per_1000_clips else 0
            more = 0 if run is None else self._training_minutes(run)
            return attempt * math.ceil(needs.minutes + needs.per_1000_clips * clips / 1000 + more)

        def gpu(wildcards: Any) -> int:
            return plan.run_settings(self.config, run_of(wildcards)).train.asked_gpus

        asked = {"machine_cores": self._machine_cores, "mem_mb": mem_mb, "runtime": runtime}
        return asked | {"gpu": gpu} if needs.gpus else asked

    def tuning(self, rule: str) -> dict[str, Callable[..., int]]:
        """Resources of a worker of a search: those of its largest trial, as long as its share of all of them takes."""
        needs = NEEDS[rule]

        def mem_mb(wildcards: Any, attempt: int) -> int:
            return attempt * max(each._training_mb(run, needs.mem_mb) for each, run in self._trials_of(wildcards))

        def runtime(wildcards: Any, attempt: int) -> int:
            tune = self.config.ablation.tune[wildcards.study]
            longest = max(each._training_minutes(run) for each, run in self._trials_of(wildcards))
            return attempt * math.ceil(needs.minutes + math.ceil(tune.trials / tune.workers) * (longest + 1))

        def gpu(wildcards: Any) -> int:
            return max(plan.run_settings(each.config, run).train.asked_gpus for each, run in self._trials_of(wildcards))

        return {"machine_cores": self._machine_cores, "mem_mb": mem_mb, "runtime": runtime, "gpu": gpu}

    def tuning_cores(self, wildcards: Any) -> int:
        """Threads of the largest trial of a search."""
        return max(each.training_cores(run) for each, run in self._trials_of(wildcards))

    def _trials_of(self, wildcards: Any) -> list[tuple[Resources, Run]]:
        corners = plan.tune_corners(self.config, wildcards.dataset, wildcards.study)
        return [(Resources(config, self.all_cores), run) for config, run in corners]

    def _machine_cores(self, wildcards: Any, threads: int) -> int:
        return threads if self.machine_cores is None else min(threads, self.machine_cores)

    def _training_minutes(self, run: Run) -> float:
        """Of all epochs; a test, which looks at each clip a few times, takes less."""
        settings = plan.run_settings(self.config, run)
        clips = clips_of(self.config.dataset_definitions[run.dataset])
        if (few := settings.network.clips_per_class) is not None:
            clips = min(clips, few * 1000)  # no data set here has more classes
        pixels = settings.input.frames * settings.input.img_size**2
        return settings.train.epochs * clips * pixels / PAPER_PIXELS / CLIPS_A_SECOND / 60

    def _training_mb(self, run: Run, each: int) -> int:
        """Of the processes that train, `each`, of those that decode for them, and of the views they keep in memory."""
        settings = plan.run_settings(self.config, run)
        shown, clips = settings.input, clips_of(self.config.dataset_definitions[run.dataset])
        kept = clips * (shown.views or 0) * shown.frames * 3 * shown.img_size**2
        return settings.train.asked_processes * (each + MB_A_WORKER * settings.train.workers + kept // 10**6)


def usable_cores(asked: int | None) -> int:
    """Cores for one job: what was asked for, but no more than this machine lets us use."""
    return max(1, min(asked or 1, len(psutil.Process().cpu_affinity() or [1])))


def clips_of(definition: DatasetDefinition) -> int:
    """About how many clips a data set has, before there is an index: as its owner says, or the files of its folder."""
    if definition.kind == "motions":
        from dvfl.data.motions import CLASSES

        drawn = definition.motions
        return len(CLASSES) * (drawn.train_groups + drawn.test_groups) * drawn.clips_per_group
    if definition.source is not None and definition.source.expected.clips is not None:
        return definition.source.expected.clips
    return UNKNOWN if definition.root is None or definition.kind != "folder" else _files_under(definition.root)


@cache
def _files_under(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root, followlinks=True))
