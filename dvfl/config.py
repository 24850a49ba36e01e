"""The one source of config keys: their types, defaults, limits and descriptions.

`load_config` merges YAML files over config/config.yaml, adds the registry of data sets, and checks everything before
any work starts. An arm, a study's trial and a protocol are all the same thing here: values given to dotted keys.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dvfl.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = PROJECT / "config/config.yaml"
REGISTRY = PROJECT / "config/datasets.yaml"

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # what becomes a folder's name
Name = Annotated[str, Field(pattern=NAME)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class ConfigError(UserError, ValueError):
    """The config is wrong; the message says which key, what was given, and what is allowed."""


class Section(BaseModel):
    """A part of the config: unknown keys are refused, and a checked config does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


# ------------------------------------------------------------------------------------------------------- data sets


class ListsConfig(Section):
    """Published lists of a data set; a folder's file names tell the format."""

    official: Path | None = Field(
        None, description="Folder of the owner's lists, which splits split1, split2, … follow; None: these are drawn."
    )
    released: Path | None = Field(None, description="Folder of other released lists, which split `released` follows.")
    mismatch: Literal["report", "error"] = Field(
        "report",
        description="What a clip that is listed and not there (or unreadable), or there and not listed, leads to; "
        "report: it is counted, and named in splits/<split>.mismatch.csv.",
    )


class DatasetDefinition(Section):
    kind: Literal["archives", "folder", "motions"] = Field(
        description="archives: fetched from its owner; folder: root/<class>/<clip>, yours; motions: rendered here, "
        "nothing to download."
    )
    root: Path | None = Field(
        None,
        description="Folder that holds the clips (folder: required; archives: clips that you have extracted already, "
        "which are then used as they are and not fetched).",
    )
    archives: Path | None = Field(
        None, description="Folder with archives that you have already; they are checked and read there (archives)."
    )
    group: str | None = Field(
        None,
        description="Regular expression searched in a file's stem; its group `group` names the source of the clip. "
        "Clips of one source never straddle a split. None: every clip is its own source. A second group `fold`, if "
        "there is one, names what splits fold<k>of<n> leave out of all classes at once (UCF50: g01 to g25).",
    )
    lists: ListsConfig | None = Field(None, description="Published lists of which clips train and test.")
    splits: list[Name] = Field(
        ["split1"],
        min_length=1,
        description="Names of the splits to run: split<k> (the owner's list, else drawn by group), released, "
        "fold<k>of<n> (k-fold by group; with as many folds as there are groups, leave one group out).",
    )
    test_fraction: float = Field(0.25, gt=0.0, le=0.5, description="Share of the clips held out for test (folder).")
    validation_fraction: float = Field(
        0.2, gt=0.0, le=0.5, description="Share of the training clips held out to choose on, by group."
    )
    split_seed: int = Field(0, ge=0, description="Seed of the splits.")
    horizontal_flip: bool = Field(
        True, description="Whether a mirrored clip keeps its class (not where left and right are classes)."
    )
    min_frames: Count = Field(1, description="Clips with fewer frames are listed as too_short and left out.")
    motions: MotionsConfig | None = Field(None, description="How to render the embedded data set (motions).")
    source: SourceConfig | None = Field(None, description="Where the clips come from, and how many (archives).")

    @field_validator("group")
    @classmethod
    def _pattern_names_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        if "group" not in compiled.groupindex:
            raise ValueError("needs a named group, for example '(?P<group>.+)_c\\d+$'")
        return pattern

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> DatasetDefinition:
        if self.kind == "motions" and self.motions is None:
            raise ValueError("kind 'motions' needs the key 'motions'")
        if self.kind != "motions" and self.motions is not None:
            raise ValueError("the key 'motions' belongs to kind 'motions' only")
        if self.kind == "archives" and self.source is None:
            raise ValueError("kind 'archives' needs the key 'source'")
        if self.kind != "archives" and (self.source is not None or self.archives is not None):
            raise ValueError("the keys 'source' and 'archives' belong to kind 'archives' only")
        return self


class MotionsConfig(Section):
    train_groups: int = Field(25, ge=3, description="Appearances to train (and validate) on.")
    test_groups: int = Field(15, ge=1, description="Appearances to test on, none of them trained on.")
    clips_per_group: Count = Field(2, description="Clips of each class in a group.")
    frames: int = Field(16, ge=2, description="Frames of a clip.")
    size: int = Field(72, ge=16, description="Height and width of a frame, pixels.")
    fps: Count = Field(25, description="Frames per second.")
    seed: int = Field(0, ge=0, description="Seed of everything that is drawn.")


class ChecksumConfig(Section):
    algorithm: Literal["md5", "sha1", "sha256"] = Field(description="How it is computed.")
    value: str = Field(pattern=r"^[0-9a-f]+$", description="Lower-case hexadecimal digits.")
    published_by: str = Field(min_length=1, description="Who says so: the owner, or which third party.")

    @model_validator(mode="after")
    def _whole(self) -> ChecksumConfig:
        digits = 2 * hashlib.new(self.algorithm).digest_size
        if len(self.value) != digits:
            raise ValueError(f"{self.algorithm} has {digits} digits, not {len(self.value)}")
        return self


class ArchiveConfig(Section):
    """A file of the owner's: a rar, zip, tar or tar.gz, or a plain list."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.?-]*$",
        description="Name of the file; with ? for the digits, numbered parts of one archive, joined in their order.",
    )
    content: Literal["clips", "lists"] = Field(description="clips, or lists: labels and splits.")
    urls: list[str] = Field([], description="Addresses, the owner's first, then mirrors; none: put there by hand.")
    size: Count | None = Field(None, description="Bytes, where known.")
    checksum: ChecksumConfig | None = Field(
        None, description="Where nobody publishes one, the sha256 seen first is recorded and compared from then on."
    )
    nested: bool = Field(False, description="Whether the archive holds archives, which hold the clips.")

    @model_validator(mode="after")
    def _parts_come_by_hand(self) -> ArchiveConfig:
        if "?" in self.name and (self.urls or self.checksum):
            raise ValueError("numbered parts are put there by hand: they have no urls and no checksum")
        return self


class PartsConfig(Section):
    """Archives whose addresses stand in a list of the owner's, one a line."""

    name: Name = Field(description="Folder under archives/ that the parts are stored in.")
    urls: list[str] = Field(min_length=1, description="Addresses of the list, the owner's first, then mirrors.")


class ExpectedConfig(Section):
    clips: Count | None = Field(None, description="Clips; None: copies differ, so the index alone says.")
    classes: Count | None = Field(None, description="Classes.")
    splits: dict[Name, dict[Literal["train", "validation", "test"], Count]] = Field(
        {}, description="Clips of each subset in the owner's lists, by split."
    )


class SourceConfig(Section):
    """A data set as its owner gives it out."""

    folder: Path = Field(description="Folder for what is fetched: archives/, lists/ and clips/<class>/<clip>.")
    layout: Literal["class_folders", "kinetics", "ssv2"] = Field(
        "class_folders", description="What tells a clip's class: its folder, or the owner's lists in their format."
    )
    archives: list[ArchiveConfig] = Field([], description="Files, in the order in which they are extracted.")
    parts: list[PartsConfig] = Field([], description="Lists of further archives, extracted before `archives`.")
    shards: Count = Field(1, description="Jobs that share the parts.")
    expected: ExpectedConfig = Field(default_factory=lambda: ExpectedConfig(), description="What must come out.")
    access: str = Field(description="How to get the files; said where files must be put there by hand.")
    wait_hours: float = Field(24.0, ge=0, description="How long a run waits for files that are put there by hand.")
    licence: str = Field(description="Terms of use.")
    citation: str = Field(description="What to cite.")

    @model_validator(mode="after")
    def _complete(self) -> SourceConfig:
        names = [archive.name for archive in self.archives] + [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError("has two archives of one name")
        if not names:
            raise ValueError("needs `archives` or `parts`")
        if self.layout != "class_folders" and not any(archive.content == "lists" for archive in self.archives):
            raise ValueError(f"layout {self.layout!r} needs an archive with content 'lists'")
        return self


class FetchConfig(Section):
    """How files are fetched."""

    connections: Count = Field(4, description="Files downloaded at once.")
    retries: int = Field(8, ge=0, description="Attempts in a row that may bring nothing before a file is given up.")
    backoff: float = Field(1.0, ge=0, description="Pause before the second attempt, seconds; doubled for each other.")
    timeout: Positive = Field(60.0, description="Seconds without a byte after which a connection is given up.")
    rewrite: dict[str, str] = Field(
        {}, description="Beginnings of addresses and what replaces them: a mirror of your own, such as a lab's."
    )
    keep_archives: bool = Field(True, description="Whether archives fetched here stay once they are extracted.")


# ------------------------------------------------------------------------------------------ networks and training


class InputConfig(Section):
    """What a network is shown (FACTS of the released recipe in brackets where they differ from the default)."""

    frames: Count = Field(8, description="Segments of a clip, one frame each [8].")
    img_size: int = Field(32, ge=16, description="Height and width given to the network, pixels [224].")
    short_side: int = Field(36, ge=16, description="Short side a frame is first resized to, pixels [256].")
    crop_area: tuple[Fraction, Fraction] = Field(
        (0.5, 1.0), description="Share of the area that a training crop keeps [0.08, 1]."
    )
    crop_aspect: tuple[Positive, Positive] = Field(
        (0.75, 4 / 3), description="Width over height of a training crop [3/4, 4/3]."
    )
    flip: Fraction = Field(
        0.5, description="Chance of a mirrored training clip; 0 for data sets with horizontal_flip: false [0.5]."
    )
    color_jitter: Fraction = Field(0.0, description="Chance of colour jitter for a clip [0.8].")
    brightness: float = Field(0.4, ge=0, description="Brightness jitter, redrawn per frame [0.4].")
    contrast: float = Field(0.4, ge=0, description="Contrast jitter, redrawn per frame [0.4].")
    saturation: float = Field(0.2, ge=0, description="Saturation jitter, redrawn per frame [0.2].")
    hue: float = Field(0.1, ge=0, le=0.5, description="Hue jitter, redrawn per frame [0.1].")
    greyscale: Fraction = Field(0.0, description="Chance of a greyscale clip [0.2].")
    views: Count | None = Field(
        8,
        description="Augmented views of a clip that the epochs cycle through; None: every epoch draws a new one. "
        "With a number they are drawn and decoded once, and so are the teacher's targets for them.",
    )

    @field_validator("crop_area", "crop_aspect")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1] or value[0] <= 0:
            raise ValueError("needs two positive numbers, the smaller first")
        return value

    @model_validator(mode="after")
    def _crop_fits(self) -> InputConfig:
        if self.short_side < self.img_size:
            raise ValueError(f"short_side {self.short_side} is smaller than img_size {self.img_size}")
        return self


class TrainConfig(Section):
    """How a network is trained."""

    epochs: Count = Field(30, description="Passes over the training clips [120]; the last epoch is reported.")
    batch_size: Count = Field(24, description="Clips of a micro-batch: what one device takes at once [8].")
    accumulate: Count = Field(1, description="Micro-batches of one optimiser step.")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="sgd: Nesterov momentum 0.9 [sgd].")
    lr: Positive = Field(1e-3, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay; none on biases and 1-D parameters.")
    warmup: Fraction = Field(0.1, description="Share of the steps that warm up linearly [20 of 120 epochs].")
    lr_floor: Fraction = Field(0.01, description="First and last learning rate, as a share of lr [0.01].")
    clip_grad_norm: Positive | None = Field(5.0, description="Gradient norm is clipped at this [5].")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the cross-entropy [0.1].")
    mixup: float = Field(0.0, ge=0, description="Alpha of mixup's Beta; 0: off [0.8].")
    cutmix: float = Field(0.0, ge=0, description="Alpha of CutMix's Beta; 0: off [1.0].")
    mix_probability: Fraction = Field(1.0, description="Share of the micro-batches that are mixed.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="auto: bfloat16 on GPUs, float32 elsewhere."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:<n>.")
    threads: Count = Field(1, description="CPU threads of a training job; part of the result on a CPU.")
    workers: int = Field(0, ge=0, description="Processes that decode clips; results do not depend on it.")
    validate_every: Count = Field(10, description="Epochs from one look at the validation subset to the next.")
    include_validation: bool = Field(
        True, description="Final arms train on train and validation together, as published protocols do."
    )

    @model_validator(mode="after")
    def _mixing_needs_pairs(self) -> TrainConfig:
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"mixup and CutMix need an even batch_size, not {self.batch_size}")
        return self


class NetworkConfig(Section):
    """One role: the big network or the small one."""

    model: str = Field(description="Name of a registered model.")
    model_overrides: dict[str, Any] = Field({}, description="Constructor arguments of the model to change.")
    weights: str | None = Field(None, description="Path of weights that replace the training.")
    clips_per_class: Count | None = Field(
        None, description="Labelled clips of each class to train on, whole groups first; None: all."
    )
    train: dict[str, Any] = Field({}, description="Values of `train` that differ for this network.")

    @field_validator("model")
    @classmethod
    def _registered(cls, name: str) -> str:
        from dvfl.models.registry import model_names

        if name not in model_names():
            raise ValueError(f"is not a registered model{_nearest(name, model_names())}")
        return name


class DistillConfig(Section):
    """L = alpha * T^2 * KL(teacher/T || student/T) + (1 - alpha) * cross-entropy."""

    divergence: Literal["forward_kl", "reverse_kl", "released_code"] = Field(
        "forward_kl", description="What alpha weighs: forward_kl is the paper's."
    )
    alpha: Fraction = Field(0.2, description="Weight of the divergence [0.2]; 0: labels only.")
    temperature: Positive = Field(10.0, description="Temperature T [10].")
    t_squared: bool = Field(True, description="Multiply the divergence by T^2 (stated assumption; as released).")
    targets: Literal["cached", "online"] = Field(
        "cached", description="cached: the teacher's logits of all views, computed once; online: in the loop."
    )


class ArmConfig(Section):
    network: Literal["teacher", "student"] = Field(description="Which network the arm trains.")
    distil_from: Name | None = Field(None, description="Arm whose weights teach this one; None: labels only.")
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="Seeds of this arm; None: the run's seeds."
    )
    set: dict[str, Any] = Field({}, description="Dotted config keys that differ for this arm.")


# ------------------------------------------------------------------------------------- evaluation, studies, others


class EvaluateConfig(Section):
    clips: Count = Field(1, description="Temporal clips of a test clip [1 or 4].")
    crops: Literal[1, 3] = Field(1, description="Spatial crops of a test clip [1 or 3].")
    batch_size: Count = Field(32, description="Views that the network takes at once.")
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples behind an interval.")


class StudyConfig(Section):
    arms: list[Name] = Field(min_length=1, description="Arms that the study trains.")
    grid: dict[str, list[Any]] = Field({}, description="Dotted keys and their values; all combinations run.")
    points: list[dict[str, Any]] = Field([], description="Single points, each some dotted keys with a value.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="Seeds of each trial.")
    evaluate_on: Literal["validation", "test"] = Field(
        "validation", description="validation where something is chosen; test for a control that chooses nothing."
    )
    set: dict[str, Any] = Field({}, description="Dotted keys that differ for every trial of the study.")

    @model_validator(mode="after")
    def _has_points(self) -> StudyConfig:
        if not self.grid and not self.points:
            raise ValueError("needs a `grid` or `points`")
        if any(not values for values in self.grid.values()):
            raise ValueError("has a key without values in `grid`")
        if any(not point for point in self.points):
            raise ValueError("has a point without keys in `points`")
        return self


class AblationConfig(Section):
    studies: dict[Name, StudyConfig] = Field({}, description="Studies by name.")
    run: list[Name] = Field([], description="Studies that the tables include.")


class ProfileConfig(Section):
    paper_models: list[str] = Field(
        ["video_focalnet_base", "video_focalnet_small", "video_focalnet_tiny", "vfl_net"],
        description="Models profiled at the paper's size, untrained: compute does not depend on weights.",
    )
    num_classes: int = Field(101, ge=2, description="Classes of the paper-size models.")
    frames: Count = Field(8, description="Frames of the paper-size models.")
    img_size: int = Field(224, ge=32, description="Height and width of the paper-size models, pixels.")
    batch_sizes: list[Count] = Field([1], min_length=1, description="Clips at once.")
    larger_batches: list[Count] = Field(
        [4, 8], min_length=1, description="Clips at once for the target `larger_batches`, which no table waits for."
    )
    repeats: int = Field(5, ge=3, description="Timed forward passes of a paper-size model.")
    repeats_small: int = Field(50, ge=3, description="Timed forward passes of the run's own models.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Precision of the timed passes.")


class AuditConfig(Section):
    pictures: bool = Field(
        True,
        description="Compare the clips' pictures, too (every clip is decoded once more); not those of the embedded "
        "data set, whose small smooth scenes look alike by chance.",
    )
    distance: float = Field(
        10.0,
        ge=0,
        le=32,
        description="Bits of 64 by which frames of two clips may differ, in the mean, to be held the same pictures; "
        "measured on UCF101: copies 0 to 9.5, clips of different sources 13.5 and more.",
    )


class TrackingConfig(Section):
    uri: str = Field("sqlite:///results/mlflow.db", description="MLflow tracking URI.")
    artifacts: str = Field("results/mlartifacts", description="Artifact root of a local store.")


class Config(Section):
    datasets: list[Name] = Field(["motions"], min_length=1, description="Data sets to run.")
    dataset_definitions: dict[Name, DatasetDefinition] = Field(
        description="Data sets by name; those of config/datasets.yaml are known already."
    )
    root: Path | None = Field(
        None, description="Short for dataset_definitions.<name>.root of the one folder data set that is run."
    )
    protocol: Literal["as_described"] = Field("as_described", description="Training and test protocol.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="Seeds of the arms.")
    input: InputConfig = InputConfig()
    train: TrainConfig = TrainConfig()
    teacher: NetworkConfig
    student: NetworkConfig
    distill: DistillConfig = DistillConfig()
    arms: dict[Name, ArmConfig] = Field(min_length=1, description="What is trained and compared.")
    chosen_by: list[Name] = Field(
        [],
        description="Studies, in order, whose choice files replace the values that they searched, in the arms and in "
        "the studies after them; a value that an arm or a trial sets itself stands.",
    )
    evaluate: EvaluateConfig = EvaluateConfig()
    ablation: AblationConfig = AblationConfig()
    profile: ProfileConfig = ProfileConfig()
    audit: AuditConfig = AuditConfig()
    tracking: TrackingConfig = TrackingConfig()
    fetch: FetchConfig = FetchConfig()

    @model_validator(mode="after")
    def _names_agree(self) -> Config:
        for name in self.datasets:
            if name not in self.dataset_definitions:
                raise ValueError(
                    f"datasets: {name!r} is not defined{_nearest(name, self.dataset_definitions)}; "
                    f"define it under dataset_definitions"
                )
            definition = self.dataset_definitions[name]
            if definition.kind == "folder" and definition.root is None:
                raise ValueError(
                    f"dataset_definitions.{name}.root is missing: give the folder that holds <class>/<clip>, "
                    f"or add `--config root=FOLDER` to the command"
                )
        for arm, settings in self.arms.items():
            source = settings.distil_from
            if source is None:
                continue
            if source not in self.arms:
                raise ValueError(f"arms.{arm}.distil_from: {source!r} is not an arm{_nearest(source, self.arms)}")
            if self.arms[source].distil_from is not None:
                raise ValueError(f"arms.{arm}.distil_from: {source!r} is itself distilled; chains are not supported")
        for study in self.ablation.run:
            if study not in self.ablation.studies:
                raise ValueError(f"ablation.run: {study!r} is not a study{_nearest(study, self.ablation.studies)}")
        for study, settings in self.ablation.studies.items():
            for arm in settings.arms:
                if arm not in self.arms:
                    raise ValueError(f"ablation.studies.{study}.arms: {arm!r} is not an arm{_nearest(arm, self.arms)}")
        for study in self.chosen_by:
            if study not in self.ablation.studies:
                raise ValueError(f"chosen_by: {study!r} is not a study{_nearest(study, self.ablation.studies)}")
            if self.ablation.studies[study].evaluate_on != "validation":
                raise ValueError(f"chosen_by: study {study!r} is evaluated on test; test chooses nothing")
        return self

    @property
    def folder_datasets(self) -> list[str]:
        return [name for name in self.datasets if self.dataset_definitions[name].kind == "folder"]


# --------------------------------------------------------------------------------------------------------- loading


def load_config(*files: str | Path, values: Mapping[str, Any] | None = None, registry: str | Path = REGISTRY) -> Config:
    """Config of YAML `files`, later ones over earlier ones, `values` over all.

    Raises ConfigError with a line for every mistake found.
    """
    merged: dict[str, Any] = {}
    for file in files:
        merged = merge(merged, read_yaml(file))
    return check_config(merge(merged, values or {}), registry=registry)


def check_config(raw: Mapping[str, Any], registry: str | Path = REGISTRY) -> Config:
    """The checked config of plain values; data sets of the registry file are known."""
    raw = _without_removed(deepcopy(dict(raw)))
    raw["dataset_definitions"] = merge(read_yaml(registry), raw.get("dataset_definitions") or {})
    root = raw.get("root")
    if root is not None:
        folders = [
            name
            for name in raw.get("datasets") or []
            if (raw["dataset_definitions"].get(name) or {}).get("kind") == "folder"
        ]
        if len(folders) != 1:
            raise ConfigError(
                f"root: stands for the root of the only folder data set that is run; `datasets` has {len(folders)} "
                f"of them, so name the root under dataset_definitions.<name>.root"
            )
        raw["dataset_definitions"][folders[0]]["root"] = root
    config = _validate(Config, raw)
    _check_overrides(config)
    return config


# Mappings whose entries have names of the user's choice, or stand over a default's: null drops an entry there.
DROPPABLE = {
    ("dataset_definitions",),
    ("arms",),
    ("ablation", "studies"),
    *((role, mapping) for role in ("teacher", "student") for mapping in ("train", "model_overrides")),
}


def _without_removed(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Entries that a later file set to null are gone: that is how a user's file drops an arm or a study."""
    if not isinstance(value, dict):
        return value
    droppable = path in DROPPABLE or path[-1:] == ("grid",)
    return {
        key: _without_removed(item, (*path, str(key)))
        for key, item in value.items()
        if not (droppable and item is None)
    }


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Mapping of a YAML file; ConfigError where there is none."""
    try:
        content = yaml.safe_load(Path(file).read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no such config file") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not a text file; give a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must be `key: value` pairs, not a {type(content).__name__}")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping, as Snakemake merges its config files."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else deepcopy(value)
    return merged


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with dotted keys set: override(config, {"distill.alpha": 0.9}).

    Raises ConfigError for a key that does not exist or a value that is not allowed.
    """
    if not values:
        return config
    raw = config.model_dump(mode="json")
    for key, value in values.items():
        *path, last = key.split(".")
        place = raw
        for part in path:
            if not isinstance(place.get(part), dict):
                raise ConfigError(f"{key}: there is no such key{_nearest(part, place)}")
            place = place[part]
        # Free-form mappings (train of a network, overrides of a model) may gain keys; sections may not.
        if last not in place and path[-1:] not in (["train"], ["model_overrides"]):
            raise ConfigError(f"{key}: there is no such key{_nearest(last, place)}")
        place[last] = value
    return _validate(Config, raw)


def network_train(config: Config, role: Literal["teacher", "student"]) -> TrainConfig:
    """`train` with the differences of one network laid over it."""
    own = getattr(config, role).train
    return _validate(TrainConfig, merge(config.train.model_dump(mode="json"), own), prefix=(role, "train"))


def digest(value: Any) -> str:
    """Hash of plain values (16 hex digits); the same for equal values in any order of keys."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= flatten(item, f"{name}.") if isinstance(item, Mapping) and item else {name: item}
    return flat


def _check_overrides(config: Config) -> None:
    """Every arm and every trial must itself be a valid config: find out now, not in the middle of the night."""
    for role in ("teacher", "student"):
        network_train(config, role)
    for arm, settings in config.arms.items():
        with _at(f"arms.{arm}.set"):
            network_train(override(config, settings.set), settings.network)
    for name, study in config.ablation.studies.items():
        with _at(f"ablation.studies.{name}.set"):
            base = override(config, study.set)
        for point in [{key: value} for key, values in study.grid.items() for value in values] + study.points:
            with _at(f"ablation.studies.{name}"):
                for arm in study.arms:
                    network_train(override(base, point), config.arms[arm].network)


class _at:
    """Puts the place in front of a ConfigError that is raised inside."""

    def __init__(self, place: str):
        self.place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConfigError):
            raise ConfigError("\n".join(f"{self.place}: {line}" for line in str(error).splitlines())) from error


def _validate(model: type[BaseModel], raw: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Any:
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        lines = [_explain(model, item, prefix) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _explain(model: type[BaseModel], item: Mapping[str, Any], prefix: tuple[str, ...]) -> str:
    """One line for one mistake: the key's full path, what was given, what is allowed."""
    location = tuple(str(part) for part in item["loc"] if part != "[key]")
    path = ".".join(prefix + location)
    given = item.get("input")
    if item["type"] == "extra_forbidden":
        siblings = _keys_at(model, location[:-1])
        return f"{path}: there is no such key{_nearest(location[-1], siblings)}"
    if item["type"] == "missing":
        return f"{path}: is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not path:  # the whole config: the message names the key itself
        return message
    shown = "" if isinstance(given, (Mapping, BaseModel)) else f" (given: {given!r})"
    return f"{path}: {message}{shown}"


def _keys_at(model: type[BaseModel], location: Iterable[str]) -> list[str]:
    """Keys that the section at a path knows."""
    current: Any = model
    for part in location:
        current = _inside(current, part)
    return [key for section in _members(current) if _is_section(section) for key in section.model_fields]


def _inside(annotation: Any, part: str) -> Any:
    """Annotation of an entry of a section, a mapping or a list."""
    for member in _members(annotation):
        if _is_section(member) and part in member.model_fields:
            return member.model_fields[part].annotation
        if get_origin(member) in (dict, list):
            return get_args(member)[-1]
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean …?' or the list of what there is."""
    known = sorted(str(key) for key in known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


DatasetDefinition.model_rebuild()
