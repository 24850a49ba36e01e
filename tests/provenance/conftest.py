"""A finished small project: three arms, a study that chooses, profiles, tables and figures, all really run."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project, make_data

VALUES: dict[str, Any] = {
    "dataset_definitions": {"colours": {"root": "clips"}},
    "seeds": [0],
    "profile": {"paper_models": [], "repeats_small": 3, "batch_sizes": [1]},
    "chosen_by": ["epochs"],
    "ablation": {
        "run": ["epochs"],
        "studies": {"epochs": {"arms": ["student"], "seeds": [0], "grid": {"student.train.epochs": [1, 2]}}},
    },
}


def finish(project: Project) -> None:
    """Does the whole pipeline's work, by the functions behind its commands."""
    from dvfl import paths, plan, steps
    from dvfl.ablate.job import run_trial
    from dvfl.ablate.study import choose
    from dvfl.audit.job import audit_split, fingerprint_dataset
    from dvfl.distill.released_loss import released_loss
    from dvfl.evaluate.job import test_run
    from dvfl.evaluate.scoring import score_run
    from dvfl.files import write_json
    from dvfl.profile.job import profile_one
    from dvfl.report.figures import write_figure
    from dvfl.report.inputs import TABLES as folder
    from dvfl.report.tables import TABLES, write_all, write_table
    from dvfl.train.job import train_run

    config = project.config()
    make_data(project)
    fingerprint_dataset(config, "colours", 1)
    audit_split(config, "colours", "split1")
    for run in plan.trial_runs(config, "colours", "epochs"):
        run_trial(config, run)
    write_json(paths.study_directory("colours", "epochs") / "choice.json", choose(config, "colours", "epochs"))
    for run in plan.final_runs(config):
        train_run(config, run)
        test_run(config, run)
        score_run(config, run)
    for model in steps.profiled_models(config):
        profile_one(config, model, threads=1)
    paths.released_loss_path().parent.mkdir(parents=True)
    released_loss().to_csv(paths.released_loss_path(), index=False)
    for name, build in TABLES.items():
        write_table(build(config), folder / name)
    write_all([folder / f"{name}.csv" for name in TABLES])
    write_figure("audit", config)


@pytest.fixture(scope="session")
def finished_once(settings: dict[str, Any], colour_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    from dvfl.config import merge

    place = tmp_path_factory.mktemp("finished")
    shutil.copytree(colour_clips, place / "clips")
    project = Project(place, merge(copy.deepcopy(settings), VALUES))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        finish(project)
    return project


@pytest.fixture
def finished(finished_once: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the finished project, to be spoilt; it is the current folder."""
    place = tmp_path / "project"
    shutil.copytree(finished_once.root, place)
    monkeypatch.chdir(place)
    return Project(place, finished_once.settings)


@pytest.fixture
def verify(finished: Project, command: Callable) -> Callable[..., tuple[int, list[str]]]:
    """`dvfl verify`: exit code and lines."""
    file = finished.config_file()

    def call(*arguments: str) -> tuple[int, list[str]]:
        code, out, err = command("verify", "--config", file, *arguments)
        assert "Traceback" not in err
        # The tests may run in a checkout with changes that are not committed yet.
        return int(code), [line for line in out.splitlines() if not line.startswith("not checked: code")]

    return call
