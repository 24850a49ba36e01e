"""One run from its settings to its files: what `dvfl train` does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dvfl import paths, plan
from dvfl.config import Config, ConfigError, TrainConfig, digest, flatten
from dvfl.data.clips import ClipDataset
from dvfl.data.frame_store import FrameStore
from dvfl.data.index import clips_root, read_index
from dvfl.data.splits import few_clips, read_split
from dvfl.data.weights import weights_sha256
from dvfl.distill.task import DistillationTask, SupervisedTask
from dvfl.errors import Pruned
from dvfl.evaluate.predict import predict_dataset
from dvfl.files import atomic, read_json, required, sha256, write_json
from dvfl.models.plugins import import_plugin, plugin_file
from dvfl.models.pretrained import LoadReport, load_pretrained
from dvfl.models.weights import NetworkDescription, load_into, read_description, save_weights
from dvfl.progress import Progress
from dvfl.randomness import torch_seeded
from dvfl.run import Run, RunSettings
from dvfl.track import Tracker, outbox_directory
from dvfl.train.checkpoint import Checkpoint
from dvfl.train.distributed import Processes, run_on_processes
from dvfl.train.finished import is_there, keep_for_others, made_meanwhile
from dvfl.train.lease import lease
from dvfl.train.lineage import check_lineage, trained_on
from dvfl.train.loop import Recipe, compile_network, fit, resolve
from dvfl.train.provenance import code_version, package_versions, peak_memory_mb
from dvfl.train.resume import check_resumable, remove_begun, write_begun
from dvfl.train.stopping import asked_to_stop
from dvfl.train.teacher import distillation, target_store

# What is told of each look at validation: the epoch, and top-1 as a fraction. True ends the training there.
Watch = Callable[[int, float], bool]


@dataclass(frozen=True)
class RunData:
    """The clips of a run."""

    index: pd.DataFrame
    split: pd.DataFrame
    root: Path
    classes: list[str]


def load_run_data(config: Config, run: Run) -> RunData:
    index = read_index(required(paths.index_path(run.dataset)))
    split = read_split(required(paths.split_path(run.dataset, run.split)))
    classes = index.drop_duplicates("label").sort_values("label")["class_name"].tolist()
    return RunData(index, split, clips_root(config.dataset_definitions[run.dataset]), classes)


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


def key_of(settings: RunSettings, inputs: dict[str, str | None]) -> str:
    """Names what a run computes from what."""
    return digest([settings.digest, inputs])


def import_plugins(config: Config) -> None:
    """The user's models, which a process that was just started does not know yet."""
    for plugin in config.plugins:
        import_plugin(plugin)


def _made(run: Run, key: str, checkpoint: Checkpoint) -> str | None:
    """How it comes that there is nothing to train; None where there is."""
    if is_there(run, key):
        return "is there already, made"
    return "was made meanwhile" if made_meanwhile(run, checkpoint.path.parent) else None


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
        "index": sha256(required(paths.index_path(run.dataset))),
        "split": sha256(required(paths.split_path(run.dataset, run.split))),
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
    directory = paths.frames_directory(settings.dataset, input)
    store = None
    if directory is not None and input.frame_store is not None:
        store = FrameStore(directory, data.index, input.stored_short_side, input.frame_store.quality)
    return ClipDataset(
        data.index, data.split, data.root, subsets, input, settings.allow_flip, settings.seed, clip_ids, store
    )


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
    if tracker is not None:
        tracker.params(flatten(settings.model_dump(mode="json")))
        tracker.tags({f"sha256.{name}": value for name, value in inputs.items() if value})
    teacher_top1: float | None = None
    targets_from: str | None = None
    loading = _load_given(config, settings, model, data.classes)
    if loading is not None and processes.first:
        print(loading, file=sys.stderr)
    again = plan.tested_anew(config, run)
    if settings.network.weights:
        history: list[dict[str, Any]] = []
    elif again is not None:
        load_into(model, again.directory / "weights.safetensors")
        history = pd.read_csv(again.directory / "history.csv").to_dict("records")
        teacher_top1 = read_json(again.directory / "run.json")["teacher_top1_on_training_clips"]
    else:
        model.to(recipe.device)
        make_lighter(model, settings)
        task: SupervisedTask | DistillationTask = SupervisedTask(model)
        if teacher is not None and settings.distill is not None:
            weights = (teacher.directory / "weights.safetensors").as_posix()
            store = target_store(config, run, settings, inputs, dataset) if settings.has_targets else None
            task, teacher_top1 = distillation(processes, model, weights, store, dataset, settings, recipe)
            targets_from = task.targets.kind
            if tracker is not None:
                tracker.metrics({"teacher_top1_on_training_clips": teacher_top1}, step=0)
        history = _fit(processes, config, run, settings, data, task, dataset, recipe, checkpoint, tracker, watch)
    cpu_seconds = processes.summed({"cpu": time.process_time()})["cpu"]
    memory_mb = max(processes.gathered([peak_memory_mb()]))
    if tracker is None:
        return
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
            "key": key_of(settings, inputs),
            "inputs": inputs,
            "outputs": {name: sha256(directory / name) for name in ("weights.safetensors", "history.csv")},
            "teacher": str(teacher) if teacher else None,
            "chosen": chosen,
            "versions": package_versions(),
            "device": str(recipe.device),
            "processes": processes.count,
            "threads": settings.train.threads,
            "precision": str(recipe.precision).removeprefix("torch."),
            "seconds": round(time.perf_counter() - begin, 2),
            "training_seconds": round(sum(row["seconds"] for row in history), 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "peak_memory_mb": round(memory_mb, 1),
            "train_clips": len(dataset),
            "train_groups": len(set(dataset.groups)),
            "teacher_top1_on_training_clips": teacher_top1,
            "teacher_targets": targets_from,
            "loading": loading and loading.as_dict(),
            "reported_epoch": _reported_epoch(settings, history),
        },
    )
    for name in ("run.json", "history.csv"):
        tracker.artifact(directory / name)


def _load_given(config: Config, settings: RunSettings, model: nn.Module, classes: list[str]) -> LoadReport | None:
    """Loads the weights that replace the training or that it starts from; what became of them."""
    weights, start_from = settings.network.weights, settings.network.start_from
    given = weights or start_from
    if given is None:
        return None
    named = config.weights_definitions.get(given)
    report = load_pretrained(
        model,
        paths.weights_path(config, given),
        classes=classes,
        layout=named and named.layout,
        complete=weights is not None,
    )
    return report


def make_lighter(model: nn.Module, settings: RunSettings) -> None:
    """Gradient checkpointing and compilation of a network that is to be trained, where they are asked for.

    Raises ConfigError where they would not do what they say.
    """
    train = settings.train
    if train.gradient_checkpointing:
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            raise ConfigError(
                f"train.gradient_checkpointing: {settings.network.model} has BatchNorm, whose statistics would count "
                f"every clip twice; turn it off"
            )
        try:
            model.set_grad_checkpointing()
        except (AttributeError, AssertionError) as error:
            raise ConfigError(
                f"train.gradient_checkpointing: {settings.network.model} does not know it; turn it off"
            ) from error
    if train.compile:
        if settings.distill is not None and settings.distill.features.weight:
            raise ConfigError(
                "train.compile: modulators cannot be watched in a compiled network; turn it off, or set "
                "distill.features.weight: 0"
            )
        compile_network(model)


def _leaves_one_clip(clips: int, train: TrainConfig) -> bool:
    """Whether a micro-batch of an epoch holds a single clip; one that mixes drops the epoch's remainder."""
    return train.batch_size == 1 or (clips % train.batch_size == 1 and not (train.mixup or train.cutmix))


def _learned(
    config: Config, run: Run, teacher: Run | None, settings: RunSettings, classes: list[str], split_sha256: str | None
) -> dict[str, str] | None:
    """The clips that the run's weights will have learned. Refuses weights, given or the teacher's, that leak others."""
    network = settings.network
    given, start = (name and paths.weights_path(config, name) for name in (network.weights, network.start_from))
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
