"""What jobs ask for, and what becomes of the config and of the cores on a cluster."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.resources import Resource

from dvfl import launch, plan
from dvfl.config import PROJECT, load_config
from dvfl.resources import NEEDS, Resources, usable_cores
from dvfl.run import Run

DEFAULT, PAPER = PROJECT / "config/config.yaml", PROJECT / "config/paper.yaml"
SMK = sorted((PROJECT / "workflow/rules").glob("*.smk"))


def asked(resources: Resources, rule: str, attempt: int = 1, run: Run | None = None, **wildcards) -> dict[str, int]:
    """What a job asks for, as Snakemake finds out."""
    runs = None if run is None else {"it": run}
    wanted, values = SimpleNamespace(run="it", **wildcards), resources(rule, runs)
    return {
        "mem_mb": values["mem_mb"](wanted, attempt, 2),
        "runtime": values["runtime"](wanted, attempt),
        "machine_cores": values["machine_cores"](wanted, 2),
    }


def test_the_table_has_every_rule_and_no_other():
    rules = {name for file in SMK for name in re.findall(r"(?m)^rule (\w+):", file.read_text())}
    assert set(NEEDS) == rules - {"larger_batches", "arrive"}


def test_a_further_attempt_gets_as_much_again():
    config = load_config(DEFAULT, PAPER)
    run = next(run for run in plan.final_runs(config) if run.dataset == "ucf101")
    once, thrice = (asked(Resources(config, None), "train", attempt, run) for attempt in (1, 3))
    assert thrice["mem_mb"] == 3 * once["mem_mb"] and thrice["runtime"] == 3 * once["runtime"]


def test_time_grows_with_clips_epochs_and_pixels():
    config = load_config(DEFAULT, PAPER)
    runs = {run.dataset: run for run in plan.final_runs(config) if run.arm == "teacher"}
    minutes = {name: asked(Resources(config, None), "train", run=run)["runtime"] for name, run in runs.items()}
    base = NEEDS["train"].minutes
    assert minutes["ucf101"] - base == pytest.approx(120 * 13320 / 10 / 60, abs=1)
    assert minutes["hmdb51"] < minutes["ucf101"] < minutes["ssv2"] < minutes["kinetics400"]
    small = load_config(DEFAULT)
    (run, *_) = plan.final_runs(small)
    assert asked(Resources(small, None), "train", run=run)["runtime"] < base + 30
    index = [asked(Resources(config, None), "index", dataset=name)["runtime"] for name in ("hmdb51", "ssv2")]
    assert index[0] < index[1]


def test_a_cluster_is_not_cut_down_to_the_machine_that_submits():
    config = load_config(DEFAULT, PAPER)
    here, there = Resources(config, 64), Resources(config, None)
    assert here.cores("index") == usable_cores(64) and there.cores("index") == NEEDS["index"].cores
    assert asked(here, "profile")["machine_cores"] <= usable_cores(64)
    (run, *_) = plan.final_runs(config)
    assert there.training_cores(run) == here.training_cores(run) + 8  # paper.yaml decodes with 8 processes


def workflow(nodes: int | None = None, main: bool = True, **resources):
    settings = SimpleNamespace(nodes=nodes, default_resources={}, overwrite_resources=resources)
    registered = {}
    return SimpleNamespace(
        is_main_process=main,
        remote_exec=not main,
        resource_settings=settings,
        global_resources=registered,
        register_resource=registered.__setitem__,
        config_settings=SimpleNamespace(config={}),
        configfiles=[],
        cores=4,
    )


def test_only_what_runs_here_is_restricted_to_the_machine():
    for nodes, main, restricted in ((None, True, True), (20, True, False), (None, False, False)):
        here = workflow(nodes, main)
        launch.restrict_to_machine(here)
        assert ("machine_cores" in here.global_resources) == restricted


def test_a_job_keeps_the_config_that_it_was_submitted_with(empty_project, monkeypatch):
    monkeypatch.setenv("DVFL_CONFIG", "nowhere.yaml")  # somebody's own: it means nothing to the pipeline
    for name in ("PATH", "DVFL_BEGAN"):  # so that they are put back
        monkeypatch.setenv(name, os.environ.get(name, ""))
    raw = yaml.safe_load(DEFAULT.read_text())
    assert launch.config_for_jobs(raw, workflow(nodes=4)).seeds == raw["seeds"]
    submitted = os.environ["DVFL_CONFIG"]
    edited = raw | {"seeds": [7]}
    assert launch.config_for_jobs(edited, workflow(main=False)).seeds == raw["seeds"]
    assert os.environ["DVFL_CONFIG"] == submitted
    assert launch.config_for_jobs(edited, workflow(nodes=4)).seeds == [7]


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster with the partitions cpu and gpu, as far as sinfo tells."""
    file = tmp_path / "bin/sinfo"
    file.parent.mkdir()
    file.write_text("#!/bin/sh\nprintf 'cpu\\ngpu\\n'\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(file.parent), prepend=os.pathsep)
    return file


def test_a_partition_that_does_not_exist_is_named_before_anything_is_submitted(sinfo, capsys):
    right, wrong = (Resource("slurm_partition", lambda wildcards: "", raw=name) for name in ("'cpu,gpu'", "'fast'"))
    launch.check_partitions(workflow(nodes=4, train={"slurm_partition": right}))
    launch.check_partitions(workflow(train={"slurm_partition": wrong}))  # runs here: no partition matters
    with pytest.raises(SystemExit):
        launch.check_partitions(workflow(nodes=4, train={"slurm_partition": wrong}))
    said = "no partition 'fast'; it has cpu, gpu; name one of them in the profile's config.yaml"
    assert capsys.readouterr().err == f"dvfl: slurm_partition: this cluster has {said}\n"
    sinfo.write_text("#!/bin/sh\necho slurm_load_partitions: Unable to contact slurm controller >&2; exit 1\n")
    with pytest.raises(SystemExit):
        launch.check_partitions(workflow(nodes=4, train={"slurm_partition": right}))
    assert "SLURM does not answer: slurm_load_partitions: Unable to contact" in capsys.readouterr().err


def test_profiles_name_rules_that_there_are():
    for file in (PROJECT / "workflow/profiles").glob("*/config.yaml"):
        profile = yaml.safe_load(file.read_text())
        named = {*profile.get("set-resources", {}), *profile.get("groups", {})}
        assert named <= set(NEEDS), file
        for line in file.read_text().splitlines():  # each key at the top has its comment, in its line or below
            key = re.match(r"([a-z-]+): \S", line)
            assert not key or "#" in line or key[1] == "executor", line


def test_a_data_set_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(launch, "_run", lambda words: ran.append(words) or 1)
    assert launch.run_pipeline(2, [], ["figures"]) == 1
    (words,) = ran
    assert "--keep-going" in words[: words.index("--")]


def test_the_report_shows_what_was_measured_on_demand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(launch, "_run", lambda words: ran.append(words[words.index("--") + 1 :]) or 0)
    launch.write_report([], Path("report.html"))
    tables = [Path(f"results/tables/{name}.csv") for name in ("benchmark", "growth")]
    tables[0].parent.mkdir(parents=True)
    for table in reversed(tables):
        table.touch()
        launch.write_report([], Path("report.html"))
    assert ran == [["all"], ["all", str(tables[1])], ["all", *map(str, tables)]]
