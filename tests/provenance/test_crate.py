"""A packed result: readable by others, complete, true to its hashes, and without weights or credentials."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from urllib.parse import unquote

import pytest
from rocrate.rocrate import ROCrate

from dvfl.files import read_json, sha256
from dvfl.report.figures import FIGURES

RUNS = Path("results/runs/colours/split1/as_described")
TRIAL = Path("results/ablation/colours/epochs/epochs=1/student/seed0")


@pytest.fixture
def drawn(finished):
    """With a figure of each name; what they show is not looked at here."""
    for name in FIGURES:
        for ending in ("png", "pdf", "csv"):
            if name != "audit":
                Path(f"results/figures/{name}.{ending}").write_bytes(
                    Path(f"results/figures/audit.{ending}").read_bytes()
                )
    return finished


@pytest.fixture
def packed(drawn, command):
    """The crate of the finished project, unpacked; further arguments go to `dvfl pack`."""

    def call(*arguments: str) -> Path:
        file = drawn.config_file({"tracking": {"uri": "https://me:hidden@mlflow.example"}}, name="with_password.yaml")
        code, _, err = command("pack", "out.zip", "--config", file, *arguments)
        assert code == 0, err
        with zipfile.ZipFile("out.zip") as archive:
            archive.extractall("unpacked")
        return Path("unpacked")

    return call


def test_every_file_is_described_by_its_hash_and_nothing_is_left_out(packed):
    folder = packed()
    crate = ROCrate(folder)
    described = {unquote(entity.id): entity for entity in crate.get_entities() if entity.type == "File"}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there - {"ro-crate-metadata.json", "ro-crate-preview.html"} == set(described)
    for name, entity in described.items():
        if name != "config.yaml":
            assert entity["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    for name in ("results/tables/all.csv", "results/figures/claims.pdf", "envs/requirements.txt", "CITATION.cff"):
        assert name in described
    assert {str(TRIAL / name) for name in ("run.json", "scores.json", "predictions.parquet")} <= set(described)
    assert not [name for name in there if name.endswith((".safetensors", ".avi", ".pt"))]
    assert b"hidden" not in b"".join((folder / name).read_bytes() for name in there)


def test_every_run_is_an_action_from_its_inputs_to_its_outputs(packed):
    crate = ROCrate(packed())
    actions = {action.id: action for action in crate.get_by_type("CreateAction")}
    runs = sorted(path.parent for folder in ("runs", "ablation") for path in Path("results", folder).rglob("run.json"))
    assert {f"#{run.as_posix()}" for run in runs} <= {unquote(action) for action in actions}
    assert len(actions) == len(runs) + 2  # teacher and student are two networks of one model: two profiles
    action = actions[f"#{RUNS}/distilled/seed0"]
    about = read_json(RUNS / "distilled/seed0/run.json")
    inputs = {entity["sha256"] for entity in action["object"]}
    assert inputs == {value for value in about["inputs"].values() if value}
    outputs = {entity["sha256"] for entity in action["result"]}
    names = ("scores.json", "predictions.parquet", "weights.safetensors", "run.json", "history.csv")
    assert outputs == {sha256(RUNS / "distilled/seed0" / name) for name in names}
    assert action["instrument"]["softwareVersion"].startswith(about["commit"])
    assert set(crate.root_dataset["mentions"]) == set(actions.values())


def test_authors_and_licence_are_those_of_the_citation(packed):
    root = ROCrate(packed()).root_dataset
    assert root["license"].id == "https://spdx.org/licenses/MIT"
    assert [author["name"] for author in root["author"]] == ["The dvfl authors"]
    assert root["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"


def test_weights_come_where_they_are_asked_for(packed):
    folder = packed("--weights")
    weights = RUNS / "teacher/seed0/weights.safetensors"
    assert (folder / weights).read_bytes() == weights.read_bytes()
    action = ROCrate(folder).get(f"#{RUNS}/distilled/seed0")
    assert str(weights) in {entity.id for entity in action["object"]}


def test_an_unpacked_result_can_be_verified(packed, command, drawn):
    for record in (RUNS / "student/seed0/run.json", *Path("results/profile").glob("*.json")):
        record.write_text(json.dumps(read_json(record) | {"mlflow_run_id": None}))  # delivered only after it ended
    folder = packed()
    code, out, _ = command("verify", folder / "results", "--config", drawn.config_file())
    assert code == 0, out
    assert "5 of 5 scores" in out and "9 of 9 tables" in out
    (folder / RUNS / "student/seed0/history.csv").write_text("epoch\n1\n")
    assert command("verify", folder / "results", "--config", drawn.config_file())[0] == 1


def test_an_unfinished_result_and_another_ending_are_refused(finished, command):
    assert "a packed result is a .zip file" in command("pack", "out.tar", "--config", finished.config_file())[2]
    Path("results/tables/claims.csv").unlink()
    code, _, err = command("pack", "out.zip", "--config", finished.config_file())
    assert code == 1 and "results/tables/claims.csv: not there yet" in err
    assert not Path("out.zip").exists()
