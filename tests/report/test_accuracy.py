"""Values of the accuracy table against a computation by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dvfl.config import merge
from dvfl.report.accuracy import MEAN, build_accuracy
from dvfl.report.contrasts import contrasts, main_arms
from dvfl.report.results import ReportError, read_record
from dvfl.report.rows import COLUMNS, select, setting_parts
from dvfl.run import Run

MOTIONS = {"dataset": "motions", "split": "split1"}


def by_hand(arm: str, seed: int) -> pd.Series:
    """Whether the run got each clip right, by clip id."""
    run = Run("motions", "split1", "as_described", arm, seed)
    predictions = pd.read_parquet(run.directory / "predictions.parquet").set_index("clip_id")
    answers = predictions["probabilities"].map(np.argmax)
    return (answers == predictions["label"]).astype(float)


def test_columns_and_units(tables):
    table = tables["accuracy"]
    assert tuple(table.columns) == COLUMNS
    assert set(table["table"]) == {"accuracy"}
    assert table["metric"].ne("").all()


def test_value_is_the_mean_over_seeds_in_percent(tables):
    table = tables["accuracy"]
    row = select(table, **MOTIONS, arm="student", metric="top1").iloc[0]
    expected = 100 * np.mean([by_hand("student", seed).mean() for seed in (0, 1, 2)])
    assert row["value"] == pytest.approx(expected, rel=1e-5)
    assert row["n_seeds"] == 3
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["setting"] == "views=1x1; interval=seeds+groups"


def test_intervals_of_metrics_stay_in_range(tables):
    table = tables["accuracy"]
    percent = select(table, unit="percent")
    assert percent["ci_low"].min() >= 0 and percent["ci_high"].max() <= 100


def test_one_seed_has_the_bootstrap_of_its_scores(tables):
    table = tables["accuracy"]
    row = select(table, **MOTIONS, arm="teacher", metric="ece").iloc[0]
    scores = pd.read_json("results/runs/motions/split1/as_described/teacher/seed0/scores.json", typ="series")
    ece = scores["metrics"]["ece"]
    assert row[["value", "ci_low", "ci_high"]].tolist() == pytest.approx(
        [100 * ece[key] for key in ("value", "ci_low", "ci_high")], rel=1e-5
    )
    assert row["setting"] == "views=1x1; interval=groups"


def test_difference_is_paired_by_seed_and_clip(tables):
    table = tables["accuracy"]
    rows = select(table, **MOTIONS, arm="distilled - student", metric="top1_difference")
    joint = rows[rows["ci_low"].notna()].iloc[0]
    single = [by_hand("distilled", seed).sub(by_hand("student", seed)).mean() for seed in (0, 1, 2)]
    assert joint["value"] == pytest.approx(100 * np.mean(single), rel=1e-5)
    per_seed = rows[rows["ci_low"].isna()]
    assert per_seed["value"].tolist() == pytest.approx([100 * each for each in single], rel=1e-5)
    assert "teachers=1" in joint["setting"]
    p_values = select(table, **MOTIONS, arm="distilled - student", metric="p_value")
    assert len(p_values) == 4  # over seeds, and of each seed
    assert p_values["value"].between(0, 1).all()


def test_one_teacher_stands_against_every_student(tables):
    table = tables["accuracy"]
    rows = select(table, **MOTIONS, arm="teacher - distilled", metric="top1_difference")
    expected = by_hand("teacher", 0).mean() - np.mean([by_hand("distilled", s).mean() for s in (0, 1, 2)])
    assert rows.iloc[0]["value"] == pytest.approx(100 * expected, rel=1e-5)
    assert rows.iloc[0]["n_seeds"] == 3
    assert rows.iloc[0]["run_ids"].count(";") == 3  # the one teacher is named once


def test_holm_covers_the_contrasts_of_a_split(tables):
    table = select(tables["accuracy"], **MOTIONS)
    adjusted = select(table, metric="p_value_holm")
    plain = select(table, metric="p_value")
    plain = plain[plain["setting"].isin(adjusted["setting"])]
    low, high = sorted(plain["value"])
    assert sorted(adjusted["value"]) == pytest.approx([min(1, 2 * low), max(2 * low, high)], rel=1e-4)


def test_run_ids_follow_the_seeds(tables):
    row = select(tables["accuracy"], **MOTIONS, arm="student", metric="top1").iloc[0]
    runs = [Run("motions", "split1", "as_described", "student", seed) for seed in (0, 1, 2)]
    assert row["run_ids"] == ";".join(read_record(run)["mlflow_run_id"] for run in runs)


def test_clips_are_counted_and_bad_ones_too(tables):
    table = select(tables["accuracy"], **MOTIONS)
    test = select(table, setting="subset=test").set_index("metric")["value"]
    assert test.to_dict() == {"clips": 24, "groups": 6}
    left_out = select(table, metric="clips_left_out").set_index("setting")["value"]
    assert left_out.to_dict() == {"status=unreadable": 1, "status=any": 1}


def test_chosen_values_stand_in_the_setting(tables):
    row = select(tables["accuracy"], **MOTIONS, arm="distilled", metric="top1").iloc[0]
    assert row["setting"].startswith("views=1x1; alpha=0.9; temperature=4; ")


def test_seeds_that_do_not_meet_are_not_compared(tree, make_config):
    arms = {
        "teacher": {"network": "teacher", "seeds": [0]},
        "student": {"network": "student", "seeds": [5]},
        "distilled": {"network": "student", "distil_from": "teacher"},
    }
    table = build_accuracy(tree(make_config(arms=arms, ablation={"run": [], "studies": {}}, chosen_by=[])))
    row = select(table, arm="distilled - student").iloc[0]
    assert row["setting"] == "not compared: no seed in common" and np.isnan(row["value"])


def test_runs_on_other_clips_are_refused(tree):
    config = tree()
    path = Run("motions", "split1", "as_described", "student", 1).directory / "predictions.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(ReportError, match=r"student/seed1/predictions\.parquet"):
        build_accuracy(config)


def test_contrasts_of_the_controls(make_config):
    arms = {
        "teacher": {"network": "teacher"},
        "student": {"network": "student"},
        "distilled": {"network": "student", "distil_from": "teacher"},
        "teacher_few": {"network": "teacher", "set": {"teacher.clips_per_class": 10}},
        "distilled_few": {"network": "student", "distil_from": "teacher_few"},
    }
    config = make_config(arms=merge({}, arms))
    assert contrasts(config) == [
        ("distilled", "student"),
        ("teacher", "distilled"),
        ("distilled_few", "student"),
        ("teacher_few", "distilled_few"),
        ("distilled", "distilled_few"),
    ]
    assert main_arms(config) == ["teacher", "student", "distilled"]


def test_given_weights_have_no_training_clips(tree, make_config):
    teacher = {"model": "video_focalnet_w24_d1121", "weights": "teacher.safetensors"}
    table = build_accuracy(tree(make_config(teacher=teacher)))
    rows = select(table, **MOTIONS, arm="teacher")
    assert set(rows["setting"]) == {"views=1x1; weights=given; interval=groups"}
    assert "training_clips" not in set(rows["metric"])


@pytest.fixture
def two_splits(tree, make_config):
    folds = {"kind": "folder", "root": "/data/other", "splits": ["fold1of2", "fold2of2"]}
    return build_accuracy(tree(make_config(datasets=["other_set"], dataset_definitions={"other_set": folds})))


def test_several_splits_have_a_mean_row_that_weighs_them_alike(two_splits):
    rows = select(two_splits, arm="student", metric="top1").set_index("split")
    assert list(rows.index) == ["fold1of2", "fold2of2", MEAN]
    assert rows["value"][MEAN] == pytest.approx(rows["value"].drop(MEAN).mean(), rel=1e-5)
    assert rows["ci_low"][MEAN] < rows["value"][MEAN] < rows["ci_high"][MEAN]
    assert len(rows["run_ids"][MEAN].split(";")) == 6  # three seeds on each of two splits


def test_several_splits_have_a_mean_gain_paired_by_seed(two_splits):
    rows = select(two_splits, arm="distilled - student", metric="top1_difference")
    by_split = rows[rows["setting"].str.contains("test=t")].set_index("split")["value"]
    assert by_split[MEAN] == pytest.approx(by_split.drop(MEAN).mean(), rel=1e-5)
    p_values = select(two_splits, arm="distilled - student", split=MEAN, metric="p_value")
    assert len(p_values) == 1 and 0 <= p_values["value"].iloc[0] <= 1


def test_one_split_has_no_mean(tables):
    assert MEAN not in set(tables["accuracy"]["split"])


def test_selection_on_test_is_said_of_every_number_that_has_it(tree, make_config, tables):
    folds = {"kind": "folder", "root": "/data/other", "splits": ["fold1of2", "fold2of2"]}
    values = {"datasets": ["other_set"], "dataset_definitions": {"other_set": folds}}
    table = build_accuracy(tree(make_config(protocol="as_released", **values)))
    scored = table[table["metric"].isin(["top1", "ece", "top1_difference", "p_value", "p_value_holm"])]
    assert {MEAN, "fold1of2"} <= set(scored["split"])
    assert set(scored["setting"].map(setting_parts).str.get("selected_on")) == {"test"}
    assert not tables["accuracy"]["setting"].str.contains("selected_on").any()
