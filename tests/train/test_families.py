"""Any model as teacher or student: real distillations across families, and clips that a model refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dvfl import steps
from dvfl.config import ConfigError
from dvfl.evaluate import job as evaluation
from dvfl.files import read_json, sha256
from dvfl.models import plugins, registry
from dvfl.models.weights import WeightsError, load_network

PLUGIN = """
import torch
from dvfl.models import register_model

class MeanColour(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = torch.nn.Linear(3, num_classes)

    def forward(self, clips):
        return self.head(clips.mean((1, 3, 4)))

@register_model
def mean_colour(*, num_classes, num_frames, img_size):
    return MeanColour(num_classes)
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Whatever a test registers is forgotten after it."""
    for module, name in ((registry, "_builders"), (registry, "_checks"), (plugins, "_files")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def plugin(project) -> Path:
    """A file in the project's folder that registers `mean_colour`."""
    file = project.root / "my_models.py"
    file.write_text(PLUGIN)
    return file


def network(model: str, **train: Any) -> dict[str, Any]:
    """A network of another family: nothing of the project's VideoFocalNets is left."""
    nothing = dict.fromkeys(("embed_dim", "depths", "drop_path_rate", "init"))
    return {"model": model, "model_overrides": nothing, "train": {"optimizer": "sgd", "lr": 0.01, "epochs": 1} | train}


def assert_distilled(project, values: dict[str, Any], model: str) -> None:
    """Distils, and tests the student that is read back from its file."""
    directory = project.train("distilled", values)
    table, about = pd.read_csv(directory / "history.csv"), read_json(directory / "run.json")
    assert about["model"] == model
    assert about["teacher_top1_on_training_clips"] > 0.7
    weighted = 0.5 * table["loss_kd"] + 0.5 * table["loss_ce"]
    pd.testing.assert_series_equal(table["loss"], weighted, check_names=False, rtol=1e-5)
    config = project.config(values)
    evaluation.test_run(config, project.run(config, "distilled"))
    predictions = pd.read_parquet(directory / "predictions.parquet")
    assert predictions["probabilities"].map(sum).to_numpy() == pytest.approx(1)
    assert predictions["probabilities"].map(len).eq(3).all()


@pytest.mark.parametrize("model", ["mc3_18", "timm/test_resnet"])
def test_a_video_focalnet_teaches_another_family(taught, model):
    assert_distilled(taught, {"student": network(model)}, model)


def test_a_teacher_of_another_family_sees_what_its_student_sees(taught, monkeypatch):
    """Normalised by the config's values, whatever the family."""
    from dvfl.models import per_frame
    from dvfl.models.video_focalnet import VideoFocalNet

    seen: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}
    for role, model in (("teacher", VideoFocalNet), ("student", per_frame.PerFrame)):

        def watched(self, clips, role=role, forward=model.forward):
            seen[role].append(clips.detach().clone())
            return forward(self, clips)

        monkeypatch.setattr(model, "forward", watched)
    values = {
        "student": network("timm/test_resnet"),
        "input": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "views": None, "flip": 0.5},
        "distill": {"targets": "online", "teacher_gate": False},
    }
    taught.train("distilled", values)
    shown = seen["student"][1:]  # the first is a black clip, to try the model
    steps = [clips for clips in shown if len(clips) == 6]
    assert steps and all(clips.min() >= 0 and clips.max() <= 1 and clips.max() > 0.5 for clips in steps)
    assert all(any(torch.equal(clips, other) for other in seen["teacher"]) for clips in steps)


def test_an_image_model_teaches_a_video_focalnet(project):
    values = {"teacher": network("timm/test_resnet", epochs=6, optimizer="adamw", lr=0.001)}
    project.train("teacher", values)
    assert_distilled(project, values, "video_focalnet_tiny")


def test_a_model_of_ones_own_teaches_an_image_model(project, plugin):
    values = {
        "plugins": ["my_models.py"],
        "teacher": network("mean_colour", epochs=10, lr=0.5),
        "student": network("timm/test_resnet"),
    }
    about = read_json(project.train("teacher", values) / "run.json")
    assert about["inputs"]["plugin"] == sha256(plugin)
    assert_distilled(project, values, "timm/test_resnet")


def test_a_changed_plugin_is_a_changed_run(project, plugin):
    values = {"plugins": ["my_models.py"], "student": network("mean_colour")}
    config = project.config(values)
    assert steps.training(config, project.run(config))["plugin"] == Path("my_models.py")
    assert "plugin" not in steps.training(config, project.run(config, "teacher"))
    key = read_json(project.train("student", values) / "run.json")["key"]
    plugin.write_text(PLUGIN + "# as before\n")
    assert read_json(project.train("student", values) / "run.json")["key"] != key


def test_a_clip_is_recognised_by_a_model_of_ones_own(project, plugin, command, dvfl_command, colour_clips):
    directory = project.train("student", {"plugins": ["my_models.py"], "student": network("mean_colour", lr=0.5)})
    clip = next(colour_clips.glob("red/*.avi"))
    out, err = dvfl_command("predict", clip, "--run", directory, "--plugin", "my_models.py").communicate()
    assert {line.split()[-1] for line in out.splitlines()} == {"red", "green", "blue"}, err
    del registry._builders["mean_colour"]  # as in a process that has not imported the plugin
    code, _, err = command("predict", clip, "--run", directory)
    assert code == 1
    assert err.startswith("dvfl: mean_colour: is not a registered model") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (network("s3d"), "s3d takes 5 frames or more"),
        (network("timm/test_resnet") | {"model_overrides": {"pretrained": True}}, "model_overrides fetch no weights"),
        (network("r3d_19"), "is not a registered model; did you mean 'r3d_18'?"),
        (network("timm/resnet81"), "is no image model of timm .*; did you mean 'timm/resnet18'?"),
        (network("timm/resnet18.nowhere"), "is no image model of timm .*nowhere"),
    ],
)
def test_what_can_be_told_without_building_is_refused_with_the_config(project, student, said):
    with pytest.raises(ConfigError, match=rf"^student\.model: {said}") as error:
        project.config({"student": student})
    assert len(str(error.value).splitlines()) == 1


def test_an_argument_that_torchvision_does_not_know_is_refused_with_the_config(project):
    student = network("r3d_18")
    student["model_overrides"] = {**student["model_overrides"], "no_such_option": 1}
    with pytest.raises(ConfigError, match=r"^student\.model_overrides\.no_such_option: there is no such argument"):
        project.config({"student": student})


def test_a_trial_with_clips_that_its_model_does_not_take_is_refused_with_the_config(project):
    sweep = {"arms": ["student"], "grid": {"input.frames": [4, 5]}}
    with pytest.raises(ConfigError, match=r"^ablation\.studies\.sweep: student\.model: mvit_v1_b takes an even number"):
        project.config({"student": network("mvit_v1_b"), "ablation": {"studies": {"sweep": sweep}}})


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (network("timm/inception_v3"), "Kernel size can't be greater"),
        (network("r3d_18", batch_size=1) | {"input": 16}, "a micro-batch of one clip: Expected more than 1 value"),
    ],
)
def test_what_only_the_model_can_tell_is_refused_before_it_is_trained(project, student, said):
    size = student.pop("input", 32)
    with pytest.raises(WeightsError, match=said) as error:
        project.train("student", {"student": student, "input": {"img_size": size, "short_side": 32}})
    assert str(error.value).startswith(f"{student['model']} with num_classes=3, num_frames=2, img_size={size}")
    assert len(str(error.value).splitlines()) == 1
    assert not list(project.root.glob("results/runs/**/checkpoint.pt"))


def test_a_model_of_ones_own_that_ignores_the_number_of_classes_is_refused(project, plugin):
    plugin.write_text(PLUGIN.replace("Linear(3, num_classes)", "Linear(3, 400)"))
    with pytest.raises(WeightsError, match=r"gives \(1, 400\) for one clip, not logits \(1, 3\)"):
        project.train("student", {"plugins": ["my_models.py"], "student": network("mean_colour")})


def test_another_family_starts_from_what_a_run_has_written(project):
    directory = project.train("student", {"student": network("timm/test_resnet")})
    given = (directory / "weights.safetensors").rename("given.safetensors")
    again = project.train("student", {"student": network("timm/test_resnet") | {"start_from": str(given)}})
    assert read_json(again / "run.json")["loading"]["share"] == 1


def test_the_trial_of_a_model_leaves_it_as_it_was(project):
    project.train("student", {"student": network("timm/test_resnet")})
    model, description = load_network("results/runs/colours/split1/as_described/student/seed0/weights.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    description.check(model)
    description.check(model, alone=True)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
