"""Verification: a finished result matches, and one byte or one number that was changed is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dvfl import paths

RUNS = Path("results/runs/colours/split1/as_described")


def flip(path: Path, position: int = -1) -> None:
    """Changes one byte."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def change_json(path: Path, *keys: str | int, value: object) -> None:
    whole = part = json.loads(path.read_text())
    for key in keys[:-1]:
        part = part[key]
    assert part[keys[-1]] != value
    part[keys[-1]] = value
    path.write_text(json.dumps(whole))


def change_cell(path: Path, row: int, column: str, value: str) -> None:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[row - 1, column] = value
    frame.to_csv(path, index=False, lineterminator="\n")


def test_a_finished_result_matches_and_is_left_alone(finished, verify):
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")}
    code, said = verify("--clips")
    assert code == 0, said
    assert said == [
        # index, split, teacher's weights; weights and history of five runs, the teacher's counted once
        "everything that was checked matches: 12 of 12 hashes, 5 of 5 settings, 5 of 5 scores, 1 of 1 choices, "
        "18 of 18 clips, 9 of 9 tables"
    ]
    assert {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")} == before


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("results/data/colours/splits/split1.csv", "results/data/colours/splits/split1.csv: has sha256 "),
        (RUNS / "teacher/seed0/weights.safetensors", f"{RUNS}/teacher/seed0/weights.safetensors: has sha256 "),
        (RUNS / "student/seed0/weights.safetensors", f"{RUNS}/student/seed0/weights.safetensors: has sha256 "),
        (RUNS / "student/seed0/history.csv", f"{RUNS}/student/seed0/history.csv: has sha256 "),
        ("clips/red/red_g0_c0.avi", "clips/red/red_g0_c0.avi: is not the clip that results/data/colours/index.parquet"),
        (RUNS / "student/seed0/predictions.parquet", f"{RUNS}/student/seed0/scores.json: "),
        ("results/data/colours/index.parquet", "results/data/colours/index.parquet: has sha256 "),
    ],
)
def test_one_byte_is_named(verify, path, named):
    flip(Path(path))
    code, said = verify("--clips")
    assert code == 1
    assert any(line.startswith(named) for line in said), said
    assert "no longer match" in said[-1]


def test_a_probability_that_changes_no_metric_is_named(verify):
    path = RUNS / "student/seed0/predictions.parquet"
    frame = pd.read_parquet(path)
    frame["probabilities"] = frame["probabilities"].map(lambda values: np.nextafter(values, 1))
    frame.to_parquet(path, index=False)
    code, said = verify()
    assert code == 1
    assert said[0].startswith(f"{RUNS}/student/seed0/scores.json: predictions_sha256 is ")


def test_one_number_of_a_score_is_named_and_the_table_that_rests_on_it(verify):
    path = RUNS / "student/seed0/scores.json"
    change_json(path, "metrics", "ece", "value", value=0.123)
    code, said = verify()
    assert code == 1
    assert said[0].startswith(f"{path}: metrics.ece.value is 0.123 in the file, 0.")
    assert any(line.startswith("results/tables/accuracy.csv: row ") and ", value: " in line for line in said)


def test_one_setting_or_one_hash_of_a_record_is_named(verify):
    path = RUNS / "student/seed0/run.json"
    change_json(path, "settings", "train", "lr", value=0.5)
    change_json(RUNS / "distilled/seed0/run.json", "inputs", "split", value="0" * 64)
    code, said = verify()
    assert code == 1
    assert f"{path}: train.lr: 0.5 then, 0.01 now" in said
    split = "results/data/colours/splits/split1.csv: has sha256 "
    assert any(line.startswith(split) and line.endswith("distilled/seed0 recorded 000000000000…") for line in said)
    assert f"{RUNS}/distilled/seed0/run.json: its key is not that of its settings and inputs" in said


def test_another_choice_is_named(verify):
    path = Path("results/ablation/colours/epochs/choice.json")
    change_json(path, "value", value=0.999)
    assert any(line.startswith(f"{path}: value is 0.999 in the file, ") for line in verify()[1])


def test_one_number_of_a_table_is_named(verify):
    change_cell(Path("results/tables/accuracy.csv"), 9, "value", "99.9")
    code, said = verify()
    assert code == 1
    assert said[0].startswith("results/tables/accuracy.csv: row 9, value: 99.9 in the file, ")
    assert said[1].startswith("results/tables/all.csv: row 9, value: ") and said[1].endswith("99.9 in its table")


def test_one_number_of_a_profile_is_named_by_its_table(verify):
    first = pd.read_csv("results/tables/efficiency.csv").iloc[0]
    change_json(paths.profile_path(first["model"]), "params", value=1)
    assert any(line.startswith("results/tables/efficiency.csv: row 1, value: ") for line in verify()[1])


def test_what_is_missing_is_named(verify):
    (RUNS / "student/seed0/predictions.parquet").unlink()
    Path("results/tables/checks.csv").unlink()
    Path("clips/red/red_g0_c0.avi").unlink()
    code, said = verify()
    assert code == 1
    assert f"{RUNS}/student/seed0/predictions.parquet: not there yet" in said[0]
    assert "clips/red/red_g0_c0.avi: is not there" in said
    assert "results/tables/checks.csv: is not there" in said


def test_what_cannot_be_checked_is_said_and_is_no_match(verify):
    (RUNS / "student/seed0/weights.safetensors").unlink()  # as in a packed result
    shutil.rmtree("clips")
    code, said = verify()
    assert code == 0
    assert said[0].startswith(f"not checked: {RUNS}/student/seed0/weights.safetensors: is not there")
    assert "not checked: clips: is not here, so no clip of colours is compared" in said
    assert "11 of 11 hashes" in said[-1] and "clips" not in said[-1]


def test_a_folder_that_is_no_result_is_refused(finished, command):
    assert "nowhere: give the folder `results` that the pipeline made" in command("verify", "nowhere")[2]
