"""What each step of the pipeline reads, and which config values it uses: a step is done anew when those change."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvfl import networks, paths, plan
from dvfl.config import Config, DatasetDefinition, digest
from dvfl.data.errors import DataError
from dvfl.deploy.packages import ExportError, require_packages
from dvfl.files import explain
from dvfl.models.plugins import plugin_file
from dvfl.run import Run

if TYPE_CHECKING:
    import pandas as pd


def check_data(config: Config, names: Iterable[str] | None = None) -> None:
    """Folders of the user's own, of these data sets or all, looked at before any work starts. Raises DataError."""
    for name in plan.used_datasets(config) if names is None else names:
        place, definition = f"dataset_definitions.{name}", config.dataset_definitions[name]
        if definition.archives is not None:
            _check_folder(f"{place}.archives", definition.archives, "give the folder that holds the archives")
        for which in ("official", "released"):
            folder = definition.lists_folder(which)
            if folder is not None and not definition.fetches_lists(which):
                _check_folder(f"{place}.lists.{which}", folder, "give the folder that holds the lists")
        root = definition.root
        if definition.kind == "motions" or root is None:
            continue
        _check_folder(f"{place}.root", root, "give the folder that holds <class>/<clip>")
        if definition.kind == "folder":
            _check_clips(f"{place}.root", definition)


def _check_folder(key: str, folder: Path, remedy: str) -> None:
    """A folder that a key names. Raises DataError where it is none, or may not be read."""
    try:
        if not folder.is_dir():
            raise DataError(f"{key}: {folder} does not exist or is no folder; {remedy}")
        os.listdir(folder)
    except PermissionError as error:
        raise DataError(f"{key}: {explain(error)}") from error


def _check_clips(key: str, definition: DatasetDefinition) -> None:
    """A folder's clips by their names, which are quickly looked at. Raises DataError where no split can be made."""
    from dvfl.data.index import named_clips
    from dvfl.data.splits import check_drawn

    try:
        clips = named_clips(definition)
        if clips is not None:
            check_drawn(clips, definition)
    except DataError as error:
        raise DataError(f"{key}: {error}") from error
    except PermissionError as error:
        raise DataError(f"{key}: {explain(error)}") from error


def check_features(config: Config) -> None:
    """Networks whose modulators are to be compared, built without weights before any work starts.

    Raises ModulatorsError, or WeightsError for a network that cannot be built.
    """
    compared = set()
    for run in plan.all_runs(config):
        distill, teacher = plan.run_settings(config, run).distill, plan.teacher_of(config, run)
        if teacher is not None and distill is not None and distill.features.weight:
            compared.add((run, teacher))
    if not compared:
        return
    import torch

    from dvfl.distill.modulators import ModulatorProjection
    from dvfl.models.weights import NetworkDescription

    def built(run: Run) -> torch.nn.Module:
        settings = plan.run_settings(config, run)
        network, size = settings.network, settings.input
        # How many classes there are is known when the clips are; modulators do not depend on it.
        return NetworkDescription(
            network.model, ["one", "other"], size.frames, size.img_size, network.model_overrides
        ).build()

    with torch.device("meta"):
        for student, teacher in compared:
            ModulatorProjection(built(student), built(teacher))


def check_weights(config: Config) -> None:
    """Weights that are given by a path: there, or a run's of the config. Raises DataError."""
    searched = (
        trial
        for dataset in config.datasets
        for study in config.ablation.tune
        for trial in plan.tune_corners(config, dataset, study)
    )
    runs = [*((config, run) for run in plan.all_runs(config)), *searched]
    made = {run.directory / "weights.safetensors" for _, run in runs}
    made |= {paths.weights_path(config, name) for name in config.weights_definitions}
    for own, run in runs:
        network, role = plan.run_settings(own, run).network, own.arms[run.arm].network
        for key in ("weights", "start_from"):
            given = getattr(network, key)
            if given is None or given in config.weights_definitions or Path(given) in made or Path(given).is_file():
                continue
            raise DataError(
                f"{role}.{key}: {given} does not exist or is no file; give the path or address (https://…) of weights, "
                f"or a name in weights_definitions"
            )


def check_exported_forms(config: Config) -> None:
    """The packages that make and run them, where the profiles are to time them. Raises ExportError."""
    if config.profile.exported:
        try:
            require_packages()
        except ExportError as error:
            raise ExportError(f"profile.exported: {error}, or set it to []") from None


def check_before_work(config: Config) -> None:
    """What can be told before any job: the user's files, and networks that cannot do what the config asks."""
    check_data(config)
    check_weights(config)
    check_features(config)
    check_exported_forms(config)


def lacking_labels(config: Config, dataset: str, split: str, index: pd.DataFrame, clips: pd.DataFrame) -> list[str]:
    """A line for each `clips_per_class`, among the runs of the tables, that some class of the split does not have."""
    from dvfl.data.splits import few_clips

    wanted: dict[tuple[Any, ...], Run] = {}
    studies = {"", *config.ablation.run, *config.chosen_by}
    for run in plan.all_runs(config):
        if (run.dataset, run.split) == (dataset, split) and run.study in studies:
            settings = plan.run_settings(config, run)
            few = settings.network.clips_per_class
            if few is not None:
                wanted.setdefault((few, settings.split_seed, *settings.subsets), run)
    lines = []
    for (few, seed, *subsets), run in wanted.items():
        try:
            few_clips(index, clips, few, seed, subsets)
        except DataError as error:
            place = f"ablation.studies.{run.study}" if run.study else f"arm {run.arm}"
            lines.append(f"{place}: {error}, or set what asks for it to null")
    return list(dict.fromkeys(lines))


def definition_of(config: Config, dataset: str) -> DatasetDefinition:
    """What the config and the registry say of a data set. Raises DataError for one that they do not know."""
    if dataset not in config.dataset_definitions:
        raise DataError(unknown_dataset(config, dataset))
    return config.dataset_definitions[dataset]


def unknown_dataset(config: Config, dataset: str) -> str:
    used = ", ".join(plan.used_datasets(config))
    known = f"{dataset!r} is not among the config's datasets: {used}"
    return f"{known}; name it under `datasets` in a file given with --config"


def check_targets(config: Config, targets: Iterable[str]) -> None:
    """Raise DataError for a file of a data set that the config does not know."""
    for target in targets:
        found = re.match(r"(?:\./)?results/(?:data|runs)/([^/]+)/", target)
        if found:
            definition_of(config, found[1])


def fetched(config: Config, dataset: str) -> list[str]:
    """What says that the clips are there; nothing for a folder of the user's own."""
    definition = definition_of(config, dataset)
    return [] if definition.kind == "folder" else [f"results/data/{dataset}/fetched.json"]


def index_inputs(config: Config, dataset: str) -> list[str]:
    """What an index is made from: the clips, what several jobs have read of them, and lists that may name classes."""
    definition = definition_of(config, dataset)
    shards = range(definition.index_shards if definition.index_shards > 1 else 0)
    lists = split_inputs(config, dataset, "split1") if definition.kind == "folder" else []
    return fetched(config, dataset) + [str(paths.indexed_path(dataset, shard)) for shard in shards] + lists


def split_inputs(config: Config, dataset: str, split: str) -> list[str]:
    """What a split is made from, beside the index: published lists.

    Those that are fetched with the clips came before the index.
    """
    definition = definition_of(config, dataset)
    which = definition.lists_of(split)
    if which is None:
        return []
    if definition.fetches_lists(which):
        return [f"results/data/{dataset}/released.json"] if which == "released" else []
    folder = definition.lists_folder(which)
    return sorted(str(file) for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def fetched_before(config: Config, dataset: str) -> list[str]:
    """What a data set's last step of fetching waits for: files put there by hand, and shards."""
    from dvfl.data import registry

    definition = definition_of(config, dataset)
    shards = [f"results/data/{dataset}/shards/{shard}.json" for shard in registry.shards(definition)]
    return arrived(config, dataset) + shards


def arrived(config: Config, dataset: str) -> list[str]:
    """What says that the files are there that nobody can fetch without an account."""
    from dvfl.data import registry

    definition = definition_of(config, dataset)
    return [f"results/data/{dataset}/arrived.json"] if registry.comes_by_hand(definition) else []


def fetch_threads(config: Config, dataset: str, cores: int) -> int:
    """Rendering takes all cores; fetching and extracting take one."""
    return cores if definition_of(config, dataset).kind == "motions" else 1


def definition_of_clips(config: Config, dataset: str) -> str:
    """Digest of what decides which clips there are and what the index says of them."""
    definition = definition_of(config, dataset)
    keys = dict.fromkeys(("kind", "root", "group", "min_frames", "motions"), True)
    # Lists of the user's own may say which clips there are; fetched ones are among the archives.
    own = definition.kind == "folder" or (definition.source is not None and definition.source.layout != "class_folders")
    values = _values(definition, keys | ({"lists": {"official"}} if own else {}))
    if definition.fetches_lists("official"):
        values.pop("lists", None)
    if definition.source is not None:
        keys = {"folder", "layout", "archives", "parts", "expected"}
        aside = {"archives": {"__all__": {"urls", "total_size"}}}
        source = definition.source.model_dump(mode="json", include=keys, exclude=aside)
        source["archives"] = [each for each in source["archives"] if each["content"] != "released"]
        values |= source
    return digest(values)


def definition_of_released(config: Config, dataset: str) -> str:
    """Digest of what decides which lists are fetched for split `released`."""
    source = definition_of(config, dataset).source
    archives = [archive for archive in source.archives if archive.content == "released"]
    return digest(
        [str(source.folder), [archive.model_dump(mode="json", exclude={"urls", "total_size"}) for archive in archives]]
    )


def definition_of_split(config: Config, dataset: str) -> str:
    """Digest of what decides a split."""
    keys = dict.fromkeys(("kind", "test_fraction", "validation_fraction", "split_seed", "lists"), True)
    return digest(_values(definition_of(config, dataset), keys))


def _values(definition: DatasetDefinition, keys: dict[str, Any]) -> dict[str, Any]:
    """Some keys of a definition; lists count where there are any."""
    values = definition.model_dump(mode="json", include=keys)
    return values if values.get("lists") else {key: values[key] for key in values if key != "lists"}


def listing(definition: DatasetDefinition) -> str:
    """Digest of the names, sizes and dates of a folder's files: tells that a clip came, went or changed."""
    if definition.kind != "folder":
        return ""
    seen = hashlib.sha256()
    for folder, folders, files in os.walk(definition.root, followlinks=True):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            status = os.stat(path, follow_symlinks=os.path.exists(path))  # a link may lead nowhere
            seen.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return seen.hexdigest()[:16]


def training(config: Config, run: Run) -> dict[str, Any]:
    """Files that a training reads, by name."""
    files: dict[str, Any] = {
        "index": paths.index_path(run.dataset),
        "split": paths.split_path(run.dataset, run.split),
    }
    teacher, choices = plan.teacher_of(config, run), plan.choices_of(config, run)
    network = plan.run_settings(config, run).network
    again = plan.tested_anew(config, run)
    if again is not None:
        files["trained"] = [again.directory / name for name in ("weights.safetensors", "history.csv", "run.json")]
    if stored := frames(config, run):
        files["frames"] = stored
    if teacher is not None:
        files["teacher"] = teacher.directory / "weights.safetensors"
    if choices:
        files["choices"] = choices
    for key in ("weights", "start_from"):
        if (given := getattr(network, key)) is not None:
            files[key] = paths.weights_path(config, given)
    files |= _plugin(network.model)
    return files


def targets(config: Config, run: Run) -> dict[str, Any]:
    """Files that the teacher's targets for a run, and for all with the same inputs, are made from, by name."""
    teacher = plan.teacher_of(config, run)
    assert teacher is not None
    files = training(config, run)
    names = {"index", "split", "frames", "teacher", "choices"}
    return {name: files[name] for name in names & files.keys()} | _plugin(
        plan.run_settings(config, teacher).network.model
    )


def _plugin(model: str) -> dict[str, Path]:
    """The user's own file that registers a model, where there is one."""
    file = plugin_file(model)
    return {} if file is None else {"plugin": file}


def definition_of_weights(config: Config, name: str) -> str:
    """Digest of what decides which file it is."""
    return digest(config.weights_definitions[name].model_dump(mode="json", include={"size", "checksum"}))


def test_settings(config: Config, run: Run) -> list[Any]:
    """What decides how a run's clips are tested."""
    tested = plan.evaluation(config, run)
    return [tested.clips, tested.crops, tested.frames, tested.drop_last]  # the batch leaves no trace


test_settings.__test__ = False  # a function of the library that pytest would take for a test


def frames(config: Config, run: Run) -> list[Path]:
    """What says that the frames of a run's clips are stored; nothing where it decodes them as needed."""
    return paths.frames_written(run.dataset, plan.run_settings(config, run).input)


def scores(config: Config, dataset: str, study: str) -> list[Path]:
    """Scores of all trials of a study."""
    return [run.directory / "scores.json" for run in plan.trial_runs(config, dataset, study)]


def tuning(config: Config, dataset: str, study: str) -> list[Path]:
    """Files that some trial of a search may read: those of each value that it was checked with."""
    files: list[Path] = []
    for of_trial, run in plan.tune_corners(config, dataset, study):
        for read in training(of_trial, run).values():
            files += read if isinstance(read, list) else [read]
    return list(dict.fromkeys(files))


def workers(config: Config, dataset: str, study: str) -> list[Path]:
    """What says that each worker of a search is done."""
    return [paths.worker_path(dataset, study, worker) for worker in range(config.ablation.tune[study].workers)]


def tune_settings(config: Config, dataset: str, study: str) -> str:
    """Digest of what decides a search's trials, but for how many workers run them."""
    tune = config.ablation.tune[study].model_dump(mode="json", exclude={"workers"})
    of_trial, run = plan.tune_corners(config, dataset, study)[0]
    return digest([tune, plan.run_settings(of_trial, run).digest])


PICTURES = ("history", "importance", "slice", "contour", "parallel", "intermediate", "pareto")


def tune_figures(config: Config) -> list[str]:
    """Optuna's pictures of the searches that the tables include; a front where there are two objectives."""
    figures = []
    for study in config.ablation.run_tune:
        left_out = "pareto" if len(config.ablation.tune[study].objectives) == 1 else "intermediate"
        shown = [picture for picture in PICTURES if picture != left_out]
        figures += [f"{dataset}.{study}.{picture}" for dataset in config.datasets for picture in shown]
    return [f"{paths.RESULTS}/figures/tune/{figure}.png" for figure in figures]


def profiled_runs(config: Config) -> dict[str, Run]:
    """Networks of the run's own, profiled at its own size, by the profile's name: the first final run of each."""
    return {each.name: each.run for each in networks.profiled(config).values() if each.run is not None}


def profiled_models(config: Config) -> list[str]:
    """Names of the profiles: paper sizes, then the run's own networks."""
    return [each.name for each in networks.profiled(config).values()]


def profile_inputs(config: Config, name: str) -> list[Path]:
    """The index says how many classes a network of the run's own has, a study what it chose of it.

    A paper size needs neither.
    """
    run = profiled_runs(config).get(name)
    if run is None:
        return [*_plugin(name).values()]
    choices = plan.choices_of(config, run) if networks.network_of(config, run).chosen_by else []
    plugin = _plugin(plan.run_settings(config, run).network.model)
    return [paths.index_path(run.dataset), *choices, *plugin.values()]


def profile_settings(config: Config, name: str) -> str:
    """Digest of what decides a profile."""
    run = profiled_runs(config).get(name)
    exported = ["exported"] if config.profile.exported else []  # what is not asked for leaves no trace
    if run is None:
        keys = {"num_classes", "frames", "img_size", "batch_sizes", "repeats", "precision", *exported}
        return digest(config.profile.model_dump(include=keys))
    settings = plan.run_settings(config, run)
    keys = {"batch_sizes", "repeats_small", "precision", *exported}
    size = settings.input.model_dump(include={"frames", "img_size"})
    return digest([settings.network.model_overrides, size, config.profile.model_dump(include=keys)])


def audit_inputs(config: Config, dataset: str, split: str) -> list[Path]:
    """Files that a split is audited from, beside the published lists."""
    hashes = [paths.fingerprints_path(dataset)] if plan.compares_pictures(config, dataset) else []
    return [paths.index_path(dataset), paths.split_path(dataset, split), *hashes]


def audit_settings(config: Config, dataset: str) -> str:
    """Digest of what decides the findings of a data set's splits."""
    definition = definition_of(config, dataset)
    pictures = config.audit.distance if plan.compares_pictures(config, dataset) else None
    return digest([pictures, definition.model_dump(mode="json", include={"group", "lists"})])


TABLES = ("accuracy", "efficiency", "ablation", "checks", "audit", "audit_classes", "claims", "released_loss")
FIGURES = (
    "accuracy_vs_params",
    "accuracy_vs_gmacs",
    "training_curves",
    "confusion",
    "alpha_temperature",
    "labelled_clips",
    "audit",
    "claims",
    "released_loss",
)


def table_inputs(config: Config) -> list[Path]:
    """Files that the tables are made from."""
    from dvfl.report import inputs

    return list(dict.fromkeys(path for table in TABLES for path in inputs.table_inputs(table, config)))


def protocol_effects_inputs(config: Config) -> list[Path]:
    """Files that the table of the protocols' differences is made from."""
    from dvfl.report import inputs

    return inputs.table_inputs("protocol_effects", config)


def tables_made(config: Config) -> list[str]:
    """Tables made on demand that are there, and so part of all.csv from now on."""
    measured = any(study.differences for study in config.ablation.studies.values())
    table = paths.RESULTS / "tables/protocol_effects.csv"
    return [str(table)] if measured and table.exists() else []


def figure_inputs(config: Config) -> list[Path]:
    """Files that the figures are drawn from, beside the tables."""
    from dvfl.report import inputs

    paths = (path for figure in FIGURES for path in inputs.figure_inputs(figure, config))
    return list(dict.fromkeys(path for path in paths if path.parent != inputs.TABLES))


def report_settings(config: Config) -> str:
    """Digest of what decides which rows and panels there are."""
    keys = {"datasets", "protocol", "seeds", "arms", "ablation", "evaluate", "distill"}
    return digest(config.model_dump(mode="json", include=keys))
