"""What is run, with which settings, and where its files lie.

A run is one training: an arm, on one split of a data set, with one seed. Final runs train on train and validation and
are tested on test; runs of the selection stage train on train alone, and whatever is chosen is chosen on their
validation scores. A study's trial is a run with some dotted keys of its own. Runs of the pretraining stage give a
network its starting weights, from another data set.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import field_serializer

from dvfl.config import (
    Config,
    ConfigError,
    DistillConfig,
    EvaluateConfig,
    InputConfig,
    NetworkConfig,
    Section,
    StudyConfig,
    TrainConfig,
    digest,
    network_train,
    override,
    without_unread,
)
from dvfl.config.protocols import effect_trials

RESULTS = Path("results")
WEIGHTS = Path("resources/weights")
Stage = Literal["final", "selection", "pretraining"]


@dataclass(frozen=True)
class Run:
    """One training. `study` and `trial` are empty for the runs that the arms name."""

    dataset: str
    split: str
    protocol: str
    arm: str
    seed: int
    stage: Stage = "final"
    study: str = ""
    trial: str = ""

    @property
    def directory(self) -> Path:
        if self.study:
            return RESULTS / f"ablation/{self.dataset}/{self.study}/{self.trial}/{self.arm}/seed{self.seed}"
        if self.stage == "pretraining":
            return RESULTS / f"pretraining/{self.dataset}/{self.arm}/seed{self.seed}"
        if self.stage == "selection":
            return RESULTS / f"ablation/{self.dataset}/selection/{self.arm}/seed{self.seed}"
        return RESULTS / f"runs/{self.dataset}/{self.split}/{self.protocol}/{self.arm}/seed{self.seed}"

    @property
    def name(self) -> str:
        """Its name in MLflow."""
        middle = f"{self.study}/{self.trial}" if self.study else self.stage if self.stage != "final" else ""
        parts = [self.split, self.protocol, middle, self.arm, f"seed{self.seed}"]
        return "/".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.directory.as_posix()


class RunSettings(Section):
    """Every config value that decides what a run computes; its digest names the run's resume state."""

    dataset: str
    split: str
    stage: Stage
    seed: int
    split_seed: int
    allow_flip: bool
    network: NetworkConfig
    input: InputConfig
    train: TrainConfig
    distill: DistillConfig | None

    @field_serializer("distill")
    def _what_is_read(self, distill: DistillConfig | None) -> dict[str, Any] | None:
        return None if distill is None else distill.model_dump(mode="json", exclude=distill.unread)

    @property
    def digest(self) -> str:
        return digest([self.decisive, self.subsets])

    @property
    def decisive(self) -> dict[str, Any]:
        """The values that change what comes out, as plain values."""
        # Where it runs, how many processes train, decode or store frames, and how often validation is looked at do not
        # change what comes out, but for rounding; whether validation is trained on is said by the subsets, pretraining
        # by `start_from`.
        where = {"device", "gpus", "share_gpus", "processes", "workers", "gradient_checkpointing", "compile"}
        unused = {
            "train": where | {"validate_every", "include_validation"},
            "network": {"pretrain"},
            "input": {"frame_store": {"shards"}},
        }
        values = self.model_dump(mode="json", exclude=unused)
        if self.distill is not None and self.distill.targets == "stored":
            values["distill"]["targets"] = "auto"  # the same numbers
        return values

    @property
    def has_targets(self) -> bool:
        """Whether the run learns from logits of a teacher that could be stored."""
        return self.distill is not None and not self.distill.in_loop and self.network.weights is None

    @property
    def taught_by_view(self) -> bool:
        """Whether all that the teacher is ever shown are a few views of each clip, the same in every epoch."""
        return self.input.views is not None and not (self.train.mixup or self.train.cutmix)

    @property
    def taught_on(self) -> dict[str, Any]:
        """What decides, beside files, each input of a distillation and the teacher's answer to it, to the last bit."""
        assert self.distill is not None
        train = {"batch_size", "threads"}
        if not self.taught_by_view:  # the teacher is asked as the loop asks it
            train |= {"epochs", "precision", "mixup", "cutmix", "mix_probability", "cutmix_share"}
        return {
            **{key: getattr(self, key) for key in ("dataset", "split", "subsets", "seed", "split_seed", "allow_flip")},
            "clips_per_class": self.network.clips_per_class,
            "input": self.input.model_dump(mode="json", exclude={"frame_store": {"shards"}}),
            "train": self.train.model_dump(mode="json", include=train),
            "distill": self.distill.model_dump(mode="json", include={"teacher_head", "targets_precision"}),
        }

    @property
    def subsets(self) -> list[str]:
        """What is trained on."""
        joined = self.stage != "selection" and self.train.include_validation
        return ["train", "validation"] if joined else ["train"]

    @property
    def evaluated_on(self) -> str:
        return "validation" if self.stage == "selection" else "test"


# ------------------------------------------------------------------------------------------------ which runs there are


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


def trial_keys(study: StudyConfig) -> list[tuple[str, str, int]]:
    """Trial, arm and seed of each run of a study, in order."""
    only = {name: [arm] for name, (arm, _) in effect_trials().items()} if study.differences else {}
    return [
        (trial, arm, seed)
        for trial in study_trials(study)
        for arm in only.get(trial, study.arms)
        if arm in study.arms
        for seed in study.seeds
    ]


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


def study_trials(study: StudyConfig) -> dict[str, dict[str, Any]]:
    """A study's points by name: {"alpha=0.5,temperature=4": {"distill.alpha": 0.5, …}, …}.

    Without distillation the temperature means nothing, so alpha = 0 is one trial and not one for each T; and a grid of
    divergences and of a parameter has one trial for each divergence that does not read it.
    """
    if study.differences:
        return {name: values for name, (_, values) in effect_trials().items()}
    grid = [dict(zip(study.grid, values, strict=True)) for values in itertools.product(*study.grid.values())]
    named: dict[str, dict[str, Any]] = {}
    for point in (grid if study.grid else []) + study.points:
        point = without_unread(point)
        names = [
            _fitting(",".join(f"{name(key)}={_plain(value)}" for key, value in point.items())) for name in (_last, str)
        ]
        # teacher.train.lr and student.train.lr are both an lr: then the whole key is the name.
        free = next((name for name in names if named.get(name, point) == point), None)
        if free is None:
            raise ConfigError(f"a study has two points named {names[-1]!r}: their values look the same in a file name")
        named[free] = point
    return named


def _last(key: str) -> str:
    return key.split(".")[-1]


def _fitting(name: str) -> str:
    """The name, cut where it is longer than a file's name may be."""
    return name if len(name) <= 200 else f"{name[:180]}-{digest(name)}"


def _plain(value: Any) -> str:
    """A value as it may stand in a file's name."""
    text = str(value)
    if isinstance(value, float):
        text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "".join(character if character.isalnum() or character in "._-+" else "-" for character in text)


def parse_run(config: Config, directory: str | Path) -> Run:
    """The run whose directory this is; ConfigError where the config has no such run."""
    wanted = Path(directory).resolve()
    for run in all_runs(config):
        if wanted == run.directory.resolve():
            return run
    examples = "\n  ".join(str(run) for run in final_runs(config)[:3])
    raise ConfigError(f"{directory}: the config has no such run; it has, for example\n  {examples}")


def parse_targets(config: Config, directory: str | Path) -> Run:
    """A run that reads the store of targets whose directory this is, or the run whose directory it is."""
    wanted = Path(directory).resolve()
    readers = {store.resolve(): runs for store, runs in target_stores(config).items()}
    return readers[wanted][0] if wanted in readers else parse_run(config, directory)


def any_of(names: Iterable[str]) -> str:
    """Regular expression that matches these names and no others."""
    return "|".join(re.escape(name) for name in names) or r"(?!)"


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
    """The choice files that the run takes values from: of the studies before it whose keys it uses and does not set."""
    if run.stage == "pretraining":
        return []
    before = config.chosen_by
    if run.study in before:
        before = before[: before.index(run.study)]
    return [study_directory(run.dataset, study) / "choice.json" for study in before if _uses(config, run, study)]


def _uses(config: Config, run: Run, study: str) -> bool:
    searched = searched_keys(config, study)
    sections = {"train", "input", config.arms[run.arm].network}
    if run_settings(config, run).distill is not None:
        sections.add("distill")
    return any(key.split(".")[0] in sections for key in searched - own_values(config, run).keys())


def searched_keys(config: Config, study: str) -> set[str]:
    """Dotted keys in which the trials of a study differ."""
    if study in config.ablation.tune:
        return set(config.ablation.tune[study].space)
    return {key for point in study_trials(config.ablation.studies[study]).values() for key in point}


# ---------------------------------------------------------------------------------------------------- teacher's targets

SEVERAL = 3  # runs with the same inputs: from so many on, asking the teacher in a job of its own pays for that job


def targets_directory(config: Config, run: Run) -> Path:
    """Where the targets of a run lie, and of all with the same teacher and inputs: named after what decides these.

    Values that studies choose are not known yet; then the choices stand for them.
    """
    own = own_values(config, run).keys()
    choices = [path.as_posix() for path in choices_of(config, run) if _decides_targets(config, path.parent.name, own)]
    name = digest([str(teacher_of(config, run)), run_settings(config, run).taught_on, choices])
    return RESULTS / f"targets/{run.dataset}/{name}"


def _decides_targets(config: Config, study: str, own: Iterable[str]) -> bool:
    """Whether a study chooses more than what students make of their targets."""
    read = {"distill.teacher_head", "distill.targets_precision"}
    return any(not key.startswith("distill.") or key in read for key in searched_keys(config, study) - set(own))


def target_stores(config: Config) -> dict[Path, list[Run]]:
    """The stores of targets that the plan makes, each with the runs that wait for it.

    Runs of other studies do not count: what is finished is not made anew because a study is added. Of those that train
    the very same, one does.
    """
    alike: dict[tuple[Path, str], dict[Run, RunSettings]] = {}
    for run in all_runs(config):
        settings = run_settings(config, run) if config.arms[run.arm].distil_from else None
        if settings is not None and settings.has_targets:
            runs = alike.setdefault((targets_directory(config, run), run.study), {})
            if settings not in runs.values():
                runs[run] = settings
    stores: dict[Path, list[Run]] = {}
    for (directory, _), runs in alike.items():
        asked_for = any(settings.distill and settings.distill.targets == "stored" for settings in runs.values())
        if asked_for or len(runs) >= SEVERAL:
            stores.setdefault(directory, []).extend(runs)
    return stores


# ------------------------------------------------------------------------------------------------------------ files


def studies_to_track(config: Config) -> dict[str, list[str]]:
    """Names of the studies by data set; those that networks are only pretrained on have none."""
    return {dataset: config.ablation.known if dataset in config.datasets else [] for dataset in used_datasets(config)}


def index_path(dataset: str) -> Path:
    return RESULTS / f"data/{dataset}/index.parquet"


def readings_path(dataset: str) -> Path:
    """Folder of what was read of each clip: no output of Snakemake's, so that it stays when the index is made anew."""
    return index_path(dataset).with_name("readings")


def indexed_path(dataset: str, shard: int | str) -> Path:
    """What says that a shard of a data set's clips has been read."""
    return index_path(dataset).with_name("indexed") / f"{shard}.json"


def split_path(dataset: str, split: str) -> Path:
    return RESULTS / f"data/{dataset}/splits/{split}.csv"


def mismatch_path(dataset: str, split: str) -> Path:
    """Clips that a published list and the index do not agree about; there where the split follows one."""
    return split_path(dataset, split).with_name(f"{split}.mismatch.csv")


def frames_directory(dataset: str, input: InputConfig) -> Path | None:
    """Where frames of a data set are stored for such an input, named after what decides their pixels; None: nowhere."""
    if input.frame_store is None:
        return None
    return RESULTS / f"data/{dataset}/frames/{input.stored_short_side}px_q{input.frame_store.quality}"


def frames_written(dataset: str, input: InputConfig) -> list[Path]:
    """What says that frames are stored for such an input: a file for each shard."""
    directory = frames_directory(dataset, input)
    if directory is None or input.frame_store is None:
        return []
    shards = input.frame_store.shards
    return [directory / f"{shard}of{shards}.json" for shard in range(shards)]


def frame_stores(config: Config, dataset: str) -> dict[str, InputConfig]:
    """Stores that runs on a data set read, by name, each with an input that asks for it."""
    stores: dict[str, InputConfig] = {}
    for run in all_runs(config):
        settings = run_settings(config, run).input if run.dataset == dataset else None
        directory = settings and frames_directory(dataset, settings)
        if directory:
            stores.setdefault(directory.name, settings)
    return stores


def fingerprints_path(dataset: str) -> Path:
    return RESULTS / f"data/{dataset}/fingerprints.parquet"


def compares_pictures(config: Config, dataset: str) -> bool:
    """Whether the audit compares pictures. Scenes rendered here are drawn apart, and too smooth for a hash to tell."""
    return config.audit.pictures and config.dataset_definitions[dataset].kind != "motions"


def audit_path(dataset: str, split: str) -> Path:
    """The findings of a split's audit."""
    return RESULTS / f"data/{dataset}/audit/{split}.csv"


def leaks_path(dataset: str, split: str) -> Path:
    """The test clips that leak, each with a clip of train that it is found by."""
    return audit_path(dataset, split).with_name(f"{split}.leaks.csv")


def weights_path(config: Config, weights: str) -> Path:
    """Where weights lie that the config gives by name or by path."""
    named = config.weights_definitions.get(weights)
    return Path(weights) if named is None else WEIGHTS / named.file


def study_directory(dataset: str, study: str) -> Path:
    return RESULTS / f"ablation/{dataset}/{study}"


def worker_path(dataset: str, study: str, worker: int | str) -> Path:
    """What says that a worker of a search has found nothing left to do."""
    return study_directory(dataset, study) / f"workers/{worker}.json"


def trials_path(dataset: str, study: str) -> Path:
    """All trials of a search, one row each."""
    return study_directory(dataset, study) / "trials.csv"


def resume_directory(run: Run, key: str) -> Path:
    """Where a run keeps what it needs to go on after a kill: beside its outputs, since Snakemake removes those."""
    return run.directory.with_name(f"{run.directory.name}.resume") / key


def profile_path(model: str) -> Path:
    return RESULTS / f"profile/{model}.json"


def released_loss_path() -> Path:
    """Value and gradient of the released loss and of KL, over temperatures."""
    return RESULTS / "protocol/released_loss.csv"


def motion_checked(config: Config) -> list[Run]:
    """Runs asked whether the class is in the motion: the embedded data set's teachers on all labelled clips."""
    return [
        run
        for run in final_runs(config)
        if config.dataset_definitions[run.dataset].kind == "motions"
        and config.arms[run.arm].network == "teacher"
        and run_settings(config, run).network.clips_per_class is None
    ]


def motion_check_path(run: Run) -> Path:
    return run.directory / "motion_check.json"
