"""MLflow could not be reached while a run was made: its id is in the tables once it was delivered, and traced back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dvfl import plan, steps
from dvfl.evaluate import job as evaluation
from dvfl.evaluate import scoring
from dvfl.profile.job import profile_one
from dvfl.track import deliver_pending
from dvfl.train.job import train_run

TABLE = Path("results/tables/all.csv")
STUDENT = Path("results/runs/colours/split1/as_described/student/seed0/run.json")


@pytest.fixture
def store(finished) -> Path:
    """The file of the project's store, which is none while its student and the profile are made."""
    file = Path("late.db").absolute()
    file.write_text("This is no database. " * 100)
    finished.settings["tracking"]["uri"] = f"sqlite:///{file}"
    config = finished.config()
    (run,) = (run for run in plan.final_runs(config) if run.arm == "student")
    for folder in run.directory.parent.glob("seed0*"):
        shutil.rmtree(folder)
    train_run(config, run)
    evaluation.test_run(config, run)
    scoring.score_run(config, run)
    for model in steps.profiled_models(config):
        profile_one(config, model, threads=1)
    return file


def student_and_profile() -> list[str]:
    frame = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    student = frame[(frame["table"] == "accuracy") & (frame["arm"] == "student") & (frame["metric"] == "top1")]
    profile = frame[(frame["table"] == "efficiency") & (frame["metric"] == "params")]
    return [student.iloc[0]["run_ids"], profile.iloc[0]["run_ids"]]


def test_an_id_that_came_late_is_in_the_tables_and_traced(finished, store, settings, command, verify):
    given = settings["tracking"]["uri"].removeprefix("sqlite:///")
    before = STUDENT.read_bytes()
    assert json.loads(before)["mlflow_run_id"] is None
    code, _, err = command("tables", "--config", finished.config_file())
    assert code == 0 and student_and_profile() == ["", ""]
    (line,) = err.splitlines()
    assert "still to be delivered" in line and "a run may lack its id in the tables" in line
    row = pd.read_csv(TABLE, dtype=str).query("table == 'accuracy' and arm == 'student' and metric == 'top1'").index[0]
    shown = command("trace", TABLE, "--row", row + 1)[1]
    assert "without id 3 runs" in shown  # the student, and the profiles of both networks
    assert verify()[0] == 0

    shutil.copy(given, store)
    assert deliver_pending(finished.config().tracking) == 0
    code, said = verify()
    assert code == 0
    late = [line for line in said if "rows are without run ids that MLflow gave since" in line]
    names = ("accuracy", "efficiency")  # no claim is tested on networks of the run's own
    assert [line.split(": ")[1] for line in late] == [f"results/tables/{name}.csv" for name in names]

    code, _, err = command("tables", "--config", finished.config_file())
    assert (code, err) == (0, "")
    student, profile = student_and_profile()
    assert len(student) == len(profile) == 32 and student != profile
    assert STUDENT.read_bytes() == before
    traced = json.loads(command("trace", TABLE, "--row", row + 1, "--json")[1])
    assert [run["directory"] for run in traced["runs"]] == [str(STUDENT.parent)]
    assert traced["runs"][0]["run_id"] == student and traced["without_id"] == []
    assert verify()[1][-1].startswith("everything that was checked matches")
