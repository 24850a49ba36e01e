"""What each step reads, and which values make it run again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dvfl import paths, steps
from dvfl.config import Config, check_config, merge
from dvfl.data.errors import DataError
from dvfl.deploy.packages import ExportError
from dvfl.distill.modulators import ModulatorsError
from dvfl.models import registry
from dvfl.run import Run

RAW: dict[str, Any] = {
    "datasets": ["mine"],
    "dataset_definitions": {"mine": {"kind": "folder", "root": "/clips"}},
    "teacher": {"model": "video_focalnet_small"},
    "student": {"model": "video_focalnet_tiny"},
    "profile": {"paper_models": ["vfl_net"]},
    "arms": {
        "teacher": {"network": "teacher"},
        "student": {"network": "student"},
        "distilled": {"network": "student", "distil_from": "teacher"},
    },
    "ablation": {"studies": {"sweep": {"arms": ["distilled"], "grid": {"distill.alpha": [0.2, 0.9]}, "seeds": [0, 1]}}},
}


def config_of(**values: Any) -> Config:
    return check_config(merge(RAW, values))


def run(arm: str, **others: Any) -> Run:
    return Run("mine", "split1", "as_described", arm, 0, **others)


@pytest.mark.parametrize(
    ("key", "value", "clips", "split"),
    [
        ("root", "/elsewhere", True, False),
        ("group", "(?P<group>.+)_c", True, False),
        ("min_frames", 8, True, False),
        ("test_fraction", 0.3, False, True),
        ("validation_fraction", 0.3, False, True),
        ("split_seed", 4, False, True),
        ("horizontal_flip", False, False, False),
        ("splits", ["split1", "split2"], False, False),
    ],
)
def test_index_and_split_are_made_anew_for_their_own_values_alone(key, value, clips, split):
    before, after = config_of(), config_of(dataset_definitions={"mine": {key: value}})
    assert (steps.definition_of_clips(before, "mine") != steps.definition_of_clips(after, "mine")) == clips
    assert (steps.definition_of_split(before, "mine") != steps.definition_of_split(after, "mine")) == split


def test_how_the_embedded_clips_look_changes_their_index():
    before = config_of(datasets=["motions"])
    after = config_of(datasets=["motions"], dataset_definitions={"motions": {"motions": {"size": 40}}})
    assert steps.definition_of_clips(before, "motions") != steps.definition_of_clips(after, "motions")


def test_only_what_is_rendered_is_fetched():
    config = config_of(datasets=["mine", "motions"])
    assert steps.fetched(config, "mine") == []
    assert steps.fetched(config, "motions") == ["results/data/motions/fetched.json"]


def test_an_index_waits_for_its_shards():
    inputs = steps.index_inputs(config_of(), "kinetics400")
    assert inputs[0] == "results/data/kinetics400/fetched.json"
    assert inputs[1:] == [f"results/data/kinetics400/indexed/{shard}.json" for shard in range(16)]


def test_a_split_reads_the_lists_that_it_follows(tmp_path):
    for name in ("trainlist01.txt", "testlist01.txt", ".hidden"):
        (tmp_path / name).touch()
    own = [str(tmp_path / name) for name in ("testlist01.txt", "trainlist01.txt")]
    config = config_of(dataset_definitions={"mine": {"lists": {"official": str(tmp_path)}}})
    assert steps.split_inputs(config, "mine", "split1") == steps.index_inputs(config, "mine") == own
    assert steps.split_inputs(config, "mine", "fold1of5") == steps.split_inputs(config_of(), "mine", "split1") == []
    # What is fetched with the clips is there before the index; the released lists are fetched for their split alone.
    assert [steps.split_inputs(config, "ucf101", split) for split in ("split1", "released")] == [
        [],
        ["results/data/ucf101/released.json"],
    ]
    gone = {"lists": {"released": str(tmp_path / "nowhere")}, "root": str(tmp_path)}
    with pytest.raises(DataError, match=r"mine\.lists\.released: .*nowhere does not exist"):
        steps.check_data(config_of(dataset_definitions={"mine": gone}))


def test_another_released_list_leaves_the_clips_alone():
    before = config_of(datasets=["ucf50"])
    source = before.dataset_definitions["ucf50"].source.model_dump(mode="json")
    source["archives"][1]["checksum"]["value"] = 64 * "0"
    after = config_of(datasets=["ucf50"], dataset_definitions={"ucf50": {"source": source}})
    assert steps.definition_of_clips(before, "ucf50") == steps.definition_of_clips(after, "ucf50")
    assert steps.definition_of_released(before, "ucf50") != steps.definition_of_released(after, "ucf50")


def test_a_training_reads_its_clips_its_teacher_its_choice_and_given_weights():
    config = config_of(chosen_by=["sweep"], teacher={"weights": "big.safetensors"})
    data = {"index": paths.index_path("mine"), "split": paths.split_path("mine", "split1")}
    assert steps.training(config, run("student")) == data
    assert steps.training(config, run("teacher")) == data | {"weights": Path("big.safetensors")}
    assert steps.training(config, run("distilled")) == data | {
        "teacher": Path("results/runs/mine/split1/as_described/teacher/seed0/weights.safetensors"),
        "choices": [Path("results/ablation/mine/sweep/choice.json")],
    }


def test_a_training_reads_what_it_starts_from_by_path_or_as_fetched():
    config = config_of(teacher={"start_from": "focalnet_tiny_srf"}, student={"start_from": "mine.pth"})
    fetched = Path("resources/weights/focalnet_tiny_srf.pth")
    assert steps.training(config, run("teacher"))["start_from"] == fetched
    assert steps.training(config, run("student"))["start_from"] == Path("mine.pth")
    both = config_of(teacher={"start_from": "focalnet_tiny_srf", "weights": "big.pth"})
    assert "start_from" not in steps.training(both, run("teacher"))


def test_another_address_does_not_fetch_weights_anew_but_another_checksum_does():
    def definition(**values):
        config = config_of(weights_definitions={"focalnet_tiny_srf": values})
        return steps.definition_of_weights(config, "focalnet_tiny_srf")

    assert definition(urls=["https://example.org/x"]) == definition()
    assert definition(size=7) != definition()


def test_a_training_reads_frames_where_they_are_stored():
    config = config_of(input={"frame_store": {"shards": 2}})
    frames = [Path(f"results/data/mine/frames/36px_bilinear_q90/{shard}of2.json") for shard in (0, 1)]
    assert steps.training(config, run("student"))["frames"] == steps.frames(config, run("student")) == frames
    assert steps.frames(config_of(), run("student")) == []


def test_a_choice_reads_the_scores_of_all_trials():
    folder = Path("results/ablation/mine/sweep")
    assert steps.scores(config_of(), "mine", "sweep") == [
        folder / f"alpha={alpha}/distilled/seed{seed}/scores.json" for alpha in (0.2, 0.9) for seed in (0, 1)
    ]


def test_models_of_the_runs_are_profiled_at_their_own_size_and_paper_models_at_the_papers():
    config = config_of()
    assert set(steps.profiled_runs(config)) == {"video_focalnet_small", "video_focalnet_tiny"}
    assert steps.profile_inputs(config, "vfl_net") == []
    assert steps.profile_inputs(config, "video_focalnet_tiny") == [paths.index_path("mine")]


@pytest.mark.parametrize(
    ("values", "paper", "own"),
    [
        ({"profile": {"repeats": 9}}, True, False),
        ({"profile": {"repeats_small": 9}}, False, True),
        ({"profile": {"precision": "bfloat16"}}, True, True),
        ({"profile": {"img_size": 64}}, True, False),
        ({"input": {"img_size": 24}}, False, True),
        ({"student": {"model_overrides": {"embed_dim": 8}}}, False, True),
        ({"train": {"epochs": 3}}, False, False),
    ],
)
def test_a_profile_is_made_anew_for_its_own_values_alone(values, paper, own):
    before, after = config_of(), config_of(**values)
    for model, expected in (("vfl_net", paper), ("video_focalnet_tiny", own)):
        assert (steps.profile_settings(before, model) != steps.profile_settings(after, model)) == expected


# ----------------------------------------------------------------------------------------------------- a user's folder


def make_clips(root: Path, **classes: int) -> None:
    """Empty files named as clips are."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.avi").touch()


@pytest.mark.parametrize(
    ("classes", "values", "said"),
    [
        ({"run": 9}, {}, "holds clips of 1 class (run); recognition needs two or more"),
        ({"run": 9, "walk": 2}, {}, "class 'walk' has 2 groups of usable clips"),
        ({"run": 9, "walk": 1}, {"splits": ["clips1"]}, "class 'walk' has 1 groups of usable clips"),
        ({"run": 9, "walk": 9}, {"group": "(?P<group>[a-z]+)_c"}, "matches no clip of"),
    ],
)
def test_what_the_clips_names_tell_is_told_before_any_work(tmp_path, classes, values, said):
    make_clips(tmp_path / "clips", **classes)
    config = config_of(dataset_definitions={"mine": {"root": str(tmp_path / "clips")} | values})
    with pytest.raises(DataError) as error:
        steps.check_data(config)
    assert str(error.value).startswith("dataset_definitions.mine.root: ") and said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_where_lists_say_what_is_what_names_are_not_counted(tmp_path):
    make_clips(tmp_path / "clips", run=1)
    (tmp_path / "lists").mkdir()
    own = {"root": str(tmp_path / "clips"), "lists": {"official": str(tmp_path / "lists")}}
    steps.check_data(config_of(dataset_definitions={"mine": own}))


def test_a_sound_root_passes(tmp_path):
    make_clips(tmp_path, run=3, walk=3)
    steps.check_data(config_of(root=str(tmp_path)))
    steps.check_data(config_of(datasets=["motions"]))  # there is nothing yet, and nothing to check


@pytest.mark.parametrize("kind", ["absent", "file", "empty", "files alone", "empty classes"])
def test_a_root_without_clips_is_refused_before_any_work(tmp_path, kind):
    root = tmp_path / "clips"
    if kind == "file":
        root.touch()
    elif kind != "absent":
        root.mkdir()
    if kind == "files alone":
        (root / "a.avi").touch()
    if kind == "empty classes":
        (root / "run").mkdir()
    with pytest.raises(DataError) as error:
        steps.check_data(config_of(root=str(root)))
    assert str(error.value).startswith(f"dataset_definitions.mine.root: {root} ")


def listing(root: Path) -> str:
    return steps.listing(config_of(root=str(root)).dataset_definitions["mine"])


def test_the_listing_tells_that_a_clip_came_went_or_changed(tmp_path):
    clip = tmp_path / "run/a.avi"
    clip.parent.mkdir()
    clip.write_bytes(b"one")
    os.utime(clip, (1, 1))
    seen = [listing(tmp_path)]
    assert listing(tmp_path) == seen[0]
    clip.write_bytes(b"more")
    os.utime(clip, (1, 1))
    seen.append(listing(tmp_path))
    os.utime(clip, (2, 2))
    seen.append(listing(tmp_path))
    (tmp_path / "run/b.avi").touch()
    seen.append(listing(tmp_path))
    clip.unlink()
    seen.append(listing(tmp_path))
    assert len(set(seen)) == 5


def test_a_link_that_leads_nowhere_does_not_stop_the_listing(tmp_path):
    (tmp_path / "run").mkdir()
    before = listing(tmp_path)
    (tmp_path / "run/gone.avi").symlink_to(tmp_path / "nowhere.avi")
    assert listing(tmp_path) != before


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"seeds": [0, 1]}, True),
        ({"evaluate": {"resamples": 500}}, True),
        ({"ablation": {"run": ["sweep"]}}, True),
        ({"train": {"workers": 2}}, False),
        ({"tracking": {"uri": "http://127.0.0.1:1"}}, False),
    ],
)
def test_tables_are_made_anew_where_their_rows_change(values, changes):
    assert (steps.report_settings(config_of()) != steps.report_settings(config_of(**values))) == changes


def with_features(**values: Any) -> Config:
    return config_of(**merge({"distill": {"targets": "online", "features": {"weight": 1.0}}}, values))


def test_networks_whose_modulators_cannot_be_compared_are_refused_before_any_work():
    steps.check_features(config_of(teacher={"model_overrides": {"depths": [1]}}))  # built by nobody: features are off
    steps.check_features(with_features())
    fewer = {"depths": [1], "focal_levels": [2], "focal_windows": [3]}
    with pytest.raises(ModulatorsError, match="the student has 4 stages and the teacher 1"):
        steps.check_features(with_features(teacher={"model_overrides": fewer}))
    in_a_trial = {"studies": {"sweep": {"set": {"teacher.model_overrides": fewer}}}}
    steps.check_features(with_features(ablation=in_a_trial))  # a study's values are not its teacher's


def test_exported_forms_that_nothing_here_can_make_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else name)
    steps.check_exported_forms(config_of())
    with pytest.raises(ExportError, match=r"profile.exported: openvino is not installed: .*, or set it to \[\]"):
        steps.check_exported_forms(config_of(profile={"exported": ["int8"]}))


def test_a_network_without_modulators_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    registry.register_model(lambda **arguments: torch.nn.Linear(2, 2), name="no_focal_net")
    with pytest.raises(ModulatorsError, match="the student is a Linear, which has no modulators"):
        steps.check_features(with_features(student={"model": "no_focal_net"}))
