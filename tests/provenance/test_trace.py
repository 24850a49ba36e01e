"""A number of a table, walked back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dvfl import paths
from dvfl.files import read_json, sha256
from dvfl.provenance.records import Records

TABLE = Path("results/tables/all.csv")
RUNS = Path("results/runs/colours/split1/as_described")


def row_of(**values: str) -> int:
    frame = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return int(frame.index[0]) + 1


@pytest.fixture
def trace(finished, command):
    """What `dvfl trace --json` says of the row with these values."""

    def call(**values: str) -> dict:
        code, out, err = command("trace", TABLE, "--row", row_of(**values), "--json")
        assert code == 0, err
        return json.loads(out)

    return call


def test_a_run_is_walked_back_to_its_code_choices_clips_and_teacher(trace):
    found = trace(table="accuracy", arm="distilled", metric="top1")
    assert found["values"]["arm"] == "distilled" and found["rows"] == len(pd.read_csv(TABLE))
    (run,) = found["runs"]
    about = read_json(RUNS / "distilled/seed0/run.json")
    assert run["directory"] == str(RUNS / "distilled/seed0")
    assert (run["commit"], run["dirty"], run["settings"]) == (about["commit"], about["dirty"], about["settings"])
    epochs = about["chosen"]["student.train.epochs"]
    assert run["chosen"] == [
        {"key": "student.train.epochs", "value": epochs, "study": "epochs", "subset": "validation"}
    ]
    assert [each["what"] for each in run["inputs"]] == ["index", "split", "teacher_weights"]
    for each in run["inputs"]:
        assert sha256(each["path"]) == each["sha256"]
    split = pd.read_csv(run["clips"]["list"])["subset"].value_counts()
    assert run["clips"]["learned"] == split["train"] + split["validation"]
    assert run["clips"]["tested"] == split["test"]
    teacher = run["teacher"]
    assert teacher["directory"] == str(RUNS / "teacher/seed0")
    assert teacher["weights_sha256"] == run["inputs"][2]["sha256"] and teacher["teacher"] is None


def test_a_run_is_walked_back_to_the_run_that_it_started_from(trace):
    pretrained = Path("results/pretraining/colours/teacher/seed0")
    shutil.copytree(RUNS / "teacher/seed0", pretrained)
    path = RUNS / "distilled/seed0/run.json"
    about = read_json(path)
    about["settings"]["network"]["start_from"] = str(pretrained / "weights.safetensors")
    about["inputs"]["start_from"] = sha256(pretrained / "weights.safetensors")
    path.write_text(json.dumps(about))
    (run,) = trace(table="accuracy", arm="distilled", metric="top1")["runs"]
    assert run["started_from"]["directory"] == str(pretrained)
    assert [each["path"] for each in run["inputs"] if each["what"] == "start_from"] == [
        f"{pretrained}/weights.safetensors"
    ]


def test_a_record_that_does_not_name_its_teacher_is_traced_by_the_weights(trace):
    path = RUNS / "distilled/seed0/run.json"
    about = read_json(path)
    del about["teacher"]
    path.write_text(json.dumps(about))
    (run,) = trace(table="accuracy", arm="distilled", metric="top1")["runs"]
    assert run["teacher"]["directory"] == str(RUNS / "teacher/seed0")


def test_a_profile_and_a_count_are_traced_to_their_files(trace):
    (profile,) = trace(table="efficiency", metric="params")["profiles"]
    assert read_json(profile["path"])["params"] == profile["params"]
    assert profile["path"] == str(paths.profile_path(profile["name"])) and profile["overrides"]["embed_dim"] == 6
    assert profile["commit"] == read_json(RUNS / "student/seed0/run.json")["commit"]
    files = trace(table="accuracy", metric="clips")["files"]
    assert [each["path"] for each in files] == [
        "results/data/colours/index.parquet",
        "results/data/colours/splits/split1.csv",
    ]


def test_a_terminal_shows_it_as_a_tree(finished, command):
    code, out, _ = command("trace", TABLE, "--row", row_of(table="accuracy", arm="distilled", metric="top1"))
    assert code == 0
    for part in ("metric top1", "by epochs, on validation", "divergence", "teacher results/runs/", "named in results/"):
        assert part in out
    assert read_json(RUNS / "teacher/seed0/run.json")["commit"] in out
    shown = command("trace", TABLE, "--row", row_of(table="claims"))[1]
    assert "not tested here" in shown and "no run: this number was not tested here" in shown


def test_no_such_row_and_no_such_run_are_said(finished, command):
    code, _, err = command("trace", TABLE, "--row", 0)
    assert code == 1 and f"{TABLE}: there is no row 0; its rows are 1 to " in err
    row = row_of(table="accuracy", arm="student", metric="top1")
    gone = read_json(RUNS / "student/seed0/run.json")["mlflow_run_id"]
    (RUNS / "student/seed0/run.json").unlink()
    code, _, err = command("trace", TABLE, "--row", row)
    assert code == 1 and f"row {row}: no run.json under results/runs or results/ablation" in err and gone in err
    assert "none.csv: there is no such file; give a table" in command("trace", "none.csv", "--row", 1)[2]


def test_what_jobs_keep_for_each_other_is_no_run(tmp_path):
    """A copy with the run's own id, which a cluster's queued job may put back: traced and packed is the run itself."""
    run = tmp_path / "runs/colours/split1/as_described/student/seed0"
    for folder in (run, run.with_name("seed0.resume") / "key/finished"):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"mlflow_run_id": "a"}))
    records = Records(tmp_path)
    assert list(records.runs) == [run] and records.by_id["a"].path.is_relative_to(run)
