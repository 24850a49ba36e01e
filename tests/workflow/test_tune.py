"""A search through the DAG: workers side by side on one study, one of which was killed, to its table and a picture."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
import pandas as pd

from dvfl import paths
from dvfl.ablate.storage import journal_path, open_journal
from tests.workflow.conftest import snakemake

SEARCH = {
    "student": {"train": {"epochs": 60, "validate_every": 20}},
    "ablation": {
        "run": ["search"],
        "tune": {
            "search": {
                "arm": "student",
                "trials": 4,
                "workers": 3,
                "space": {"student.train.lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
            }
        },
    },
}
PICTURE = "results/figures/tune/colours.search.history.png"


def killed_in_a_trial(dvfl_command, file: Path, worker: int) -> None:
    """Starts a worker and kills it with SIGKILL once its first trial has told Optuna of an epoch."""
    process = dvfl_command("tune", "colours", "search", "--worker", worker, "--config", file)
    deadline = time.monotonic() + 300
    lock = journal_path("colours", "search").with_name("optuna.journal.lock")
    # Not while it writes: its lock would be waited for. That is a test of its own.
    while lock.exists() or not any(trial.intermediate_values for trial in trials()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()


def trials() -> list[optuna.trial.FrozenTrial]:
    if not journal_path("colours", "search").exists():
        return []
    storage = open_journal("colours", "search")
    return [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]


def test_a_search_is_made_once_by_its_workers_whoever_was_killed(project, dvfl_command):
    file = project.config_file(SEARCH)
    killed_in_a_trial(dvfl_command, file, worker=1)
    (running,) = trials()
    table = paths.trials_path("colours", "search")
    arguments = ("--cores", "3", "--configfile", str(file), "--", str(table), PICTURE)
    said = snakemake(project.root, *arguments).stdout
    assert "goes on from where it was stopped" in said

    found = pd.read_csv(table)
    assert found["number"].tolist() == [0, 1, 2, 3] and found["chosen"].sum() == 1
    assert found["begun"].tolist() == [2, 1, 1, 1]
    assert found.loc[0, "student.train.lr"] == running.params["student.train.lr"]
    assert not set(found["state"]) - {"complete", "pruned"}
    assert len(list(Path("results/ablation/colours/search/workers").glob("*.json"))) == 3
    assert Path(PICTURE).stat().st_size > 5000

    assert "Nothing to be done" in snakemake(project.root, *arguments).stdout
