"""The whole config, and what its sections must agree on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from dvfl.config.datasets import DatasetDefinition, FetchConfig, Folder
from dvfl.config.measuring import (
    AblationConfig,
    AuditConfig,
    EvaluateConfig,
    ExportConfig,
    ProfileConfig,
    TrackingConfig,
)
from dvfl.config.protocols import Protocol
from dvfl.config.section import EachOnce, Name, Section, Seeds, nearest
from dvfl.config.training import ArmConfig, DistillConfig, InputConfig, NetworkConfig, TrainConfig
from dvfl.config.weights import WeightsDefinition
from dvfl.models.plugins import import_plugin


class Config(Section):
    # Before whatever names a model: keys are checked in their order here.
    plugins: list[str] = Field(
        [],
        description="Modules of your own that register models: names of installed modules, or paths of .py files from "
        "the current folder. A file is an input of the runs whose models it registers; an installed module is not.",
    )
    datasets: Annotated[list[Name], EachOnce] = Field(["motions"], min_length=1, description="Data sets to run.")
    dataset_definitions: dict[Name, DatasetDefinition] = Field(
        description="Data sets by name; those of config/datasets.yaml are known already."
    )
    weights_definitions: dict[Name, WeightsDefinition] = Field(
        {}, description="Weights to fetch, by name; those of config/weights.yaml are known already."
    )
    root: Folder | None = Field(
        None, description="Short for dataset_definitions.<name>.root of the one folder data set that is run."
    )
    protocol: Protocol = Field(
        "as_described",
        description="Training and test protocol: presets of the keys in which the released code differs from what is "
        "described (config/protocols.yaml; `dvfl protocol` prints both). A key that a config file sets itself stands.",
    )
    seeds: Seeds = Field([0], description="Seeds of the arms.")
    input: InputConfig = InputConfig()
    train: TrainConfig = TrainConfig()
    teacher: NetworkConfig
    student: NetworkConfig
    distill: DistillConfig = DistillConfig()
    arms: dict[Name, ArmConfig] = Field(min_length=1, description="What is trained and compared.")
    chosen_by: Annotated[list[Name], EachOnce] = Field(
        [],
        description="Studies, in order, whose choice files replace the values that they searched, in the arms and in "
        "the studies after them; a value that an arm or a trial sets itself stands. A trial that has been trained in "
        "one of them takes its weights.",
    )
    evaluate: EvaluateConfig = EvaluateConfig()
    ablation: AblationConfig = AblationConfig()
    profile: ProfileConfig = ProfileConfig()
    export: ExportConfig = ExportConfig()
    audit: AuditConfig = AuditConfig()
    tracking: TrackingConfig = TrackingConfig()
    fetch: FetchConfig = FetchConfig()

    @field_validator("plugins")
    @classmethod
    def _imported(cls, plugins: list[str]) -> list[str]:
        for plugin in plugins:
            import_plugin(plugin)
        return plugins

    @model_validator(mode="after")
    def _names_agree(self) -> Config:
        for name in self.datasets:
            if name not in self.dataset_definitions:
                raise ValueError(
                    f"datasets: {name!r} is not defined{nearest(name, self.dataset_definitions)}; "
                    f"define it under dataset_definitions"
                )
            definition = self.dataset_definitions[name]
            if definition.kind == "folder" and definition.root is None:
                raise ValueError(
                    f"dataset_definitions.{name}.root is missing: give the folder that holds <class>/<clip>, "
                    f"or add `--config root=FOLDER` to the command"
                )
        for role, network in (("teacher", self.teacher), ("student", self.student)):
            if network.pretrain and network.pretrain.dataset not in self.dataset_definitions:
                wrong = network.pretrain.dataset
                raise ValueError(
                    f"{role}.pretrain.dataset: {wrong!r} is not defined{nearest(wrong, self.dataset_definitions)}"
                )
        for arm, settings in self.arms.items():
            source = settings.distil_from
            if source is None:
                continue
            if source not in self.arms:
                raise ValueError(f"arms.{arm}.distil_from: {source!r} is not an arm{nearest(source, self.arms)}")
            if self.arms[source].distil_from is not None:
                raise ValueError(f"arms.{arm}.distil_from: {source!r} is itself distilled; chains are not supported")
        for study in self.ablation.run:
            if study not in self.ablation.known:
                raise ValueError(f"ablation.run: {study!r} is not a study{nearest(study, self.ablation.known)}")
            if study in self.ablation.studies and self.ablation.studies[study].differences:
                raise ValueError(f"ablation.run: {study!r} has a table of its own: ask for the target protocol_effects")
        for study, settings in self.ablation.studies.items():
            for arm in settings.arms:
                if arm not in self.arms:
                    raise ValueError(f"ablation.studies.{study}.arms: {arm!r} is not an arm{nearest(arm, self.arms)}")
        for study, settings in self.ablation.tune.items():
            if settings.arm not in self.arms:
                wrong = settings.arm
                raise ValueError(f"ablation.tune.{study}.arm: {wrong!r} is not an arm{nearest(wrong, self.arms)}")
        for study in self.chosen_by:
            if study in self.ablation.tune:
                if len(self.ablation.tune[study].objectives) > 1:
                    raise ValueError(f"chosen_by: study {study!r} has two objectives, so it chooses no single trial")
                continue
            if study not in self.ablation.studies:
                raise ValueError(f"chosen_by: {study!r} is not a study{nearest(study, self.ablation.known)}")
            if self.ablation.studies[study].evaluate_on != "validation":
                raise ValueError(f"chosen_by: study {study!r} is evaluated on test; test chooses nothing")
        return self

    @model_validator(mode="after")
    def _weights_are_known(self) -> Config:
        for role, network in (("teacher", self.teacher), ("student", self.student)):
            for key in ("weights", "start_from"):
                value = getattr(network, key)
                a_path = value is None or "/" in value or "." in value
                if not a_path and value not in self.weights_definitions:
                    raise ValueError(
                        f"{role}.{key}: {value!r} is neither a path (with a slash or an ending) nor a name in "
                        f"weights_definitions{nearest(value, self.weights_definitions)}"
                    )
        files = [definition.file for definition in self.weights_definitions.values()]
        for name, definition in self.weights_definitions.items():
            if files.count(definition.file) > 1:
                raise ValueError(f"weights_definitions.{name}.file: {definition.file!r} is that of another entry, too")
        return self

    @property
    def folder_datasets(self) -> list[str]:
        return [name for name in self.datasets if self.dataset_definitions[name].kind == "folder"]
