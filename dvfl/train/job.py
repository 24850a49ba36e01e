"""One run from its settings to its files: what `dvfl train` does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dvfl import paths, plan
from dvfl.config import Config, flatten
from dvfl.data.clips import ClipDataset
from dvfl.distill.task import DistillationTask, SupervisedTask
from dvfl.errors import Pruned
from dvfl.evaluate.predict import predict_dataset
from dvfl.files import read_json
from dvfl.models.weights import NetworkDescription, load_into
from dvfl.progress import Progress
from dvfl.randomness import torch_seeded
from dvfl.run import Run, RunSettings
from dvfl.track import Tracker, open_tracker
from dvfl.train.checkpoint import Checkpoint
from dvfl.train.distributed import Processes, run_on_processes
from dvfl.train.finished import is_there, keep_for_others, made_meanwhile, trained_before
from dvfl.train.inputs import (
    RunData,
    clip_dataset,
    import_plugins,
    input_hashes,
    key_of,
    labelled_clips,
    load_run_data,
    with_choices,
)
from dvfl.train.lease import lease
from dvfl.train.loop import Recipe, fit, resolve
from dvfl.train.network import learned_clips, leaves_one_clip, load_given, make_lighter
from dvfl.train.provenance import peak_memory_mb
from dvfl.train.record import Cost, Learned, write_record
from dvfl.train.resume import check_resumable, remove_begun, write_begun
from dvfl.train.stopping import asked_to_stop
from dvfl.train.teacher import distillation, target_store

# What is told of each look at validation: the epoch, and top-1 as a fraction. True ends the training there.
Watch = Callable[[int, float], bool]


def train_run(
    config: Config, run: Run, wait: bool = False, resume: Path | None = None, watch: Watch | None = None
) -> None:
    """Trains the run and writes its weights.safetensors, history.csv and run.json.

    Killed at any moment and started again, it goes on after its last finished epoch and ends with the same bytes. A run
    that is there already, made with the same settings and inputs, is left as it is: the writer that was waited for made
    it. With `resume`, the folder of a stopped training, it goes on from there or not at all: CannotResume says what
    changed. Raises LeaseTaken where another process works on the run and `wait` is off, Stopped after SIGTERM, once the
    checkpoint is written, and Pruned where `watch`, which other processes must be able to unpickle, ended it.
    """
    run_on_processes(with_choices(config, run)[0].train, _train_run, config, run, wait, resume, watch)


def _train_run(
    processes: Processes, config: Config, run: Run, wait: bool, resume: Path | None, watch: Watch | None
) -> None:
    """`train_run` on each process of the job; the first alone holds the lease, writes, tracks and says something."""
    import_plugins(config)
    settings, chosen = with_choices(config, run)
    inputs = input_hashes(config, run)
    key = key_of(settings, inputs)
    checkpoint = Checkpoint(paths.resume_directory(run, key))
    if resume is not None:
        check_resumable(resume, run, key, settings, inputs)
    rule = "trial" if run.study else "distil" if settings.distill else "train"
    with lease(checkpoint.path.parents[1], wait) if processes.first else nullcontext():
        made = _made(run, key, checkpoint) if processes.first else None
        if processes.any(made is not None):  # the others wait here until the first has the lease
            if processes.first:
                print(f"{run.name}: {made}, with the same settings and inputs", file=sys.stderr)
            return
        processes.take_gpu(settings.train)
        if processes.first:
            if checkpoint.path.exists():
                print(f"{run.name}: goes on from where it was stopped", file=sys.stderr)
            write_begun(checkpoint, settings, inputs)
        with open_tracker(config, run, key, rule) if processes.first else nullcontext() as tracker:
            try:
                _train(processes, config, run, settings, chosen, inputs, checkpoint, tracker, watch)
            except Pruned:
                if processes.first:
                    checkpoint.remove()
                    remove_begun(checkpoint)
                raise
        if processes.first:
            keep_for_others(run, checkpoint.path.parent)
            checkpoint.remove()
            remove_begun(checkpoint)


def _made(run: Run, key: str, checkpoint: Checkpoint) -> str | None:
    """How it comes that there is nothing to train; None where there is."""
    if is_there(run, key):
        return "is there already, made"
    return "was made meanwhile" if made_meanwhile(run, checkpoint.path.parent) else None


def _train(
    processes: Processes,
    config: Config,
    run: Run,
    settings: RunSettings,
    chosen: dict[str, Any] | None,
    inputs: dict[str, str | None],
    checkpoint: Checkpoint,
    tracker: Tracker | None,
    watch: Watch | None,
) -> None:
    begin = time.perf_counter()
    torch.set_num_threads(settings.train.threads)
    data = load_run_data(config, run)
    clips = learned_clips(config, run, plan.teacher_of(config, run), settings, data.classes, inputs["split"])
    recipe = resolve(settings.train, run.seed, len(data.classes))
    dataset = clip_dataset(data, settings, settings.subsets, labelled_clips(data, settings))
    network, size = settings.network, settings.input
    description = NetworkDescription(
        network.model, data.classes, size.frames, size.img_size, network.model_overrides, clips
    )
    with torch_seeded(run.seed, "init"):
        model = description.build()
    description.check(model, alone=leaves_one_clip(len(dataset), settings.train))
    if tracker is not None:
        tracker.params(flatten(settings.model_dump(mode="json")))
        tracker.tags({f"sha256.{name}": value for name, value in inputs.items() if value})
    loading = load_given(config, settings, model, data.classes)
    if loading is not None and processes.first:
        print(loading, file=sys.stderr)
    learned = _learn(processes, config, run, settings, inputs, data, model, dataset, recipe, checkpoint, tracker, watch)
    cpu_seconds = processes.summed({"cpu": time.process_time()})["cpu"]
    memory_mb = max(processes.gathered([peak_memory_mb()]))
    if tracker is None:
        return
    write_record(
        config,
        run,
        settings,
        inputs,
        chosen,
        model=model,
        description=description,
        loading=loading,
        dataset=dataset,
        recipe=recipe,
        learned=learned,
        cost=Cost(processes.count, time.perf_counter() - begin, cpu_seconds, memory_mb),
        mlflow_run_id=tracker.run_id,
    )
    for name in ("run.json", "history.csv"):
        tracker.artifact(run.directory / name)


def _learn(
    processes: Processes,
    config: Config,
    run: Run,
    settings: RunSettings,
    inputs: dict[str, str | None],
    data: RunData,
    model: nn.Module,
    dataset: ClipDataset,
    recipe: Recipe,
    checkpoint: Checkpoint,
    tracker: Tracker | None,
    watch: Watch | None,
) -> Learned:
    """Trains or distils the network in place; given weights stay, and what has been learned already is taken."""
    if settings.network.weights:
        return Learned([])
    key, device = key_of(settings, inputs), str(recipe.device)
    before = trained_before(config, run, key, device) if processes.first else None
    if processes.any(before is not None):  # the others write nothing
        return Learned([]) if before is None else _taken(run, model, before, tracker)
    model.to(recipe.device)
    make_lighter(model, settings)
    task: SupervisedTask | DistillationTask = SupervisedTask(model)
    teacher_top1: float | None = None
    targets_from: str | None = None
    teacher = plan.teacher_of(config, run)
    if teacher is not None and settings.distill is not None:
        weights = (teacher.directory / "weights.safetensors").as_posix()
        store = target_store(config, run, settings, inputs, dataset, recipe) if settings.has_targets else None
        task, teacher_top1 = distillation(processes, model, weights, store, dataset, settings, recipe)
        targets_from = task.targets.kind
        if tracker is not None:
            tracker.metrics({"teacher_top1_on_training_clips": teacher_top1}, step=0)
    history = _fit(processes, config, run, settings, data, task, dataset, recipe, checkpoint, tracker, watch)
    return Learned(history, teacher_top1, targets_from)


def _taken(run: Run, model: nn.Module, before: Run, tracker: Tracker | None) -> Learned:
    """What another run has learned, whose weights the model gets."""
    print(f"{run.name}: takes the weights of {before}, which trained the very same", file=sys.stderr)
    load_into(model, before.directory / "weights.safetensors")
    history = pd.read_csv(before.directory / "history.csv").to_dict("records")
    about = read_json(before.directory / "run.json")
    top1 = about["teacher_top1_on_training_clips"]
    if tracker is not None:
        tracker.tags({"taken_from": str(before)})
        if top1 is not None:
            tracker.metrics({"teacher_top1_on_training_clips": top1}, step=0)
        for row in history:
            shown = {key: value for key, value in row.items() if key != "epoch" and not pd.isna(value)}
            tracker.metrics(shown, step=row["epoch"])
    return Learned(history, top1, about["teacher_targets"], str(before))


def _fit(
    processes: Processes,
    config: Config,
    run: Run,
    settings: RunSettings,
    data: RunData,
    task: SupervisedTask | DistillationTask,
    dataset: ClipDataset,
    recipe: Recipe,
    checkpoint: Checkpoint,
    tracker: Tracker | None,
    watch: Watch | None,
) -> list[dict[str, Any]]:
    selecting = settings.train.report_epoch == "best_on_test"
    watched = settings.evaluated_on if selecting else "validation"
    watched_clips = None if watched in settings.subsets else clip_dataset(data, settings, [watched])
    prefix = {"validation": "val"}.get(watched, watched)
    evaluate = plan.evaluation(config, run)

    def validate(model: nn.Module) -> dict[str, float]:
        workers = settings.train.workers
        predictions = predict_dataset(model, watched_clips, evaluate, recipe.device, workers, processes)
        return {f"{prefix}_{name}": value for name, value in scores_of(predictions).items()}

    with asked_to_stop() as stop, Progress(run.name, settings.train.epochs, silent=not processes.first) as progress:

        def on_epoch(row: dict[str, Any], epochs: int) -> None:
            shown = {"loss": f"{row['loss']:.3f}", "train top-1": f"{row['train_top1']:.1%}"}
            if f"{prefix}_top1" in row:
                shown[f"{watched} top-1"] = f"{row[f'{prefix}_top1']:.1%}"
            progress.update(row["epoch"], ", ".join(f"{name} {value}" for name, value in shown.items()))
            if tracker is not None:
                tracker.metrics({key: value for key, value in row.items() if key != "epoch"}, step=row["epoch"])
            looked = watch is not None and f"{prefix}_top1" in row and row["epoch"] < epochs
            if looked and processes.any(processes.first and watch(row["epoch"], row[f"{prefix}_top1"])):
                raise Pruned(f"{run.name}: pruned after epoch {row['epoch']} of {epochs}")

        return fit(
            task,
            dataset,
            recipe,
            checkpoint,
            validate=validate if watched_clips is not None else None,
            best_by=f"{prefix}_top1" if selecting else None,
            processes=processes,
            on_epoch=on_epoch,
            stop=stop,
        )


def scores_of(predictions: pd.DataFrame) -> dict[str, float]:
    """top1 and loss (the mean negative log-probability of the true class)."""
    probabilities = np.array(predictions["probabilities"].tolist())
    labels = predictions["label"].to_numpy()
    true = probabilities[np.arange(len(labels)), labels]
    return {
        "top1": float((probabilities.argmax(1) == labels).mean()),
        "loss": float(-np.log(np.maximum(true, 1e-12)).mean()),
    }
