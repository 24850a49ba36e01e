"""What trainings and tests claim of a machine: GPUs where the config says so, and no more than there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import PROJECT

CLAIMS = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow = api.workflow(
        resource_settings=ResourceSettings(cores=8),
        config_settings=ConfigSettings(configfiles=[Path(sys.argv[2])]),
        snakefile=Path(sys.argv[1]) / "Snakefile",
    )
    workflow.dag().execute_workflow(executor="dryrun")
    claims = {job.rule.name: (job.resources.get("gpu"), job.threads) for job in workflow._workflow.dag.jobs}
print(json.dumps(claims))
"""
WORKING = ("train", "distil", "test", "trial")


def claims(folder: Path, train: dict, path: str = "") -> dict[str, list]:
    """GPUs and threads of a job of each rule in a dry run."""
    (folder / "mine.yaml").write_text(yaml.safe_dump({"train": train}))
    done = subprocess.run(
        [sys.executable, "-c", CLAIMS, str(PROJECT), "mine.yaml"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "PATH": path + os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("train", "gpus", "threads"),
    [({}, 0, 1), ({"gpus": 2, "accumulate": 2, "threads": 3}, 2, 6), ({"processes": 2, "accumulate": 2}, 0, 2)],
)
def test_trainings_ask_for_their_gpus_and_threads(tmp_path, train, gpus, threads):
    said = claims(tmp_path, train)
    assert {rule: said[rule] for rule in WORKING} == {rule: [gpus, threads] for rule in WORKING}
    assert said["score"][0] is None


def test_no_more_is_asked_for_than_the_machine_has(tmp_path):
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho GPU-a\n")
    program.chmod(0o755)
    said = claims(tmp_path, {"gpus": 2, "accumulate": 2}, f"{program.parent}{os.pathsep}")
    assert {said[rule][0] for rule in WORKING} == {1}
