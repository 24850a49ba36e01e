"""The study of the protocols' differences, run for real, small: every switch trains, is tested and scored."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pandas as pd
import pytest

from dvfl import paths, plan
from dvfl.ablate.job import run_trial
from dvfl.config.protocols import effect_trials, measured
from dvfl.data.index import read_index
from dvfl.data.splits import make_split, write_split
from dvfl.files import read_json, sha256
from dvfl.report.tables import read_table
from dvfl.steps import training

VALUES = {
    "evaluate": {"batch_size": 4},
    "distill": {"targets": "online"},
    "ablation": {
        "studies": {
            "protocol_effects": {
                "arms": ["student", "distilled"],
                "differences": True,
                "evaluate_on": "test",
                "seeds": [3],  # no seed of the arms: the reference is trained here
                "set": {"distill.alpha": 0.2, "distill.temperature": 10},
            }
        }
    },
}


def test_every_difference_is_trained_tested_scored_and_put_into_words(taught, command):
    config = taught.config(VALUES)
    index = read_index(paths.index_path("colours"))
    write_split(
        make_split(index, config.dataset_definitions["colours"], "clips1"), paths.split_path("colours", "clips1")
    )
    code, _, err = command(
        "train", "results/runs/colours/clips1/as_described/teacher/seed0", "--config", taught.config_file(VALUES)
    )
    assert code == 0, err
    runs = {run.trial: run for run in plan.trial_runs(config, "colours", "protocol_effects")}
    assert set(runs) == set(effect_trials())
    for run in runs.values():
        assert all(Path(file).exists() for file in _flat(training(config, run))), run.trial
        run_trial(config, run)
    weights = {trial: sha256(run.directory / "weights.safetensors") for trial, run in runs.items()}
    about = {trial: read_json(run.directory / "run.json") for trial, run in runs.items()}
    scores = {trial: read_json(run.directory / "scores.json") for trial, run in runs.items()}
    # Differences of the test alone train nothing; all others end in other weights than their reference.
    for finding in measured():
        only_tested = finding.id in ("eval_drops_clips", "random_multiview")
        same = weights[finding.id] == weights[finding.reference]
        assert same == only_tested or finding.id == "selection_on_test", finding.id
    assert weights["reference"] == weights["reference.random_multiview"]
    assert scores["eval_drops_clips"]["clips_dropped"] == scores["reference"]["n_clips"] % 2  # in batches of two
    assert scores["random_multiview"]["views"] == scores["reference.random_multiview"]["views"] == "4x3"
    assert about["leaky_split"]["split"] == "clips1"
    trained_head = about["reference"]["teacher_top1_on_training_clips"]
    assert about["teacher_head_random"]["teacher_top1_on_training_clips"] < trained_head
    history = pd.read_csv(runs["selection_on_test"].directory / "history.csv")
    assert scores["selection_on_test"]["metrics"]["top1"]["value"] == pytest.approx(history["test_top1"].max())
    assert all("test_top1" not in pd.read_csv(runs[trial].directory / "history.csv") for trial in ("reference",))

    code, out, err = command("protocol-effects", "--config", taught.root / "mine.yaml")
    assert code == 0, err
    assert out.startswith("On colours, 10 differences of the released code")
    assert out == Path("results/tables/protocol_effects.txt").read_text()
    assert escape(out.strip()) in Path("results/tables/protocol_effects.html").read_text()
    table = read_table("results/tables/protocol_effects.csv")
    assert len(table) == len(runs) + 3 * len(measured())
    assert all(Path(f"results/figures/protocol_effects.{ending}").stat().st_size for ending in ("png", "pdf", "csv"))


def _flat(files: dict) -> list:
    return [file for value in files.values() for file in (value if isinstance(value, list) else [value])]
