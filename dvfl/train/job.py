"""One run from its settings to its files: what `dvfl train` does."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dvfl import plan
from dvfl.config import Config, TrainConfig, digest, flatten
from dvfl.data.clips import ClipDataset, iterate_training
from dvfl.data.frame_store import FrameStore
from dvfl.data.index import clips_root, read_index
from dvfl.data.splits import few_clips, read_split
from dvfl.data.transforms import normalise
from dvfl.data.weights import weights_sha256
from dvfl.distill.modulators import ModulatorProjection
from dvfl.distill.targets import CachedTargets, OnlineTargets, check_teacher
from dvfl.distill.task import DistillationTask, SupervisedTask, frozen
from dvfl.distill.teacher_head import initialise_classifier
from dvfl.evaluate.predict import predict_dataset
from dvfl.files import atomic, read_json, required, sha256, write_json
from dvfl.models.plugins import plugin_file
from dvfl.models.pretrained import LoadReport, load_pretrained
from dvfl.models.weights import NetworkDescription, load_into, load_network, read_description, save_weights
from dvfl.plan import Run, RunSettings
from dvfl.progress import Progress
from dvfl.randomness import torch_seeded
from dvfl.track import Tracker, outbox_directory
from dvfl.train.checkpoint import Checkpoint
from dvfl.train.lease import lease
from dvfl.train.lineage import check_lineage, trained_on
from dvfl.train.loop import Recipe, fit, resolve
from dvfl.train.provenance import code_version, package_versions, peak_memory_mb
from dvfl.train.resume import check_resumable, remove_begun, write_begun
from dvfl.train.stopping import asked_to_stop


@dataclass(frozen=True)
class RunData:
    """The clips of a run."""

    index: pd.DataFrame
    split: pd.DataFrame
    root: Path
    classes: list[str]


def load_run_data(config: Config, run: Run) -> RunData:
    index = read_index(required(plan.index_path(run.dataset)))
    split = read_split(required(plan.split_path(run.dataset, run.split)))
    classes = index.drop_duplicates("label").sort_values("label")["class_name"].tolist()
    return RunData(index, split, clips_root(config.dataset_definitions[run.dataset]), classes)


def train_run(config: Config, run: Run, wait: bool = False, resume: Path | None = None) -> None:
    """Trains the run and writes its weights.safetensors, history.csv and run.json.

    Killed at any moment and started again, it goes on after its last finished epoch and ends with the same bytes. A run
    that is there already, made with the same settings and inputs, is left as it is: the writer that was waited for made
    it. With `resume`, the folder of a stopped training, it goes on from there or not at all: CannotResume says what
    changed. Raises LeaseTaken where another process works on the run and `wait` is off, and Stopped after SIGTERM, once
    the checkpoint is written.
    """
    settings, chosen = with_choices(config, run)
    inputs = input_hashes(config, run)
    key = digest([settings.digest, inputs])
    checkpoint = Checkpoint(plan.resume_directory(run, key))
    if resume is not None:
        check_resumable(resume, run, key, settings, inputs)
    rule = "trial" if run.study else "distil" if settings.distill else "train"
    with lease(checkpoint.path.parents[1], wait):
        if _is_there(run, key):
            print(f"{run.name}: is there already, made with the same settings and inputs", file=sys.stderr)
            return
        if made_meanwhile(run, checkpoint.path.parent):
            print(f"{run.name}: was made meanwhile, with the same settings and inputs", file=sys.stderr)
            return
        write_begun(checkpoint, settings, inputs)
        with open_tracker(config, run, key, rule) as tracker:
            _train(config, run, settings, chosen, inputs, checkpoint, tracker)
        keep_for_others(run, checkpoint.path.parent)
        checkpoint.remove()
        remove_begun(checkpoint)


OUTPUTS = ("weights.safetensors", "history.csv", "run.json")


def keep_for_others(run: Run, resume: Path) -> None:
    """Keeps the run's files, as links that take no space, for a job that was queued for the same run meanwhile.

    Snakemake removes a job's outputs when the job starts: one that waited in a cluster's queue, submitted after the
    Snakemake of this one was killed, would find nothing and train again. Outside a pipeline nobody waits.
    """
    if "DVFL_BEGAN" not in os.environ:
        return
    for earlier in resume.parent.glob("*/finished"):
        shutil.rmtree(earlier)
    finished = resume / "finished"
    finished.mkdir(parents=True)
    for name in OUTPUTS:
        _link(run.directory / name, finished / name)


def made_meanwhile(run: Run, resume: Path) -> bool:
    """Puts back what another job has made since the Snakemake began that wants it; says whether there was any."""
    finished, began = resume / "finished", os.environ.get("DVFL_BEGAN")
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


def _is_there(run: Run, key: str) -> bool:
    files = [run.directory / name for name in OUTPUTS]
    return all(file.exists() for file in files) and read_json(files[-1])["key"] == key


def open_tracker(config: Config, run: Run, key: str, rule: str, reopen: bool = False) -> Tracker:
    """The run's tracker; `key` is of its settings and inputs, `rule` the work that is done."""
    commit, dirty = code_version()
    tags = {"rule": rule, "commit": commit, "dirty": dirty, "config_hash": key}
    return Tracker.open(config.tracking, run, outbox_directory(run.directory, key), tags=tags, reopen=reopen)


def with_choices(config: Config, run: Run) -> tuple[RunSettings, dict[str, Any]]:
    """The run's settings, with the values that studies chose for it, and those values by key."""
    own = plan.own_values(config, run)
    values: dict[str, Any] = {}
    for choice in plan.choices_of(config, run):
        values |= {key: value for key, value in read_json(required(choice))["values"].items() if key not in own}
    return plan.run_settings(config, run, values), values


def input_hashes(config: Config, run: Run) -> dict[str, str | None]:
    """sha256 of the files that the run reads. Raises MissingInput or DataError for one that is not there."""
    teacher = plan.teacher_of(config, run)
    network = plan.run_settings(config, run).network
    plugin = plugin_file(network.model)
    given = {key: value for key in ("weights", "start_from") if (value := getattr(network, key))}
    hashes = {key: weights_sha256(config, value) for key, value in given.items()}
    return {
        "index": sha256(required(plan.index_path(run.dataset))),
        "split": sha256(required(plan.split_path(run.dataset, run.split))),
        "teacher_weights": sha256(required(teacher.directory / "weights.safetensors")) if teacher else None,
        "weights": None,
        **hashes,
        **({"plugin": sha256(plugin)} if plugin else {}),
    }


def labelled_clips(data: RunData, settings: RunSettings) -> list[str] | None:
    """The few labelled clips that the run trains on; None where it trains on all of its subsets."""
    few = settings.network.clips_per_class
    return None if few is None else few_clips(data.index, data.split, few, settings.split_seed, settings.subsets)


def clip_dataset(
    data: RunData, settings: RunSettings, subsets: list[str], clip_ids: list[str] | None = None
) -> ClipDataset:
    """Clips of some subsets, shown as the run's settings say."""
    input = settings.input
    directory = plan.frames_directory(settings.dataset, input)
    store = None
    if directory is not None and input.frame_store is not None:
        store = FrameStore(directory, data.index, input.stored_short_side, input.frame_store.quality)
    return ClipDataset(
        data.index, data.split, data.root, subsets, input, settings.allow_flip, settings.seed, clip_ids, store
    )


def _train(
    config: Config,
    run: Run,
    settings: RunSettings,
    chosen: dict[str, Any] | None,
    inputs: dict[str, str | None],
    checkpoint: Checkpoint,
    tracker: Tracker,
) -> None:
    begin = time.perf_counter()
    torch.set_num_threads(settings.train.threads)
    data = load_run_data(config, run)
    teacher = plan.teacher_of(config, run)
    learned = _learned(config, run, teacher, settings, data.classes, inputs["split"])
    recipe = resolve(settings.train, run.seed, len(data.classes))
    dataset = clip_dataset(data, settings, settings.subsets, labelled_clips(data, settings))
    description = NetworkDescription(
        settings.network.model,
        data.classes,
        settings.input.frames,
        settings.input.img_size,
        settings.network.model_overrides,
        learned,
    )
    with torch_seeded(run.seed, "init"):
        model = description.build()
    description.check(model, alone=_leaves_one_clip(len(dataset), settings.train))
    tracker.params(flatten(settings.model_dump(mode="json")))
    tracker.tags({f"sha256.{name}": value for name, value in inputs.items() if value})
    teacher_top1: float | None = None
    loading = _load_given(config, settings, model, data.classes)
    again = plan.tested_anew(config, run)
    if settings.network.weights:
        history: list[dict[str, Any]] = []
    elif again is not None:
        load_into(model, again.directory / "weights.safetensors")
        history = pd.read_csv(again.directory / "history.csv").to_dict("records")
        teacher_top1 = read_json(again.directory / "run.json")["teacher_top1_on_training_clips"]
    else:
        model.to(recipe.device)
        task: SupervisedTask | DistillationTask = SupervisedTask(model)
        if teacher is not None and settings.distill is not None:
            task, teacher_top1 = _distillation(model, teacher, dataset, settings, recipe)
            tracker.metrics({"teacher_top1_on_training_clips": teacher_top1}, step=0)
        history = _fit(config, run, settings, data, task, dataset, recipe, checkpoint, tracker)
    directory = run.directory
    save_weights(directory / "weights.safetensors", model, description)
    _write_history(directory / "history.csv", history)
    commit, dirty = code_version()
    write_json(
        directory / "run.json",
        {
            "name": run.name,
            "directory": str(run),
            **{key: getattr(run, key) for key in ("dataset", "split", "protocol", "arm", "seed", "stage")},
            **{key: getattr(run, key) for key in ("study", "trial")},
            "model": settings.network.model,
            "params": sum(parameter.numel() for parameter in model.parameters()),
            "mlflow_run_id": tracker.run_id,
            "commit": commit,
            "dirty": dirty,
            "settings": settings.model_dump(mode="json"),
            "settings_digest": settings.digest,
            "key": digest([settings.digest, inputs]),
            "inputs": inputs,
            "outputs": {name: sha256(directory / name) for name in ("weights.safetensors", "history.csv")},
            "teacher": str(teacher) if teacher else None,
            "chosen": chosen,
            "versions": package_versions(),
            "device": str(recipe.device),
            "threads": settings.train.threads,
            "precision": str(recipe.precision).removeprefix("torch."),
            "seconds": round(time.perf_counter() - begin, 2),
            "training_seconds": round(sum(row["seconds"] for row in history), 2),
            "cpu_seconds": round(time.process_time(), 2),
            "peak_memory_mb": round(peak_memory_mb(), 1),
            "train_clips": len(dataset),
            "train_groups": len(set(dataset.groups)),
            "teacher_top1_on_training_clips": teacher_top1,
            "loading": loading and loading.as_dict(),
            "reported_epoch": _reported_epoch(settings, history),
        },
    )
    for name in ("run.json", "history.csv"):
        tracker.artifact(directory / name)


def _load_given(config: Config, settings: RunSettings, model: nn.Module, classes: list[str]) -> LoadReport | None:
    """Loads the weights that replace the training or that it starts from, and says what became of them."""
    weights, start_from = settings.network.weights, settings.network.start_from
    given = weights or start_from
    if given is None:
        return None
    named = config.weights_definitions.get(given)
    report = load_pretrained(
        model,
        plan.weights_path(config, given),
        classes=classes,
        layout=named and named.layout,
        complete=weights is not None,
    )
    print(report, file=sys.stderr)
    return report


def _leaves_one_clip(clips: int, train: TrainConfig) -> bool:
    """Whether a micro-batch of an epoch holds a single clip; one that mixes drops the epoch's remainder."""
    return train.batch_size == 1 or (clips % train.batch_size == 1 and not (train.mixup or train.cutmix))


def _learned(
    config: Config, run: Run, teacher: Run | None, settings: RunSettings, classes: list[str], split_sha256: str | None
) -> dict[str, str] | None:
    """The clips that the run's weights will have learned. Refuses weights, given or the teacher's, that leak others."""
    network = settings.network
    given, start = (name and plan.weights_path(config, name) for name in (network.weights, network.start_from))
    taught_by = teacher.directory / "weights.safetensors" if teacher and not given else None
    described = {path: _said_of(path) for path in (given, start, taught_by) if path}
    for path, description in described.items():
        check_lineage(path, description, classes, run, split_sha256, starts=path == start)
    if given:
        return described[given].trained_on if described[given] else None
    return trained_on(run, split_sha256)


def _said_of(weights: Path) -> NetworkDescription | None:
    """What weights say of themselves; other programs' formats say nothing."""
    return read_description(weights) if weights.suffix == ".safetensors" else None


def _distillation(
    student: nn.Module, teacher: Run, dataset: ClipDataset, settings: RunSettings, recipe: Recipe
) -> tuple[DistillationTask, float]:
    """The distillation task, and the teacher's accuracy on the training clips.

    That must be above chance, unless the teacher's head is to be random.
    """
    weights = teacher.directory / "weights.safetensors"
    network, description = load_network(weights)
    assert settings.distill is not None
    trained = settings.distill.teacher_head == "trained"
    if not trained:
        with torch_seeded(settings.seed, "teacher head"):
            initialise_classifier(network, description)
    network = frozen(network.to(recipe.device))
    labels = torch.tensor(dataset.labels)  # a copy: pandas gives an array that may not be written

    def inputs_of(view: int):
        order = list(range(len(dataset)))
        for _, views, _ in iterate_training(
            dataset, order, view, recipe.train.batch_size, drop_last=False, workers=recipe.train.workers
        ):
            yield normalise(views)

    mixing = recipe.train.mixup or recipe.train.cutmix
    if settings.distill.targets == "cached" and settings.input.views and not mixing:
        with Progress("teacher's targets", settings.input.views) as progress:
            views = (inputs_of(view) for view in progress.track(range(settings.input.views)))
            targets = CachedTargets.compute(network, views, recipe.device)
        logits = targets.logits
        accuracy = check_teacher(logits.flatten(0, 1), labels.repeat(len(logits)), str(weights), trained)
        return DistillationTask(student, targets, settings.distill), accuracy
    first = CachedTargets.compute(network, [inputs_of(0)], recipe.device)
    accuracy = check_teacher(first.logits[0], labels, str(weights), trained)
    features: ModulatorProjection | None = None
    if settings.distill.features.weight:
        with torch_seeded(settings.seed, "projectors"):
            features = ModulatorProjection(student, network).to(recipe.device)
    return DistillationTask(student, OnlineTargets(network), settings.distill, features, network), accuracy


def _fit(
    config: Config,
    run: Run,
    settings: RunSettings,
    data: RunData,
    task: SupervisedTask | DistillationTask,
    dataset: ClipDataset,
    recipe: Recipe,
    checkpoint: Checkpoint,
    tracker: Tracker,
) -> list[dict[str, Any]]:
    selecting = settings.train.report_epoch == "best_on_test"
    watched = settings.evaluated_on if selecting else "validation"
    watched_clips = None if watched in settings.subsets else clip_dataset(data, settings, [watched])
    prefix = {"validation": "val"}.get(watched, watched)
    evaluate = plan.evaluation(config, run)

    def validate(model: nn.Module) -> dict[str, float]:
        predictions = predict_dataset(model, watched_clips, evaluate, recipe.device, settings.train.workers)
        return {f"{prefix}_{name}": value for name, value in scores_of(predictions).items()}

    with asked_to_stop() as stop, Progress(run.name, settings.train.epochs) as progress:

        def on_epoch(row: dict[str, Any], epochs: int) -> None:
            shown = {"loss": f"{row['loss']:.3f}", "train top-1": f"{row['train_top1']:.1%}"}
            if f"{prefix}_top1" in row:
                shown[f"{watched} top-1"] = f"{row[f'{prefix}_top1']:.1%}"
            progress.update(row["epoch"], ", ".join(f"{name} {value}" for name, value in shown.items()))
            tracker.metrics({key: value for key, value in row.items() if key != "epoch"}, step=row["epoch"])

        return fit(
            task,
            dataset,
            recipe,
            checkpoint,
            validate=validate if watched_clips is not None else None,
            best_by=f"{prefix}_top1" if selecting else None,
            on_epoch=on_epoch,
            stop=stop,
        )


def _reported_epoch(settings: RunSettings, history: list[dict[str, Any]]) -> int | None:
    """The epoch (from 1) whose weights are the result; None where nothing was trained."""
    if not history or settings.train.report_epoch == "last":
        return int(history[-1]["epoch"]) if history else None
    column = "test_top1" if "test_top1" in history[0] else "val_top1"
    return int(max(history, key=lambda row: row[column])["epoch"])


def scores_of(predictions: pd.DataFrame) -> dict[str, float]:
    """top1 and loss (the mean negative log-probability of the true class)."""
    probabilities = np.array(predictions["probabilities"].tolist())
    labels = predictions["label"].to_numpy()
    true = probabilities[np.arange(len(labels)), labels]
    return {
        "top1": float((probabilities.argmax(1) == labels).mean()),
        "loss": float(-np.log(np.maximum(true, 1e-12)).mean()),
    }


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    with atomic(path) as partial:
        frame = pd.DataFrame(history) if history else pd.DataFrame(columns=["epoch"])
        frame.to_csv(partial, index=False, lineterminator="\n")
