"""Which runs there are, with which settings, and what each depends on.

Final runs train on train and validation and are tested on test; runs of the selection stage train on train alone, and
whatever is chosen is chosen on their validation scores. A study's trial is a run with some dotted keys of its own. Runs
of the pretraining stage give a network its starting weights, from another data set.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvfl.ablate.trials import searched_keys, study_trials, trial_keys
from dvfl.config import (
    Config,
    ConfigError,
    DistillConfig,
    EvaluateConfig,
    NetworkConfig,
    StudyConfig,
    network_train,
    override,
)
from dvfl.paths import study_directory
from dvfl.run import Run, RunSettings, Stage

# ------------------------------------------------------------------------------------------------- which runs there are


def final_runs(config: Config) -> list[Run]:
    """All arms on all splits with all their seeds."""
    return [
        Run(dataset, split, config.protocol, arm, seed)
        for dataset in config.datasets
        for split in config.dataset_definitions[dataset].splits
        for arm in config.arms
        for seed in arm_seeds(config, arm)
    ]


def arm_seeds(config: Config, arm: str) -> list[int]:
    return config.arms[arm].seeds or config.seeds


def trial_runs(config: Config, dataset: str, study: str) -> list[Run]:
    """Runs of a study on a data set's first split.

    A trial whose settings are those of a final run is that run: nothing is trained twice.
    """
    settings = config.ablation.studies[study]
    stage: Stage = "final" if settings.evaluate_on == "test" else "selection"
    splits = config.dataset_definitions[dataset].splits
    runs = []
    for trial, arm, seed in trial_keys(settings):
        run = Run(dataset, splits[0], config.protocol, arm, seed, stage, study, trial)
        of_trial = own_values(config, run).get(f"dataset_definitions.{dataset}.splits", splits)
        run = replace(run, split=of_trial[0])
        arm_itself = Run(dataset, run.split, config.protocol, arm, seed)
        exists = stage == "final" and run.split in splits and seed in arm_seeds(config, arm)
        tested_alike = exists and evaluation(config, run) == evaluation(config, arm_itself)
        runs.append(arm_itself if tested_alike and _trained_alike(config, run, arm_itself) else run)
    return runs


def tested_anew(config: Config, run: Run) -> Run | None:
    """The run before it that trains the very same, so that a trial of protocol differences only tests it; else None."""
    if not run.study or not config.ablation.studies[run.study].differences:
        return None
    for other in trial_runs(config, run.dataset, run.study):
        if other == run:
            break
        alike = (other.arm, other.seed, other.split) == (run.arm, run.seed, run.split)
        if alike and _trained_alike(config, run, other):
            return other
    return None


def tried_before(config: Config, run: Run) -> list[Run]:
    """Trials that a trial's values were chosen among, looked at as it is: one of them may have trained the very same.

    A study of alpha after one of epochs has its trial of alpha 0 among the latter's.
    """
    if run.stage != "selection":
        return []
    grids = (study for study in _chosen_by(config, run) if study in config.ablation.studies)
    trials = (trial for study in grids for trial in trial_runs(config, run.dataset, study))
    return [trial for trial in trials if _looked_at(config, trial) == _looked_at(config, run)]


def _looked_at(config: Config, run: Run) -> tuple[EvaluateConfig, int]:
    """How its validation clips are shown to it while it trains, and how often."""
    return evaluation(config, run), run_settings(config, run).train.validate_every


def _trained_alike(config: Config, one: Run, other: Run) -> bool:
    """Whether two runs train the same, whatever the studies choose."""
    return run_settings(config, one) == run_settings(config, other) and choices_of(config, one) == choices_of(
        config, other
    )


def tune_trial(config: Config, dataset: str, study: str, point: Mapping[str, Any]) -> tuple[Config, Run]:
    """A trial of a study that searches, as a study of that one point: its config, and its run in it."""
    tune = config.ablation.tune[study]
    alone = StudyConfig(arms=[tune.arm], points=[dict(point)], seeds=[tune.seed], set=tune.set)
    ablation = config.ablation.model_copy(
        update={
            "studies": {**config.ablation.studies, study: alone},
            "tune": {name: other for name, other in config.ablation.tune.items() if name != study},
        }
    )
    of_trial = config.model_copy(update={"ablation": ablation})
    (run,) = trial_runs(of_trial, dataset, study)
    return of_trial, run


def tune_corners(config: Config, dataset: str, study: str) -> list[tuple[Config, Run]]:
    """Trials that have each value a search was checked with, one key after the other: what any trial may need."""
    space = config.ablation.tune[study].space
    middle = {key: range.examples[-1] for key, range in space.items()}
    points = [middle | {key: value} for key, range in space.items() for value in range.examples]
    return [tune_trial(config, dataset, study, point) for point in points]


def parse_run(config: Config, directory: str | Path) -> Run:
    """The run whose directory this is; ConfigError where the config has no such run."""
    wanted = Path(directory).resolve()
    for run in all_runs(config):
        if wanted == run.directory.resolve():
            return run
    examples = "\n  ".join(str(run) for run in final_runs(config)[:3])
    raise ConfigError(f"{directory}: the config has no such run; it has, for example\n  {examples}")


def all_runs(config: Config) -> Iterator[Run]:
    """Final runs and trials, each with the teacher and the pretraining that it needs; of searches those alone."""
    seen: set[Run] = set()
    trials = (
        run
        for dataset in config.datasets
        for study in config.ablation.studies
        for run in trial_runs(config, dataset, study)
    )
    needed = itertools.chain(
        ((config, run, [run]) for run in itertools.chain(final_runs(config), trials)),
        # A search's own trials are not known beforehand.
        ((*searched, []) for dataset in config.datasets for searched in _searched(config, dataset)),
    )
    for own, run, itself in needed:
        teacher = teacher_of(own, run)
        for each in (*itself, teacher, pretraining_of(own, run), teacher and pretraining_of(own, teacher)):
            if each is not None and each not in seen:
                seen.add(each)
                yield each


def _searched(config: Config, dataset: str) -> Iterator[tuple[Config, Run]]:
    """Of each search a trial that distils, where any does."""
    for study, tune in config.ablation.tune.items():
        point = {key: range.examples[-1] for key, range in tune.space.items()}
        if "distill.alpha" in point:
            point["distill.alpha"] = max(tune.space["distill.alpha"].examples)
        yield tune_trial(config, dataset, study, point)


def used_datasets(config: Config) -> list[str]:
    """The data sets that are run, then those that networks are only pretrained on."""
    runs = all_runs(config)
    return list(dict.fromkeys([*config.datasets, *(run.dataset for run in runs)]))


# ------------------------------------------------------------------------------------------------ what a run depends on


def own_values(config: Config, run: Run) -> dict[str, Any]:
    """Dotted keys that the run's arm, study and trial, or its pretraining, set themselves."""
    if run.stage == "pretraining":
        role = config.arms[run.arm].network
        return {f"{role}.clips_per_class": None, **getattr(config, role).pretrain.set, f"{role}.pretrain": None}
    values = dict(config.arms[run.arm].set)
    if run.study:
        values |= config.ablation.studies[run.study].set | _trial_values(config, run)
    return values


def _trial_values(config: Config, run: Run) -> dict[str, Any]:
    point = study_trials(config.ablation.studies[run.study])[run.trial]
    return {key.replace("{dataset}", run.dataset): value for key, value in point.items()}


def run_config(config: Config, run: Run, chosen: Mapping[str, Any] | None = None) -> Config:
    """The config with values that studies chose laid over it, and the run's own values over those."""
    alpha = config.distill.alpha_by_dataset.get(run.dataset)
    of_dataset = {} if alpha is None else {"distill.alpha": alpha}
    return override(config, {**of_dataset, **(chosen or {}), **own_values(config, run)})


def evaluation(config: Config, run: Run) -> EvaluateConfig:
    """How the run is tested."""
    values = own_values(config, run)
    return run_config(config, run).evaluate if any(key.startswith("evaluate.") for key in values) else config.evaluate


def run_settings(config: Config, run: Run, chosen: Mapping[str, Any] | None = None) -> RunSettings:
    """The values that decide what the run computes; those that a study `chosen` are known once it has run."""
    own = run_config(config, run, chosen)
    arm = config.arms[run.arm]
    network = getattr(own, arm.network)
    pretraining = pretraining_of(config, run)
    update: dict[str, Any] = {"train": {}, "pretrain": None}  # what they lead to stands elsewhere
    if network.weights:
        update["start_from"] = None
    elif pretraining is not None:
        update["start_from"] = (pretraining.directory / "weights.safetensors").as_posix()
    definition = own.dataset_definitions[run.dataset]
    distilled = arm.distil_from and own.distill.alpha > 0 and run.stage != "pretraining"
    return RunSettings(
        dataset=run.dataset,
        split=run.split,
        stage=run.stage,
        seed=run.seed,
        split_seed=definition.split_seed,
        allow_flip=definition.horizontal_flip,
        network=_network(network, alone=arm.distil_from is None).model_copy(update=update),
        input=own.input,
        train=network_train(own, arm.network),
        distill=_read_of(own.distill) if distilled else None,
    )


def _network(network: NetworkConfig, alone: bool) -> NetworkConfig:
    """The network with its stochastic depth where it is built from, among the overrides."""
    rate = network.drop_path_alone if alone and network.drop_path_alone is not None else network.drop_path
    overrides = network.model_overrides | ({} if rate is None else {"drop_path_rate": rate})
    return network.model_copy(update={"drop_path": None, "drop_path_alone": None, "model_overrides": overrides})


def pretraining_of(config: Config, run: Run) -> Run | None:
    """The run on another data set whose weights this one starts from: one for all arms and seeds of a network."""
    role = config.arms[run.arm].network
    if getattr(config, role).pretrain is None or run.stage == "pretraining":
        return None
    own = getattr(run_config(config, run), role)
    if own.pretrain is None or own.weights:
        return None
    first = next(arm for arm, settings in config.arms.items() if settings.network == role)
    dataset = own.pretrain.dataset
    split = config.dataset_definitions[dataset].splits[0]
    return Run(dataset, split, config.protocol, first, seed=0, stage="pretraining")


def _read_of(distill: DistillConfig) -> DistillConfig:
    """The same distillation, with defaults for what changes nothing: equal settings compute the same."""
    unread = distill.unread | {"alpha_by_dataset"}  # what the data set's alpha is stands in alpha
    return distill.model_copy(update={key: DistillConfig.model_fields[key].default for key in unread})


def teacher_of(config: Config, run: Run) -> Run | None:
    """The run whose weights teach this one: of the same stage, its seed taken in turn; None without distillation."""
    arm = config.arms[run.arm].distil_from
    if arm is None or run_settings(config, run).distill is None:
        return None
    seeds = arm_seeds(config, arm)
    seed = run.seed if run.seed in seeds else seeds[run.seed % len(seeds)]
    return replace(run, arm=arm, seed=seed, study="", trial="")


def choices_of(config: Config, run: Run) -> list[Path]:
    """The choice files that the run takes values from."""
    return [study_directory(run.dataset, study) / "choice.json" for study in _chosen_by(config, run)]


def _chosen_by(config: Config, run: Run) -> list[str]:
    """The studies before a run whose keys it uses and does not set."""
    if run.stage == "pretraining":
        return []
    before = config.chosen_by
    if run.study in before:
        before = before[: before.index(run.study)]
    return [study for study in before if _uses(config, run, study)]


def _uses(config: Config, run: Run, study: str) -> bool:
    searched = searched_keys(config, study)
    sections = {"train", "input", config.arms[run.arm].network}
    if run_settings(config, run).distill is not None:
        sections.add("distill")
    return any(key.split(".")[0] in sections for key in searched - own_values(config, run).keys())


def studies_to_track(config: Config) -> dict[str, list[str]]:
    """Names of the studies by data set; those that networks are only pretrained on have none."""
    return {dataset: config.ablation.known if dataset in config.datasets else [] for dataset in used_datasets(config)}


def compares_pictures(config: Config, dataset: str) -> bool:
    """Whether the audit compares pictures. Scenes rendered here are drawn apart, and too smooth for a hash to tell."""
    return config.audit.pictures and config.dataset_definitions[dataset].kind != "motions"


def motion_checked(config: Config) -> list[Run]:
    """Runs asked whether the class is in the motion: the embedded data set's teachers on all labelled clips."""
    return [
        run
        for run in final_runs(config)
        if config.dataset_definitions[run.dataset].kind == "motions"
        and config.arms[run.arm].network == "teacher"
        and run_settings(config, run).network.clips_per_class is None
    ]
