"""From settings to files: real trainings of a tiny network, killed, resumed, refused."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dvfl import paths, plan
from dvfl.config import ConfigError
from dvfl.data.errors import DataError
from dvfl.data.fetch import FetchError
from dvfl.data.splits import read_split
from dvfl.distill.targets import TeacherAtChance
from dvfl.evaluate import job as evaluation
from dvfl.files import MissingInput, OutputError, read_json, sha256, write_json
from dvfl.models import create_model
from dvfl.models.weights import NetworkDescription, WeightsError, load_network, save_weights
from dvfl.train import job, teacher
from dvfl.train.checkpoint import Checkpoint
from dvfl.train.inputs import input_hashes
from dvfl.train.lease import LeaseTaken, lease

RUN = Path("results/runs/colours/split1/as_described")
FILES = {"history.csv", "run.json", "weights.safetensors"}


def history(directory: Path) -> pd.DataFrame:
    return pd.read_csv(directory / "history.csv").drop(columns="seconds")


def outcome(directory: Path) -> tuple[str, pd.DataFrame]:
    return sha256(directory / "weights.safetensors"), history(directory)


def assert_same(one: tuple[str, pd.DataFrame], other: tuple[str, pd.DataFrame]) -> None:
    pd.testing.assert_frame_equal(one[1], other[1], check_exact=True)
    assert one[0] == other[0]


# ------------------------------------------------------------------------------------------------------------- files


def test_a_run_leaves_its_three_files_and_no_checkpoint(project):
    directory = project.train("student")
    assert directory == RUN / "student/seed0"
    assert set(os.listdir(directory)) == FILES
    assert project.checkpoints() == []


def test_run_json_says_what_made_the_run(project):
    about = read_json(project.train("student") / "run.json")
    promised = {"mlflow_run_id", "commit", "dirty", "settings", "settings_digest", "inputs", "versions", "device"}
    promised |= {"seconds", "peak_memory_mb", "params", "threads", "precision", "train_clips", "name", "model"}
    assert promised <= set(about)
    assert len(about["mlflow_run_id"]) == 32
    config = project.config()
    settings = plan.run_settings(config, project.run(config))
    assert about["settings_digest"] == settings.digest
    assert about["settings"] == settings.model_dump(mode="json")
    assert about["inputs"] == {
        "index": sha256("results/data/colours/index.parquet"),
        "split": sha256("results/data/colours/splits/split1.csv"),
        "teacher_weights": None,
        "weights": None,
    }
    assert about["name"] == "split1/as_described/student/seed0"
    assert about["device"] == "cpu" and about["precision"] == "float32" and about["threads"] == 1
    assert {"python", "torch", "numpy"} <= set(about["versions"])
    assert about["seconds"] > 0 and about["peak_memory_mb"] > 50
    model, description = load_network(RUN / "student/seed0/weights.safetensors")
    assert about["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert description.classes == ["blue", "green", "red"]


def test_history_has_a_row_for_each_epoch(project):
    table = pd.read_csv(project.train("student", {"student": {"train": {"epochs": 3}}}) / "history.csv")
    assert table["epoch"].tolist() == [1, 2, 3]
    assert {"lr", "loss", "loss_ce", "train_top1", "seconds"} <= set(table)


def test_a_run_can_be_made_again_with_the_same_bytes_but_a_seed_makes_others(project):
    one = outcome(project.train("student"))
    assert_same(outcome(project.train("student")), one)
    assert outcome(project.train("student", {"seeds": [0, 1]}, seed=1))[0] != one[0]


def test_results_do_not_depend_on_the_number_of_workers(project, another_folder):
    other = another_folder(project, "other")
    here = outcome(other.train("student", {"train": {"workers": 1}}))
    os.chdir(project.root)
    assert_same(outcome(project.train("student", {"train": {"workers": 0}})), here)


def test_a_run_reads_the_frame_store_that_its_config_has(project, command):
    values = {"input": {"frame_store": {}}}
    with pytest.raises(MissingInput, match="`dvfl frames`"):
        project.train("student", values)
    code, _, said = command("frames", "colours", "--config", project.config_file(values))
    assert code == 0 and "18 clips of 108 frames will take about" in said
    live = outcome(project.train("student"))
    directory = project.train("student", values)
    about = read_json(directory / "run.json")
    assert about["settings"]["input"]["frame_store"] == {"short_side": None, "quality": 90, "shards": 1}
    assert outcome(directory)[0] != live[0]  # JPEG changed the pixels
    evaluation.test_run(project.config(values), project.run(project.config(values)))
    assert (directory / "predictions.parquet").exists()


@pytest.mark.parametrize("joined", [True, False])
def test_validation_clips_are_trained_on_as_the_config_says(project, joined):
    directory = project.train("student", {"train": {"include_validation": joined}})
    subsets = read_split(paths.split_path("colours", "split1"))["subset"].value_counts()
    assert subsets["validation"] > 0 and subsets["test"] > 0
    expected = subsets["train"] + (subsets["validation"] if joined else 0)
    about = read_json(directory / "run.json")
    assert about["train_clips"] == about["train_groups"] == expected
    assert ("val_top1" in history(directory)) != joined  # who trains on validation does not look at it


def test_the_selection_stage_never_trains_on_validation(project):
    config = project.config()
    run = project.run(config, "teacher", stage="selection")
    job.train_run(config, run)
    subsets = read_split(paths.split_path("colours", "split1"))["subset"].value_counts()
    assert read_json(run.directory / "run.json")["train_clips"] == subsets["train"]
    assert history(run.directory)["val_top1"].notna().all()


def test_few_labelled_clips_are_as_many_of_each_class(project):
    about = read_json(project.train("student", {"student": {"clips_per_class": 2}}) / "run.json")
    assert about["train_clips"] == 6


def test_given_weights_replace_the_training(taught):
    given = taught.root / "given.safetensors"
    (taught.root / RUN / "teacher/seed0/weights.safetensors").rename(given)
    directory = taught.train("teacher", {"teacher": {"weights": str(given)}})
    model, _ = load_network(directory / "weights.safetensors")
    other, _ = load_network(given)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert len(pd.read_csv(directory / "history.csv")) == 0
    assert read_json(directory / "run.json")["inputs"]["weights"] == sha256(given)


def test_a_checkpoint_of_others_replaces_the_training_if_all_of_it_fits(taught):
    stored = taught.root / RUN / "teacher/seed0/weights.safetensors"
    given = taught.root / "ckpt_epoch_119.pth"
    torch.save({"model": {f"module.{name}": value for name, value in load_file(stored).items()}}, given)
    expected = load_file(stored)
    directory = taught.train("teacher", {"teacher": {"weights": str(given), "start_from": "focalnet_base_srf"}})
    loaded = load_file(directory / "weights.safetensors")
    assert loaded.keys() == expected.keys() and all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert load_network(directory / "weights.safetensors")[1].trained_on is None  # such a file does not say
    about = read_json(directory / "run.json")
    assert about["loading"]["share"] == 1.0 and "start_from" not in about["inputs"]
    other = {"weights": str(given), "model_overrides": {"embed_dim": 6, "depths": [1, 1, 2, 1]}}
    with pytest.raises(WeightsError, match=r"do not fit as they are \(for example layers\.2\.blocks\.1"):
        taught.train("teacher", {"teacher": other})


# ---------------------------------------------------------------------------------------------------- starting weights


def image_weights(path: Path, width: int, seed: int = 5) -> dict[str, torch.Tensor]:
    """An image FocalNet's weights as their owners store them."""
    torch.manual_seed(seed)
    model = create_model("video_focalnet_tiny", num_classes=1000, embed_dim=width, depths=[1, 1, 2, 1])
    state = {name: value for name, value in model.state_dict().items() if "_temporal" not in name}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state}, path)
    return state


def test_training_starts_from_given_weights_and_says_what_became_of_them(project, monkeypatch, capsys):
    path = project.root / "image.pth"
    given = image_weights(path, width=4)
    began: list[dict[str, torch.Tensor]] = []
    fit = job.fit
    monkeypatch.setattr(
        job,
        "fit",
        lambda task, *others, **named: (
            began.append({name: value.clone() for name, value in task.model.state_dict().items()})
            or fit(task, *others, **named)
        ),
    )
    drawn = outcome(project.train("student"))
    directory = project.train("student", {"student": {"start_from": str(path)}})
    without, start = began
    for name, value in start.items():
        taken = name in given and not name.startswith("head.")
        assert torch.equal(value, given[name] if taken else without[name]), name
    assert outcome(directory)[0] != drawn[0]
    about = read_json(directory / "run.json")
    assert about["inputs"]["start_from"] == sha256(path)
    assert about["settings"]["network"]["start_from"] == str(path)
    loading = about["loading"]
    assert loading["layout"] == "focalnet" and loading["adapted"].keys() == {"head.weight", "head.bias"}
    assert all(name.startswith("layers.2.blocks.1.") for name in loading["ignored"])
    loaded = f"{len(loading['loaded'])} of {len(start)} weights loaded"
    assert f"{path} (focalnet layout) into VideoFocalNet: {loaded}" in capsys.readouterr().err


def test_a_network_is_pretrained_on_another_data_set_and_goes_on_from_there(project):
    """The other data set is the same clips by another name: what matters is whose weights are taken over."""
    project.settings["dataset_definitions"]["others"] = dict(project.settings["dataset_definitions"]["colours"])
    shutil.copytree("results/data/colours", "results/data/others")
    config = project.config({"student": {"pretrain": {"dataset": "others", "set": {"student.train.epochs": 4}}}})
    run = project.run(config)
    with pytest.raises(MissingInput, match="pretraining/others/student/seed0/weights"):
        job.train_run(config, run)
    first = plan.pretraining_of(config, run)
    job.train_run(config, first)
    assert len(history(first.directory)) == 4
    assert read_json(first.directory / "run.json")["stage"] == "pretraining"
    job.train_run(config, run)
    about = read_json(run.directory / "run.json")
    assert about["inputs"]["start_from"] == sha256(first.directory / "weights.safetensors")
    assert about["loading"]["share"] > 0.9 and len(history(run.directory)) == 2


def test_other_bytes_to_start_from_train_anew(project):
    path = project.root / "image.pth"
    values = {"student": {"start_from": str(path)}}
    image_weights(path, width=4)
    one = outcome(project.train("student", values))
    assert_same(outcome(project.train("student", values)), one)
    image_weights(path, width=4, seed=6)
    assert outcome(project.train("student", values))[0] != one[0]
    config = project.config()
    assert "start_from" not in input_hashes(config, project.run(config))


def test_named_weights_are_those_that_were_fetched(project):
    values = {"student": {"start_from": "focalnet_tiny_srf"}}
    with pytest.raises(MissingInput, match=r"dvfl results resources/weights/focalnet_tiny_srf\.pth"):
        project.train("student", values)
    file = project.root / "resources/weights/focalnet_tiny_srf.pth"
    image_weights(file, width=4)
    about = read_json(project.train("student", values) / "run.json")
    assert about["inputs"]["start_from"] == sha256(file) and about["loading"]["layout"] == "focalnet"
    image_weights(file, width=4, seed=6)  # the sha256 seen first was recorded
    with pytest.raises(FetchError, match="not the one seen first"):
        project.train("student", values)


def test_weights_of_another_architecture_stop_the_training(project):
    image_weights(project.root / "image.pth", width=8)
    with pytest.raises(WeightsError, match="another shape"):
        project.train("student", {"student": {"start_from": str(project.root / "image.pth")}})
    assert project.checkpoints() == [] and not (RUN / "student/seed0/run.json").exists()


# ------------------------------------------------------------------------------------------- what is missing or wrong


def test_missing_inputs_are_named_with_what_makes_them(empty_project, made_once):
    with pytest.raises(MissingInput, match=r"dvfl results results/data/colours/index\.parquet"):
        empty_project.train("student")
    with pytest.raises(DataError, match=r"none\.safetensors: no such weights file"):
        empty_project.train("student", {"student": {"weights": "none.safetensors"}})


def test_a_student_without_its_teacher_says_which_teacher(project):
    with pytest.raises(MissingInput, match=r"dvfl results results/runs/.*/teacher/seed0/weights\.safetensors"):
        project.train("distilled")


def test_given_weights_of_another_network_are_refused(taught):
    weights = RUN / "teacher/seed0/weights.safetensors"
    with pytest.raises(WeightsError, match="does not fit VideoFocalNet"):
        taught.train("student", {"student": {"weights": str(weights)}})
    assert not (RUN / "student/seed0").exists()


def test_mixup_of_odd_batches_is_refused_before_anything_runs(project):
    with pytest.raises(ConfigError, match=r"student\.train: mixup and CutMix need an even batch_size, not 5"):
        project.config({"student": {"train": {"mixup": 0.8, "batch_size": 5}}})


def test_a_run_directory_has_one_writer(project):
    with lease(RUN / "student/seed0.resume"), pytest.raises(LeaseTaken, match="is already working on this run"):
        project.train("student")
    assert not (RUN / "student/seed0").exists()
    project.train("student")


# ------------------------------------------------------------------------------------------------------- distillation


def test_distillation_logs_the_parts_of_its_loss_and_leaves_the_teacher_alone(taught):
    teacher = RUN / "teacher/seed0/weights.safetensors"
    before = sha256(teacher)
    directory = taught.train("distilled")
    table, about = history(directory), read_json(directory / "run.json")
    weighted = 0.5 * table["loss_kd"] + 0.5 * table["loss_ce"]
    pd.testing.assert_series_equal(table["loss"], weighted, check_names=False, rtol=1e-5)
    assert sha256(teacher) == before == about["inputs"]["teacher_weights"]
    assert about["teacher_top1_on_training_clips"] > 0.7
    assert about["settings"]["distill"]["alpha"] == 0.5


def test_stored_and_fresh_targets_end_in_nearly_the_same_weights(taught, another_folder):
    # SGD: AdamW would turn a last bit of a gradient near zero into a whole step.
    values = {"student": {"train": {"optimizer": "sgd", "epochs": 4}}}
    cached = taught.train("distilled", values)
    one, table = load_network(cached / "weights.safetensors")[0].state_dict(), history(cached)
    another_folder(taught, "online")
    online = taught.train("distilled", values | {"distill": {"targets": "online"}})
    two = load_network(online / "weights.safetensors")[0].state_dict()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)
    pd.testing.assert_frame_equal(history(online), table, rtol=1e-4)
    plain = load_network(taught.train("student", values) / "weights.safetensors")[0].state_dict()
    assert max((plain[name] - weight).abs().max() for name, weight in one.items()) > 1e-3


def test_the_teacher_sees_every_input_of_the_student_even_when_they_are_mixed(taught, monkeypatch):
    seen: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}

    def spied(network, role):
        network.register_forward_pre_hook(
            lambda module, arguments: seen[role].append((arguments[0].clone(), module.training))
        )
        return network

    load, build = teacher.load_network, NetworkDescription.build
    monkeypatch.setattr(NetworkDescription, "build", lambda self: spied(build(self), "student"))

    def load_teacher(path):
        with monkeypatch.context() as plain:
            plain.setattr(NetworkDescription, "build", build)
            network, description = load(path)
        return spied(network, "teacher"), description

    monkeypatch.setattr(teacher, "load_network", load_teacher)
    taught.train("distilled", {"student": {"train": {"mixup": 0.8, "batch_size": 4}}})
    shown = [inputs for inputs, training in seen["student"] if training]
    looked = seen["teacher"][-len(shown) :]
    assert len(shown) == 6  # 2 epochs of 3 micro-batches
    for inputs, (taught_by, training) in zip(shown, looked, strict=True):
        assert torch.equal(inputs, taught_by)
        assert not training


def test_a_teacher_at_chance_stops_the_job_before_it_trains(taught):
    weights = RUN / "teacher/seed0/weights.safetensors"
    network, description = load_network(weights)
    torch.nn.init.zeros_(network.head.weight)
    save_weights(weights, network, description)
    with pytest.raises(TeacherAtChance, match=r"teacher/seed0/weights\.safetensors: .*right on 33\.3%"):
        taught.train("distilled")
    assert not (RUN / "distilled/seed0").exists()
    assert taught.checkpoints() == []
    about = read_json(taught.train("distilled", {"distill": {"teacher_gate": False}}) / "run.json")
    assert about["teacher_top1_on_training_clips"] == pytest.approx(1 / 3)  # told all the same


def test_a_teacher_of_other_classes_is_refused(taught):
    weights = RUN / "teacher/seed0/weights.safetensors"
    network, description = load_network(weights)
    renamed = NetworkDescription(
        description.model, ["red", "green", "blue"], description.num_frames, description.img_size, description.overrides
    )
    save_weights(weights, network, renamed)
    with pytest.raises(WeightsError, match="other classes"):
        taught.train("distilled")


def described(weights: Path, **changes) -> None:
    """Changes what a weights file says of itself."""
    network, description = load_network(weights)
    save_weights(weights, network, replace(description, **changes))


OTHER_SPLIT = {"dataset": "colours", "split": "split2", "sha256": "0" * 64}


def test_weights_say_which_clips_they_learned(taught):
    split = sha256(paths.split_path("colours", "split1"))
    for arm in ("teacher", "distilled"):
        _, description = load_network(taught.train(arm) / "weights.safetensors")
        assert description.trained_on == {"dataset": "colours", "split": "split1", "sha256": split}


def test_a_teacher_of_another_split_is_refused(taught):
    described(RUN / "teacher/seed0/weights.safetensors", trained_on=OTHER_SPLIT)
    leak = r"teacher/seed0/weights\.safetensors: was trained on colours, split2 \(list 000000000000\), and .*distilled"
    with pytest.raises(WeightsError, match=leak):
        taught.train("distilled")
    assert not (RUN / "distilled/seed0").exists()


def test_a_teacher_from_before_its_split_was_drawn_anew_is_refused(taught):
    split = paths.split_path("colours", "split1")
    split.write_text(split.read_text().replace(",validation", ",train"))
    with pytest.raises(WeightsError, match="was trained on colours, split1"):
        taught.train("distilled")


def test_given_weights_of_another_split_or_other_classes_are_refused(taught):
    given = Path("given.safetensors")
    (RUN / "teacher/seed0/weights.safetensors").rename(given)
    values = {"teacher": {"weights": str(given)}}
    described(given, trained_on=OTHER_SPLIT)
    with pytest.raises(WeightsError, match=r"given\.safetensors: was trained on colours, split2"):
        taught.train("teacher", values)
    described(given, trained_on=None, classes=["blue", "green", "yellow"])
    with pytest.raises(WeightsError, match="other classes than colours has: 3 against 3, which differ in red, yellow"):
        taught.train("teacher", values)
    with pytest.raises(WeightsError, match="was trained on colours, split2"):
        described(given, trained_on=OTHER_SPLIT, classes=["blue", "green", "red"])
        taught.train("teacher", {"teacher": {"start_from": str(given)}})
    described(given, trained_on=OTHER_SPLIT | {"dataset": "shapes"})  # starting from another data set is no leak
    taught.train("teacher", {"teacher": {"start_from": str(given)}})
    described(given, trained_on=None)  # says nothing of a split: nobody knows, so it is let through
    _, description = load_network(taught.train("teacher", values) / "weights.safetensors")
    assert description.trained_on is None


FEATURES = {"distill": {"targets": "online", "features": {"weight": 1.0}}}


def test_modulators_are_learned_with_projectors_that_are_no_part_of_the_weights(taught):
    directory = taught.train("distilled", FEATURES)
    table, about = history(directory), read_json(directory / "run.json")
    assert {"loss_features", "loss_features_spatial", "loss_features_temporal"} <= set(table)
    total = 0.5 * table["loss_kd"] + 0.5 * table["loss_ce"] + table["loss_features"]
    pd.testing.assert_series_equal(table["loss"], total, check_names=False, rtol=1e-5)
    model, description = load_network(directory / "weights.safetensors")
    assert model.state_dict().keys() == description.build().state_dict().keys()
    assert about["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert about["settings"]["distill"]["features"] == {"weight": 1.0}


def test_a_run_without_features_knows_nothing_of_them(taught):
    directory = taught.train("distilled")
    assert not {"features", "dkd", "dist"} & read_json(directory / "run.json")["settings"]["distill"].keys()
    assert not [name for name in history(directory) if name.startswith("loss_features")]


SWEEP = {
    "chosen_by": ["sweep"],
    "ablation": {"studies": {"sweep": {"arms": ["distilled"], "grid": {"distill.alpha": [0.2, 0.9]}}}},
}


def test_a_choice_replaces_the_configs_values_and_is_written_down(taught):
    with pytest.raises(MissingInput, match=r"ablation/colours/sweep/choice\.json: not there yet"):
        taught.train("distilled", SWEEP)
    write_json("results/ablation/colours/sweep/choice.json", {"values": {"distill.alpha": 0.9}})
    about = read_json(taught.train("distilled", SWEEP) / "run.json")
    assert about["settings"]["distill"]["alpha"] == 0.9
    assert about["chosen"] == {"distill.alpha": 0.9}


LENGTH = {"arms": ["student"], "grid": {"student.train.epochs": [1, 2]}, "seeds": [0]}
WITHOUT_TEACHER = {"arms": ["distilled"], "points": [{"distill.alpha": 0.0}], "seeds": [0, 1]}
TWO_STUDIES = {
    "chosen_by": ["length", "sweep"],
    "ablation": {"run": ["length", "sweep"], "studies": {"length": LENGTH, "sweep": WITHOUT_TEACHER}},
}


@pytest.fixture
def chosen(project, monkeypatch):
    """A study of epochs is done; a trial of the next that trains what the chosen one did, and that one."""
    config = project.config(TWO_STUDIES)
    _, two = plan.trial_runs(config, "colours", "length")
    job.train_run(config, two)
    write_json("results/ablation/colours/length/choice.json", {"values": {"student.train.epochs": 2}})
    monkeypatch.setattr(job, "fit", None)  # nothing is trained from here on
    return config, two, *plan.trial_runs(config, "colours", "sweep")


def test_a_trial_takes_the_weights_of_the_chosen_one_if_that_trained_the_very_same(chosen, capsys):
    config, two, again, other_seed = chosen
    job.train_run(config, again)
    for name in ("weights.safetensors", "history.csv"):
        assert (again.directory / name).read_bytes() == (two.directory / name).read_bytes()
    about = read_json(again.directory / "run.json")
    assert (about["taken_from"], about["arm"], about["trial"]) == (str(two), "distilled", "alpha=0")
    assert (about["chosen"], about["training_seconds"]) == ({"student.train.epochs": 2}, 0)
    assert f"takes the weights of {two}, which trained the very same" in capsys.readouterr().err
    assert read_json(two.directory / "run.json")["taken_from"] is None
    with pytest.raises(TypeError):
        job.train_run(config, other_seed)


@pytest.mark.parametrize(
    "changed", [{"commit": "0123"}, {"versions": {"torch": "1"}}, {"device": "cuda:0"}, {"key": "0"}]
)
def test_weights_that_another_code_or_device_made_are_not_taken(chosen, changed):
    config, two, again, _ = chosen
    about = read_json(two.directory / "run.json")
    write_json(two.directory / "run.json", about | changed)
    with pytest.raises(TypeError):
        job.train_run(config, again)


def test_a_trial_that_is_looked_at_in_another_way_trains_itself(chosen):
    config, _, again, _ = chosen
    more = config.ablation.studies["sweep"].model_copy(update={"set": {"evaluate.crops": 3}})
    studies = {"studies": config.ablation.studies | {"sweep": more}}
    config = config.model_copy(update={"ablation": config.ablation.model_copy(update=studies)})
    with pytest.raises(TypeError):
        job.train_run(config, again)


# --------------------------------------------------------------------------------------------------- killed, resumed


def stop_after(monkeypatch, epochs: int, error: BaseException) -> None:
    """Training ends in `error` once that many epochs have been saved."""
    save = Checkpoint.save

    def stopping(self, model, optimizer, history, scaler):
        save(self, model, optimizer, history, scaler)
        if len(history) == epochs:
            raise error

    monkeypatch.setattr(Checkpoint, "save", stopping)


FIVE = {"student": {"train": {"epochs": 5}}, "teacher": {"train": {"epochs": 5}}}


@pytest.mark.parametrize(("arm", "values"), [("teacher", {}), ("distilled", {}), ("distilled", FEATURES)])
def test_a_stopped_run_goes_on_where_it_was(taught, another_folder, monkeypatch, arm, values):
    values = FIVE | values
    for file in FILES if arm == "teacher" else ():
        (RUN / "teacher/seed0" / file).unlink()
    stopped = another_folder(taught, "stopped")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2, KeyboardInterrupt())
        stopped.train(arm, values)
    assert not (RUN / arm / "seed0/weights.safetensors").exists()
    (checkpoint,) = stopped.checkpoints()
    saved = torch.load(checkpoint)["history"]
    resumed = outcome(stopped.train(arm, values))
    # The seconds of its first epochs are those of the stopped process: they were not done again.
    seconds = pd.read_csv(RUN / arm / "seed0/history.csv")["seconds"][:2].tolist()
    assert seconds == [row["seconds"] for row in saved]
    assert stopped.checkpoints() == []
    monkeypatch.chdir(taught.root)
    assert_same(outcome(taught.train(arm, values)), resumed)


def test_a_changed_config_starts_afresh_and_an_unchanged_one_does_not(project, another_folder, monkeypatch):
    stopped = another_folder(project, "stopped")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2, KeyboardInterrupt())
        stopped.train("student", FIVE)
    loaded: list[int] = []
    load = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda self, *arguments: loaded.append(1) or load(self, *arguments))
    changed = {"student": {"train": {"epochs": 3, "lr": 0.02}}}
    afresh = outcome(stopped.train("student", changed))
    monkeypatch.chdir(project.root)
    assert_same(outcome(project.train("student", changed)), afresh)
    assert len(loaded) == 2
    monkeypatch.chdir(stopped.root)
    (checkpoint,) = stopped.checkpoints()  # the state of the first config is still there, workers do not matter
    saved = torch.load(checkpoint)["history"]
    stopped.train("student", FIVE | {"train": {"workers": 1}})
    assert pd.read_csv(RUN / "student/seed0/history.csv")["seconds"][:2].tolist() == [row["seconds"] for row in saved]


RESUME = RUN / "student/seed0.resume"


@pytest.fixture
def stopped(project, monkeypatch):
    """A student that was stopped after two of five epochs."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2, KeyboardInterrupt())
        project.train("student", FIVE)
    return project


@pytest.mark.parametrize("folder", [RESUME, RUN / "student/seed0", "state"])
def test_asked_for_by_its_folder_a_stopped_run_goes_on(stopped, command, folder):
    (checkpoint,) = stopped.checkpoints()
    saved = torch.load(checkpoint)["history"]
    folder = checkpoint.parent if folder == "state" else folder
    code, _, err = command("train", "--resume", folder, "--config", stopped.config_file(FIVE))
    assert code == 0, err
    assert pd.read_csv(RUN / "student/seed0/history.csv")["seconds"][:2].tolist() == [row["seconds"] for row in saved]
    assert not any(RESUME.glob("*/*"))


def test_an_explicit_resume_under_a_changed_config_says_what_changed(stopped, command):
    changed = stopped.config_file({"student": {"train": {"epochs": 5, "lr": 0.02}}})
    code, _, err = command("train", RUN / "student/seed0", "--resume", RESUME, "--config", changed)
    assert code == 1
    assert "was begun with other settings or inputs, so it cannot go on" in err
    assert [line for line in err.splitlines() if " then, " in line] == ["dvfl:   train.lr: 0.01 then, 0.02 now"]
    assert not (RUN / "student/seed0").exists()
    split = paths.split_path("colours", "split1")
    before = sha256(split)
    split.write_text(split.read_text().replace(",validation", ",train"))
    _, _, err = command("train", "--resume", RESUME, "--config", stopped.config_file(FIVE))
    assert f"inputs.split: {before} then, {sha256(split)} now" in err


def test_a_resume_of_nothing_or_of_another_run_says_so(stopped, command):
    config = stopped.config_file(FIVE)
    _, _, err = command("train", "--resume", RUN / "teacher/seed0", "--config", config)
    assert "teacher/seed0: no stopped training lies there; leave --resume away to start" in err
    _, _, err = command("train", RUN / "teacher/seed0", "--resume", RESUME, "--config", config)
    assert "student/seed0.resume: belongs to another run than" in err
    assert "name the RUN, or the folder to --resume" in command("train", "--config", config)[2]


def test_a_finished_run_that_is_resumed_under_a_changed_config_says_what_changed(project, command):
    project.train("student")
    changed = project.config_file({"student": {"train": {"epochs": 3}}})
    code, _, err = command("train", "--resume", RUN / "student/seed0", "--config", changed)
    assert code == 1
    assert "train.epochs: 2 then, 3 now" in err


def test_changed_clips_start_afresh(project, another_folder, monkeypatch):
    stopped = another_folder(project, "stopped")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2, KeyboardInterrupt())
        stopped.train("student", FIVE)
    (checkpoint,) = stopped.checkpoints()
    saved = torch.load(checkpoint)["history"]
    split = paths.split_path("colours", "split1")
    split.write_text(split.read_text().replace(",validation", ",train"))
    stopped.train("student", FIVE)
    assert pd.read_csv(RUN / "student/seed0/history.csv")["seconds"][0] != saved[0]["seconds"]


def test_a_disk_that_fills_up_costs_nothing_but_the_time(project, another_folder, monkeypatch):
    full = another_folder(project, "full")
    replace, written = os.replace, []

    def refuse(source, target):
        if Path(target).name == "checkpoint.pt":
            written.append(target)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OutputError, match=r"checkpoint\.pt: the disk is full; free some space"):
            full.train("student", FIVE)
    (checkpoint,) = full.checkpoints()
    assert len(torch.load(checkpoint)["history"]) == 2
    assert sorted(os.listdir(checkpoint.parent)) == ["begun.json", "checkpoint.pt"]
    resumed = outcome(full.train("student", FIVE))
    monkeypatch.chdir(project.root)
    assert_same(outcome(project.train("student", FIVE)), resumed)


def test_sigterm_saves_leaves_with_75_and_goes_on_to_the_same_bytes(project, another_folder, dvfl_command, monkeypatch):
    """As SLURM sends it before a time limit or a preemption."""
    values = {"student": {"train": {"epochs": 60}}}
    preempted = another_folder(project, "preempted")
    file = preempted.config_file(values)
    process = dvfl_command("train", RUN / "student/seed0", "--config", file)
    preempted.wait_for_epochs(2, process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL == 75
    (line,) = [line for line in said.splitlines() if line.startswith("dvfl: ")]
    assert "dvfl: asked to end in epoch" in line and "the same command goes on from there" in line
    (checkpoint,) = preempted.checkpoints()
    saved = torch.load(checkpoint)
    assert saved["begun"]["steps"] > 0  # of the epoch after those in the history
    resumed = outcome(preempted.train("student", values))
    monkeypatch.chdir(project.root)
    assert_same(outcome(project.train("student", values)), resumed)


def test_what_another_job_made_meanwhile_is_not_made_again(project, monkeypatch):
    """A job waited in a cluster's queue while one of a killed Snakemake made its run; Snakemake removes its outputs."""
    before = time.time() - 1
    monkeypatch.setenv("DVFL_BEGAN", str(before))
    directory = project.train("student")
    made = {name: (directory / name).read_bytes() for name in FILES}
    for began, again in ((before, False), (time.time() + 1, True)):
        monkeypatch.setenv("DVFL_BEGAN", str(began))
        shutil.rmtree(directory)
        assert project.train("student") == directory
        assert ((directory / "run.json").read_bytes() != made["run.json"]) == again
        assert (directory / "weights.safetensors").read_bytes() == made["weights.safetensors"]


def test_killed_and_interrupted_processes_end_in_the_same_bytes(project, another_folder, dvfl_command, monkeypatch):
    values = {"student": {"train": {"epochs": 90}}}
    killed = another_folder(project, "killed")
    file = killed.config_file(values)
    ends = []
    for number in (signal.SIGKILL, signal.SIGINT):
        process = dvfl_command("train", RUN / "student/seed0", "--config", file)
        killed.wait_for_epochs(killed.saved_epochs() + 2, process)
        process.send_signal(signal.SIGSTOP)  # so that it does not end by itself meanwhile
        if number == signal.SIGINT:  # a second writer is refused meanwhile
            with pytest.raises(LeaseTaken, match=f"process {process.pid} on"):
                killed.train("student", values)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=60)
        ends.append(SimpleNamespace(code=process.returncode, said=said))
    assert ends[0].code == -signal.SIGKILL
    assert ends[1].code == 130
    assert "Traceback" not in ends[1].said
    assert (
        "dvfl: stopped; what is finished is kept, and the same command goes on from there" in ends[1].said.splitlines()
    )
    assert not (RUN / "student/seed0").exists()
    (checkpoint,) = killed.checkpoints()
    saved = torch.load(checkpoint)["history"]
    assert 4 <= len(saved) < 90 and torch.load(checkpoint)["begun"]["steps"] > 0  # of the epoch after those
    resumed = outcome(killed.train("student", values))
    seconds = pd.read_csv(RUN / "student/seed0/history.csv")["seconds"]
    assert seconds[: len(saved)].tolist() == [row["seconds"] for row in saved]
    monkeypatch.chdir(project.root)
    assert_same(outcome(project.train("student", values)), resumed)


def test_bfloat16_runs(project):
    directory = project.train("student", {"train": {"precision": "bfloat16"}})
    assert read_json(directory / "run.json")["precision"] == "bfloat16"
    assert history(directory)["loss"].between(0, 3).all()


# ------------------------------------------------------------------------------------- what the released code does


def test_a_random_teachers_head_differs_by_run_and_knows_nothing_but_is_no_error(taught, another_folder):
    values = {"distill": {"teacher_head": "random"}, "seeds": [0, 1]}
    runs = [taught.train("distilled", values, seed) for seed in (0, 1)]
    trained = taught.train("distilled", {"seeds": [0, 1]})  # the same directory as runs[0], with another key
    assert runs[0] == trained
    accuracies = [read_json(run / "run.json")["teacher_top1_on_training_clips"] for run in (trained, runs[1])]
    assert accuracies[1] < accuracies[0]
    other = another_folder(taught, "again")
    again = other.train("distilled", values, 1)
    os.chdir(taught.root)
    assert sha256(other.root / again / "weights.safetensors") == sha256(runs[1] / "weights.safetensors")


def test_only_the_classifier_of_the_teacher_is_drawn_again(taught):
    from dvfl.distill.teacher_head import initialise_classifier
    from dvfl.randomness import torch_seeded

    path = taught.root / RUN / "teacher/seed0/weights.safetensors"
    (model, description), (trained, _) = load_network(path), load_network(path)
    with torch_seeded(0, "teacher head"):
        initialise_classifier(model, description)
    states = model.state_dict(), trained.state_dict()
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert changed == {"head.weight", "head.bias"}


def test_the_best_epoch_on_test_is_the_one_that_is_reported(project):
    from dvfl.evaluate.job import test_run
    from dvfl.evaluate.scoring import score_run

    values = {"protocol": "as_released", "student": {"train": {"epochs": 4}}, "evaluate": {"drop_last": None}}
    directory = project.train("student", values)
    table = history(directory)
    assert len(table["test_top1"]) == 4 and table["test_top1"].notna().all()
    best = int(table["test_top1"].to_numpy().argmax()) + 1
    about = read_json(directory / "run.json")
    assert about["reported_epoch"] == best
    assert "as_released" in str(directory)
    config = project.config(values)
    test_run(config, project.run(config))
    top1 = score_run(config, project.run(config))["metrics"]["top1"]["value"]
    assert top1 == pytest.approx(table["test_top1"].max())
