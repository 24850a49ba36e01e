"""From a trained run to predictions, scores and answers about any clip."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.transforms import v2

from dvfl import paths
from dvfl.config import EvaluateConfig, InputConfig, merge
from dvfl.data.clips import read_test_views
from dvfl.data.errors import UnreadableClip
from dvfl.data.index import read_index
from dvfl.data.reader import read_frames
from dvfl.data.splits import read_split
from dvfl.errors import UserError
from dvfl.evaluate import job, kept, scoring
from dvfl.evaluate.predict import view_probabilities
from dvfl.files import MissingInput, read_json, sha256
from dvfl.models.weights import WeightsError, load_network

RUN = Path("results/runs/colours/split1/as_described/teacher/seed0")


def predictions(project, **evaluate) -> pd.DataFrame:
    config = project.config({"evaluate": evaluate})
    job.test_run(config, project.run(config, "teacher"))
    return pd.read_parquet(RUN / "predictions.parquet")


def clips_of(subset: str) -> list[str]:
    split = read_split(paths.split_path("colours", "split1"))
    return sorted(split.loc[split["subset"] == subset, "clip_id"])


def test_every_test_clip_is_predicted_once_and_no_other(taught):
    table = predictions(taught)
    assert table["clip_id"].tolist() == clips_of("test")
    assert list(table.columns) == ["clip_id", "label", "probabilities"]
    index = read_index(paths.index_path("colours")).set_index("clip_id")
    assert table["label"].tolist() == index.loc[table["clip_id"], "label"].tolist()
    sums = table["probabilities"].map(sum)
    assert np.allclose(sums, 1) and table["probabilities"].map(len).eq(3).all()


@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (2, 3)])
def test_probabilities_are_means_over_the_views_of_the_protocol(taught, clips, crops):
    table = predictions(taught, clips=clips, crops=crops)
    model, _ = load_network(RUN / "weights.safetensors")
    config = taught.config()
    root, shown = config.dataset_definitions["colours"].root, config.input
    for row in table.itertuples():
        views = read_test_views(root / row.clip_id, 6, shown, clips, crops)
        assert len(views) == clips * crops
        expected = view_probabilities(model, views, shown, torch.device("cpu")).mean(0).numpy()
        np.testing.assert_allclose(row.probabilities, expected, atol=1e-6)


def test_predictions_have_the_same_bytes_whatever_the_batch_and_the_workers(taught):
    predictions(taught)
    once = sha256(RUN / "predictions.parquet")
    config = taught.config({"train": {"workers": 1}})
    job.test_run(config, taught.run(config, "teacher"))
    assert sha256(RUN / "predictions.parquet") == once


@pytest.mark.parametrize("seconds", [0, kept.EVERY_SECONDS])
def test_a_test_that_was_stopped_goes_on_and_ends_with_the_same_bytes(taught, monkeypatch, seconds):
    predictions(taught, batch_size=1)
    whole = sha256(RUN / "predictions.parquet")
    (RUN / "predictions.parquet").unlink()
    shown: list[int] = []
    monkeypatch.setattr(kept, "EVERY_SECONDS", seconds)

    def stopping(*arguments):
        shown.append(1)
        if len(shown) == 3:
            raise KeyboardInterrupt
        return view_probabilities(*arguments)

    monkeypatch.setattr("dvfl.evaluate.predict.view_probabilities", stopping)
    with pytest.raises(KeyboardInterrupt):
        predictions(taught, batch_size=1)
    (folder,) = RUN.parent.glob("seed0.resume/test-*")
    (folder / ".2.half.parquet").touch()  # as a kill while a part is written leaves it
    table = predictions(taught, batch_size=1)
    assert len(shown) == len(table) + 1  # the two that were finished are not asked for again
    assert sha256(RUN / "predictions.parquet") == whole
    assert not list(RUN.parent.glob("seed0.resume/test-*"))


def test_what_a_stopped_test_kept_is_not_another_tests(taught, monkeypatch):
    monkeypatch.setattr(kept, "EVERY_SECONDS", 0)
    monkeypatch.setattr(kept.KeptPredictions, "remove", lambda self: None)
    once = predictions(taught)
    assert list(RUN.parent.glob("seed0.resume/test-*"))
    other = predictions(taught, clips=2)
    assert once["probabilities"].iloc[0].tolist() != other["probabilities"].iloc[0].tolist()
    config = taught.config()
    taught.train("student")
    shutil.copy(taught.run(config, "student").directory / "weights.safetensors", RUN / "weights.safetensors")
    others = predictions(taught)
    assert once["probabilities"].iloc[0].tolist() != others["probabilities"].iloc[0].tolist()


def test_runs_of_the_selection_stage_are_predicted_on_validation(taught):
    config = taught.config()
    run = taught.run(config, "teacher", stage="selection")
    run.directory.mkdir(parents=True)
    (run.directory / "weights.safetensors").write_bytes((RUN / "weights.safetensors").read_bytes())
    job.test_run(config, run)
    assert pd.read_parquet(run.directory / "predictions.parquet")["clip_id"].tolist() == clips_of("validation")


def test_scores_are_those_of_the_predictions(taught):
    table = predictions(taught)
    config = taught.config()
    scores = scoring.score_run(config, taught.run(config, "teacher"))
    assert scores == {k: v for k, v in read_json(RUN / "scores.json").items() if k in scores}
    right = [np.argmax(row.probabilities) == row.label for row in table.itertuples()]
    top1 = scores["metrics"]["top1"]
    assert top1["value"] == pytest.approx(np.mean(right))
    assert top1["ci_low"] <= top1["value"] <= top1["ci_high"]
    written = read_json(RUN / "scores.json")
    assert written["n_clips"] == len(table)
    assert (written["subset"], written["views"], written["arm"], written["seed"]) == ("test", "1x1", "teacher", 0)


def test_scores_join_the_mlflow_run_of_their_training_and_leave_its_tags(taught, monkeypatch):
    from mlflow import MlflowClient  # takes seconds

    config = taught.config()
    run = taught.run(config, "teacher")
    predictions(taught)
    monkeypatch.setattr("dvfl.track.tracker.code_version", lambda: ("later", True))
    scoring.score_run(config, run)
    tracked = MlflowClient(config.tracking.uri).get_run(read_json(RUN / "run.json")["mlflow_run_id"])
    assert tracked.data.tags["rule"] == "train"
    assert tracked.data.tags["commit"] != "later"
    assert (tracked.data.tags["evaluate.commit"], tracked.data.tags["evaluate.dirty"]) == ("later", "True")
    assert "test.top1" in tracked.data.metrics
    place = MlflowClient(config.tracking.uri).download_artifacts(tracked.info.run_id, "confusion_matrix.csv")
    matrix = pd.read_csv(place, index_col=0)
    assert matrix.index.tolist() == matrix.columns.tolist() == ["blue", "green", "red"]
    assert matrix.to_numpy().sum() == len(clips_of("test"))


def test_what_is_not_there_yet_is_named(project):
    config = project.config()
    run = project.run(config, "teacher")
    with pytest.raises(WeightsError, match=r"teacher/seed0/weights\.safetensors: no such weights file"):
        job.test_run(config, run)
    with pytest.raises(MissingInput, match=r"dvfl results .*teacher/seed0/predictions\.parquet"):
        scoring.score_run(config, run)


# --------------------------------------------------------------------------------------------- what is in this clip?


def test_a_clip_is_answered_with_its_most_probable_classes(taught, colour_clips):
    clip = colour_clips / "red/red_g5_c0.avi"
    answers = job.predict_clip(clip, RUN, top=5)
    assert sorted(name for name, _ in answers) == ["blue", "green", "red"]  # there are no more than three
    values = [probability for _, probability in answers]
    assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1)
    model, _ = load_network(RUN / "weights.safetensors")
    shown = InputConfig.model_validate(read_json(RUN / "run.json")["settings"]["input"])
    expected = view_probabilities(model, read_test_views(clip, 6, shown), shown, torch.device("cpu"))[0]
    assert values[0] == pytest.approx(expected.max().item())
    assert job.predict_clip(clip, RUN, top=1) == answers[:1]


OWN = {"input": {"interpolation": "bicubic", "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.5, 1.0]}}


def test_a_run_is_tested_and_asked_with_its_own_interpolation_mean_and_deviation(project, colour_clips, monkeypatch):
    """Seen at the network: both show what torchvision makes of the clip with the run's own values."""
    values = merge(OWN, {"input": {"short_side": 40}})
    project.train("student", values)
    config = project.config(values)
    run = project.run(config)
    seen: list[torch.Tensor] = []

    def watched(path):
        model, network = load_network(path)
        model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        return model, network

    monkeypatch.setattr("dvfl.models.weights.load_network", watched)
    clip_id = clips_of("test")[0]
    job.test_run(config, run)
    job.predict_clip(colour_clips / clip_id, run.directory)
    frames = torch.from_numpy(read_frames(colour_clips / clip_id, [1, 4], 40, "bicubic")).permute(0, 3, 1, 2)
    expected = v2.Normalize([0.3, 0.4, 0.5], [0.2, 0.5, 1.0])(v2.functional.center_crop(frames, [32, 32]) / 255)
    assert torch.equal(seen[0][0], expected) and torch.equal(seen[-1][0], expected)


def test_the_command_prints_the_top_classes(taught, colour_clips, command):
    code, out, err = command("predict", colour_clips / "blue/blue_g0_c0.avi", "--run", RUN)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 3
    names = [name for name, _ in job.predict_clip(colour_clips / "blue/blue_g0_c0.avi", RUN)]
    assert [line.split()[-1] for line in lines] == names
    assert sum(float(line.split()[0].rstrip("%")) for line in lines) == pytest.approx(100, abs=0.2)


def test_several_clips_are_told_apart(taught, colour_clips, command):
    clips = [colour_clips / "blue/blue_g0_c0.avi", colour_clips / "red/red_g0_c0.avi"]
    code, out, _ = command("predict", *clips, "--run", RUN, "--top", 1)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(clip) for clip in clips]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"", "is empty (0 bytes)"),
        (b"this is a text, whatever its name says\n" * 9, "decoded"),
    ],
)
def test_a_clip_that_cannot_be_read_is_one_line(taught, command, content, said):
    clip = taught.root / "clip.avi"
    if content is not None:
        clip.write_bytes(content)
    code, out, err = command("predict", clip, "--run", RUN)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"dvfl: {clip}: ") and said in line
    with pytest.raises(UnreadableClip):
        job.predict_clip(clip, RUN)


def test_a_run_that_is_not_there_is_one_line(taught, colour_clips, command):
    code, out, err = command("predict", colour_clips / "red/red_g0_c0.avi", "--run", "results/runs/none")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert "results/runs/none" in line and "not the directory of a finished run" in line


# --------------------------------------------------------------------------------------------- is it in the motion?


def test_only_the_embedded_data_set_has_mirror_classes(taught):
    config = taught.config()
    with pytest.raises(UserError, match="colours: only the embedded data set"):
        job.check_motion(config, taught.run(config, "teacher"), Path("out.json"))


def test_the_motion_check_looks_at_the_clips_in_five_ways(empty_project, command):
    small = {"train_groups": 4, "test_groups": 1, "clips_per_group": 1, "frames": 6, "size": 32}
    values = {
        "datasets": ["motions"],
        "dataset_definitions": {"motions": {"root": str(empty_project.root / "motions"), "motions": small}},
        "teacher": {"train": {"epochs": 1}},
    }
    file = empty_project.config_file(values)
    directory = "results/runs/motions/split1/as_described/teacher/seed0"
    for step in (
        ["fetch", "motions", "--out", "fetched.json"],
        ["index", "motions"],
        ["split", "motions", "split1"],
        ["train", directory],
        ["motion-check", directory, "--out", "check.json"],
    ):
        code, _, err = command(*step, "--config", file)
        assert code == 0, err
    found = read_json("check.json")
    assert found["run"] == directory
    assert (found["clips"], found["chance"]) == (12, pytest.approx(1 / 12))
    assert set(found["top1"]) == {"as_is", "repeated_frame", "shuffled_frames", "reversed", "reversed_mirror"}
    for value in found["top1"].values():
        assert 0 <= value["ci_low"] <= value["value"] <= value["ci_high"] <= 1


def test_batch_size_does_not_change_what_is_predicted(taught):
    one = np.stack(predictions(taught, batch_size=1)["probabilities"].to_list())
    many = np.stack(predictions(taught, batch_size=EvaluateConfig().batch_size)["probabilities"].to_list())
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_a_dropped_batch_is_neither_predicted_nor_missed(taught):
    clips = clips_of("test")
    size = len(clips) - 1
    views = {"clips": 2, "crops": 3, "batch_size": 4, "drop_last": size}  # of clips, whatever their views
    table = predictions(taught, **views)
    assert table["clip_id"].tolist() == clips[:size]
    config = taught.config({"evaluate": views})
    scoring.score_run(config, taught.run(config, "teacher"))
    scores = read_json(RUN / "scores.json")
    assert (scores["n_clips"], scores["clips_dropped"], scores["views"]) == (size, 1, "2x3")
    whole = taught.config()
    with pytest.raises(ValueError, match="have no prediction"):  # where nothing is dropped, a clip is missed
        scoring.score_run(whole, taught.run(whole, "teacher"))


def test_dropping_everything_is_refused(taught):
    with pytest.raises(UserError, match=r"evaluate\.drop_last: the clips \(\d+\) do not fill one batch of 1000"):
        predictions(taught, drop_last=1000)


def test_random_frames_are_those_of_several_views_alone(taught):
    even, drawn = (predictions(taught, clips=4, frames=frames)["probabilities"] for frames in ("even", "random"))
    assert not np.allclose(np.stack(even), np.stack(drawn))
    single = [predictions(taught, frames=frames)["probabilities"] for frames in ("even", "random")]
    np.testing.assert_array_equal(np.stack(single[0]), np.stack(single[1]))
