"""Which files each table and figure is made from. Light to import: the workflow's rules ask."""

from __future__ import annotations

from pathlib import Path

from dvfl.config import PROJECT, Config, ConfigError
from dvfl.networks import label_of, profiled
from dvfl.paths import (
    RESULTS,
    audit_path,
    index_path,
    motion_check_path,
    profile_path,
    released_loss_path,
    split_path,
    study_directory,
    trials_path,
)
from dvfl.plan import final_runs, motion_checked, trial_runs
from dvfl.run import Run

PUBLISHED = PROJECT / "config/published.csv"
TABLES = RESULTS / "tables"
FIGURES = RESULTS / "figures"

_TABLES_OF_FIGURE = {
    "accuracy_vs_params": ("accuracy", "efficiency"),
    "accuracy_vs_gmacs": ("accuracy", "efficiency"),
    "alpha_temperature": ("ablation",),
    "labelled_clips": ("ablation",),
    "claims": ("claims",),
    "protocol_effects": ("protocol_effects",),
    "growth": ("growth",),
}


def table_inputs(table: str, config: Config) -> list[Path]:
    """Files that a table is built from; of a run, the last one that it writes."""
    return list(dict.fromkeys(_table_inputs(table, config)))


def figure_inputs(figure: str, config: Config) -> list[Path]:
    """Files that a figure is drawn from: tables, or what the runs wrote."""
    if figure in ("audit", "released_loss"):
        return _table_inputs(figure, config)
    if figure in _TABLES_OF_FIGURE:
        tables = [TABLES / f"{table}.csv" for table in _TABLES_OF_FIGURE[figure]]
        chance = [index_path(dataset) for dataset in config.datasets] if "accuracy" in _TABLES_OF_FIGURE[figure] else []
        return tables + chance
    file = {"training_curves": "history.csv", "confusion": "scores.json"}[figure]
    return [run.directory / file for run in final_runs(config)]


def differences_study(config: Config) -> str:
    """The study of the differences between the protocols. Raises ConfigError where the config has none."""
    for name, study in config.ablation.studies.items():
        if study.differences:
            return name
    raise ConfigError(
        "ablation.studies: none measures the differences between the protocols; give one `differences: true`, as "
        "config/config.yaml does"
    )


def profiled_models(config: Config) -> dict[str, list[str]]:
    """Names of the profiles that the tables show, each with the arms that train the network, if any."""
    return {each.name: each.arms for each in profiled(config).values()}


def model_of(config: Config, arm: str) -> str:
    """The network that an arm trains: its model's name, and what sets it apart from the model of that name."""
    return label_of(config, next(run for run in final_runs(config) if run.arm == arm))


def model_of_runs(config: Config, *runs: Run) -> str:
    """The same of runs that are compared: each network once, in their order, joined by ` - `."""
    return " - ".join(dict.fromkeys(label_of(config, run) for run in runs))


def _table_inputs(table: str, config: Config) -> list[Path]:
    if table == "accuracy":
        data = [
            path
            for dataset in config.datasets
            for split in config.dataset_definitions[dataset].splits
            for path in (index_path(dataset), split_path(dataset, split))
        ]
        return data + _run_files(final_runs(config)) + [PUBLISHED]
    if table == "efficiency":
        return [profile_path(name) for name in profiled_models(config)] + [PUBLISHED]
    if table == "ablation":
        paths: list[Path] = []
        for dataset in config.datasets if config.ablation.run else []:
            paths.append(index_path(dataset))
            for study in config.ablation.run_studies:
                paths += _run_files(trial_runs(config, dataset, study))
                if config.ablation.studies[study].evaluate_on == "validation":
                    paths.append(study_directory(dataset, study) / "choice.json")
            paths += [trials_path(dataset, study) for study in config.ablation.run_tune]
        return paths
    if table == "protocol_effects":
        study = differences_study(config)
        runs = [run for dataset in config.datasets for run in trial_runs(config, dataset, study)]
        return [index_path(dataset) for dataset in config.datasets] + _run_files(runs)
    if table == "released_loss":
        return [released_loss_path()]
    if table == "claims":
        return [*_table_inputs("accuracy", config), *_table_inputs("efficiency", config)]
    if table == "checks":
        return [path for run in motion_checked(config) for path in (motion_check_path(run), run.directory / "run.json")]
    if table in ("audit", "audit_classes"):
        return [
            audit_path(dataset, split)
            for dataset in config.datasets
            for split in config.dataset_definitions[dataset].splits
        ]
    raise ValueError(f"there is no table {table!r}")


def _run_files(runs: list[Run]) -> list[Path]:
    # scores.json comes last: run.json and predictions.parquet are there too.
    return [run.directory / "scores.json" for run in runs]
