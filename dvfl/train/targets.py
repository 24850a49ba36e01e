"""The teacher's logits for all that a training will show: what `dvfl targets` writes, and checks."""

from __future__ import annotations

import math
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor

from dvfl import plan, stores
from dvfl.config import Config
from dvfl.distill.target_store import HEADER, ROUNDING, UNMIXED, TargetsError, TargetStore
from dvfl.distill.targets import check_teacher
from dvfl.errors import Stopped
from dvfl.files import sha256, write_json
from dvfl.progress import Progress, track
from dvfl.run import Run, RunSettings
from dvfl.train.distributed import ALONE, Processes, run_on_processes
from dvfl.train.inputs import clip_dataset, import_plugins, input_hashes, labelled_clips, load_run_data, with_choices
from dvfl.train.lease import lease
from dvfl.train.loop import resolve
from dvfl.train.provenance import code_version, package_versions
from dvfl.train.stopping import asked_to_stop
from dvfl.train.teacher import Lessons, in_order, load_teacher, target_store

READY = "ready.json"  # in the folder of a store: what was written


def write_targets(config: Config, run: Run, wait: bool = False) -> None:
    """Writes the targets of a run, which all with the same teacher and inputs read; those that are there stay.

    Says first what they will take and from how many runs on they pay. Killed at any moment and started again, it goes
    on with the pass that it was at. Several processes write a share of the passes each. Raises TargetsError where the
    run has no targets that could be stored or the disk cannot hold them, TeacherAtChance, and Stopped after SIGTERM.
    """
    settings, _ = with_choices(config, run)
    _require_targets(run, settings)
    run_on_processes(settings.train, _write, config, run, wait)


def _require_targets(run: Run, settings: RunSettings) -> None:
    if not settings.has_targets:
        raise TargetsError(
            f"{run}: has no targets that could be stored: it learns from labels alone, or keeps the teacher in the "
            f"loop (distill.targets: online, distill.features)"
        )


def _write(processes: Processes, config: Config, run: Run, wait: bool) -> None:
    begin = time.perf_counter()
    import_plugins(config)
    settings, _ = with_choices(config, run)
    with lease(stores.targets_directory(config, run), wait) if processes.first else nullcontext():
        processes.any(False)  # the others wait here until the first has the lease
        processes.take_gpu(settings.train)
        work = _opened(config, run, settings)
        store, lessons = work.store, work.lessons
        if processes.first:
            store.make_room()
        missing = processes.gathered(store.missing() if processes.first else [])
        own = [missing[number] for number in processes.share(len(missing))]
        if processes.first and missing:
            print(_forecast(work, missing, _readers(config, run), processes.count), file=sys.stderr, flush=True)
        steps = sum(lessons.count(name) for name in own)
        with (
            asked_to_stop() as stop,
            Progress("teacher's targets, micro-batches", steps, silent=not processes.first) as progress,
        ):
            done = 0
            for written, name in enumerate(own):
                logits = torch.full((store.clips, store.classes), math.nan)
                for positions, inputs in lessons.inputs(name, range(lessons.count(name))):
                    logits[positions] = lessons.logits(name, inputs).cpu()
                    progress.update(done := done + 1)
                    if stop():
                        raise Stopped(
                            f"asked to end after {written} of {len(own)} passes of the teacher; the same command goes "
                            f"on from there"
                        )
                store.write(name, logits)
                if name == UNMIXED:  # a teacher that knows nothing is found before it looks at all epochs
                    work.check()
        processes.any(False)  # all have written
        if processes.first:
            _say_ready(work, time.perf_counter() - begin)


@dataclass(frozen=True)
class _Work:
    settings: RunSettings
    inputs: dict[str, str | None]  # hashes of the run's files
    weights: str  # the teacher's
    store: TargetStore
    lessons: Lessons

    def check(self) -> float:
        """The teacher's accuracy on the clips, from what is stored."""
        assert self.settings.distill is not None
        labels = torch.tensor(self.lessons.dataset.labels)
        return check_teacher(self.store.of_clips(), labels, self.weights, self.settings.distill.refuses_chance)


def _opened(config: Config, run: Run, settings: RunSettings) -> _Work:
    teacher = plan.teacher_of(config, run)
    assert teacher is not None
    torch.set_num_threads(settings.train.threads)
    data = load_run_data(config, run)
    dataset = clip_dataset(data, settings, settings.subsets, labelled_clips(data, settings))
    recipe = resolve(settings.train, run.seed, len(data.classes))
    weights = (teacher.directory / "weights.safetensors").as_posix()
    inputs = input_hashes(config, run)
    store = target_store(config, run, settings, inputs, dataset, recipe)
    return _Work(settings, inputs, weights, store, Lessons(load_teacher(weights, settings, recipe), dataset, recipe))


def _readers(config: Config, run: Run) -> int:
    return len(stores.target_stores(config).get(stores.targets_directory(config, run), [run]))


def _forecast(work: _Work, missing: list[str], readers: int, processes: int) -> str:
    """What the missing passes take, measured on a micro-batch, and how many runs of so many processes repay it."""
    store, lessons, name = work.store, work.lessons, missing[-1]
    started = time.time() - psutil.Process().create_time()
    begin = time.perf_counter()
    ((positions, inputs),) = lessons.inputs(name, [0])
    made = (time.perf_counter() - begin) / len(positions) / lessons.dataset.together
    for _ in range(2):  # the first warms up
        begin = time.perf_counter()
        lessons.logits(name, inputs).cpu()
        asked = (time.perf_counter() - begin) / len(positions)
    clips = len(missing) * store.clips / processes
    seconds = clips * (made / max(1, lessons.recipe.train.workers) + asked)
    pays = max(2, math.ceil((started + seconds) / (clips * asked)))
    size = (store.bytes_of_pass - HEADER) // (store.clips * store.classes)
    return (
        f"{store.folder}: {len(missing)} passes x {store.clips} clips x {store.classes} classes x {size} bytes = "
        f"{_space(len(missing) * store.bytes_of_pass)}, in about {seconds:.3g} s after {started:.2g} s to start "
        f"({1e3 * asked:.3g} ms of the teacher for a clip, {1e3 * made:.3g} ms to show it); this pays where {pays} "
        f"or more runs read them: here {readers}"
    )


def _say_ready(work: _Work, seconds: float) -> None:
    store, top1 = work.store, work.check()
    error = store.largest_logit() * ROUNDING[store.precision]
    commit, dirty = code_version()
    ready = {
        "folder": store.folder.as_posix(),
        "teacher": work.weights,
        "taught_on": work.settings.taught_on,
        "inputs": {name: work.inputs[name] for name in ("teacher_weights", "index", "split")},
        "clips": store.clips,
        "classes": store.classes,
        "precision": store.precision,
        "bytes": len(store.passes) * store.bytes_of_pass,
        "largest_rounding_error": error,
        "teacher_top1_on_training_clips": top1,
        "seconds": round(seconds, 2),
        "versions": package_versions(),
        "commit": commit,
        "dirty": dirty,
        "files": {store.path(name).name: sha256(store.path(name)) for name in store.passes},
    }
    write_json(store.folder.parent / READY, ready)
    rounding = f", rounded by {error:.2g} at most" if store.precision != "float32" else ""
    print(f"{store.folder}: the teacher is right on {top1:.1%} of the clips{rounding}", file=sys.stderr)


# Logits computed anew on another machine or device differ by the rounding of their arithmetic.
ARITHMETIC = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def verify_targets(config: Config, run: Run, count: int) -> str:
    """Asks the teacher anew for `count` stored samples, drawn at random, and says how they compare.

    Raises TargetsError where one differs by more than rounding, MissingInput where the targets are not all there.
    """
    import_plugins(config)
    settings, _ = with_choices(config, run)
    _require_targets(run, settings)
    ALONE.take_gpu(settings.train)
    work = _opened(config, run, settings)
    store, lessons = work.store, work.lessons
    for name in store.passes:
        store.read(name)
    total = len(store.passes) * store.clips
    drawn = np.random.default_rng().choice(total, min(count, total), replace=False)  # others at each call
    alike, largest = 0, 0.0
    for each in track(drawn.tolist(), len(drawn), "targets asked for anew"):
        name, position = store.passes[each // store.clips], each % store.clips
        stored, fresh = store.read(name)[position], _fresh(lessons, name, position)
        alike += torch.equal(stored, fresh.to(stored.dtype)) or bool(stored.isnan().all() and fresh.isnan().all())
        difference = float(((stored.float() - fresh).abs() / fresh.abs().max()).nan_to_num(0.0).max())
        largest = max(largest, difference)
        arithmetic = ARITHMETIC[torch.float32 if in_order(name) else lessons.recipe.precision]
        if difference > arithmetic + ROUNDING[store.precision] or (stored.isnan() != fresh.isnan()).any():
            raise TargetsError(
                f"{store.path(name)}: the teacher's logits for {lessons.dataset.clip_ids[position]} are others: they "
                f"differ by {difference:.2g} of the largest; delete {store.folder}, then {store.remedy}"
            )
    return (
        f"{alike} of {len(drawn)} samples, out of {total}, are the same to the bit once rounded to {store.precision}; "
        f"the largest difference to what the teacher says is {largest:.2g} of a clip's largest logit"
    )


def _fresh(lessons: Lessons, name: str, position: int) -> Tensor:
    """Logits (C,) of a clip in a pass, float32; NaN where it is not shown."""
    number = lessons.number(name, position)
    if number is None:
        return torch.full((len(lessons.dataset.classes),), math.nan)
    ((positions, inputs),) = lessons.inputs(name, [number])
    return lessons.logits(name, inputs).cpu()[positions.tolist().index(position)]


def _space(size: float) -> str:
    return f"{size / 1e9:,.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1e3:.3g} kB"
