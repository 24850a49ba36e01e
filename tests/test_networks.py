"""Networks that are profiled: two that differ have two names, and each name says how."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dvfl import networks, paths, plan, steps
from dvfl.config import PROJECT, Config, load_config

PAPER = ["video_focalnet_base", "video_focalnet_small", "video_focalnet_tiny", "vfl_net"]
OF_PAPER: dict[str, Any] = {"teacher": {"model": "video_focalnet_base"}, "student": {"model": "vfl_net"}}
AT_112: dict[str, Any] = OF_PAPER | {"input": {"img_size": 112, "short_side": 128}}
AT_224: dict[str, Any] = OF_PAPER | {"input": {"img_size": 224, "short_side": 256}}
MINE: dict[str, Any] = {"datasets": ["mine"], "dataset_definitions": {"mine": {"kind": "folder", "root": "/clips"}}}


def config_of(*files: str, **values: Any) -> Config:
    return load_config("config/config.yaml", *files, values=values)


@pytest.fixture(autouse=True)
def at_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def own(config: Config) -> list[str]:
    return steps.profiled_models(config)[len(config.profile.paper_models) :]


def test_the_default_has_the_names_that_it_always_had():
    config = config_of()
    assert steps.profiled_models(config) == [*PAPER, "video_focalnet_w24_d1121", "video_focalnet_w12_d1121"]
    assert networks.profile_names(config)["motions", "distilled"] == "video_focalnet_w12_d1121"


def test_a_paper_name_at_another_input_is_profiled_beside_the_papers():
    config = config_of(**AT_112)
    assert steps.profiled_models(config) == [*PAPER, "video_focalnet_base.112px", "vfl_net.112px"]
    assert networks.profile_names(config)["motions", "student"] == "vfl_net.112px"
    assert steps.profile_inputs(config, "vfl_net") == []
    assert steps.profile_inputs(config, "vfl_net.112px") == [paths.index_path("motions")]
    settings = {steps.profile_settings(config, name) for name in ("vfl_net", "vfl_net.112px")}
    assert len(settings) == 2


def test_a_name_that_the_paper_does_not_need_stays_as_it_is_at_the_configs_own_input():
    assert own(config_of(**AT_112, profile={"paper_models": []})) == ["video_focalnet_base", "vfl_net"]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"embed_dim": 32}, "vfl_net.embed_dim=32"),
        ({"embed_dim": 32, "depths": [1, 1, 1, 1]}, "vfl_net.depths=1-1-1-1.embed_dim=32"),
        ({"embed_dim": 96, "depths": [1, 1, 2, 1]}, "vfl_net"),  # what it has anyway
        ({"drop_path_rate": 0.7}, "vfl_net"),  # of training alone
        ({"init": "narrow"}, "vfl_net.init=narrow"),
    ],
)
def test_a_name_says_what_was_overridden(overrides, name):
    config = config_of(**AT_224 | {"student": {"model": "vfl_net", "model_overrides": overrides}})
    run = next(run for run in plan.final_runs(config) if run.arm == "student")
    assert networks.label_of(config, run) == name
    # Of the paper's size the classes are left to differ.
    profile = f"{name}.classes_of=motions" if name == "vfl_net" else name
    assert networks.profile_names(config)["motions", "student"] == profile


def test_arms_of_one_model_with_other_overrides_have_a_profile_each():
    narrow = {"network": "student", "set": {"student.model_overrides": {"embed_dim": 8}}}
    small = {"network": "student", "set": {"input.img_size": 24}}
    again = {"network": "student", "set": {"train.epochs": 3}}
    config = config_of(arms={"narrow": narrow, "small": small, "again": again})
    names = networks.profile_names(config)
    assert own(config)[1:] == [
        "video_focalnet_w12_d1121",
        "video_focalnet_w12_d1121.embed_dim=8",
        "video_focalnet_w12_d1121.24px",
    ]
    assert names["motions", "again"] == names["motions", "student"] == "video_focalnet_w12_d1121"
    assert steps.profiled_runs(config)[names["motions", "narrow"]].arm == "narrow"


def test_classes_are_named_where_they_are_what_differs():
    config = config_of("config/paper.yaml", datasets=["ucf50", "ucf101", "hmdb51"])
    names = networks.profile_names(config)
    # UCF101 has as many classes as the paper's size is profiled with: nothing is measured twice.
    students = [names[dataset, "student"] for dataset in config.datasets]
    assert students == ["vfl_net.50classes", "vfl_net", "vfl_net.51classes"]
    shared = next(each for each in networks.profiled(config).values() if each.name == "vfl_net")
    assert shared.run is None and shared.arms == ["student", "distilled"]


def test_how_many_classes_a_folder_has_is_not_known_before_its_index():
    config = config_of(**AT_224, **MINE)
    assert own(config) == ["video_focalnet_base.classes_of=mine", "vfl_net.classes_of=mine"]
    two = config_of(**MINE | {"datasets": ["motions", "mine"]})
    assert own(two)[1::2] == ["video_focalnet_w12_d1121", "video_focalnet_w12_d1121.classes_of=mine"]
    assert steps.profile_inputs(two, own(two)[3]) == [paths.index_path("mine")]


def test_a_network_that_a_study_chooses_is_profiled_once_it_is_chosen():
    widths = {"arms": ["student"], "grid": {"student.model_overrides.embed_dim": [8, 16]}}
    config = config_of(ablation={"studies": {"widths": widths}}, chosen_by=["epochs", "widths"])
    assert own(config)[1] == "video_focalnet_w12_d1121.chosen_by=widths"
    choices = [paths.study_directory("motions", study) / "choice.json" for study in ("epochs", "widths")]
    assert steps.profile_inputs(config, own(config)[1]) == [paths.index_path("motions"), *choices]
    assert steps.profile_inputs(config, own(config)[0]) == [paths.index_path("motions")]  # nothing chooses the teacher
    trial = plan.trial_runs(config, "motions", "widths")[0]
    assert networks.label_of(config, trial) == "video_focalnet_w12_d1121.embed_dim=8"


@pytest.mark.parametrize(
    "value", [32, 0.5, 1e-05, 1e20, None, True, "narrow", "a b/c; rm", "ä", [1, 2], ["x", "y"], {"a": [1]}, "x" * 300]
)
def test_names_are_safe_and_what_snakemake_takes(value):
    config = config_of(**AT_112)
    student = config.student.model_copy(update={"model_overrides": {"embed_dim": value, "z": value}})
    config = config.model_copy(update={"student": student})
    name = networks.profile_names(config)["motions", "student"]
    (pattern,) = re.findall(r'^ +model=r"(.+)",$', (PROJECT / "Snakefile").read_text(), flags=re.M)
    assert re.fullmatch(pattern, name) and name.isascii() and len(name) < 200


def test_long_names_still_differ():
    config = config_of(**AT_112)
    names = set()
    for last in (1, 2):
        overrides = {f"{'key' * 10}{number}": number for number in range(9)} | {"z": last}
        student = config.student.model_copy(update={"model_overrides": overrides})
        names.add(networks.profile_names(config.model_copy(update={"student": student}))["motions", "student"])
    assert len(names) == 2
