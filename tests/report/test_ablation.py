"""Trials, contrasts and the choice."""

from __future__ import annotations

import numpy as np
import pytest

from dvfl.evaluate.statistics import holm
from dvfl.report.ablation import build_ablation, runs_by_trial
from dvfl.report.results import read_scores
from dvfl.report.rows import COLUMNS, select, setting_parts


def of_study(table, study, **values):
    rows = select(table, dataset="motions", **values)
    parts = rows["setting"].map(setting_parts)
    rows = rows.assign(trial=parts.str.get("trial"), against=parts.str.get("against"))
    return rows[parts.str.get("study") == study]


def test_one_row_per_trial_and_arm(tables):
    table = tables["ablation"]
    assert tuple(table.columns) == COLUMNS
    assert len(of_study(table, "alpha_temperature", metric="top1")) == 10
    assert len(of_study(table, "labelled_clips", metric="top1")) == 6


def test_values_are_those_of_the_trials(tables, make_config):
    table = tables["ablation"]
    rows = of_study(table, "labelled_clips", metric="top1", arm="student").set_index("trial")
    trials = runs_by_trial(make_config(), "motions", "labelled_clips")
    for trial, row in rows.iterrows():
        runs = trials[trial, "student"]
        single = [read_scores(run)["metrics"]["top1"]["value"] for run in runs]
        assert row["value"] == pytest.approx(100 * np.mean(single), rel=1e-5)
    # The point that is the arm itself was not trained twice.
    assert all(not run.study for run in trials["clips_per_class=10", "student"])


def test_trials_are_compared_with_labels_alone(tables):
    table = tables["ablation"]
    rows = of_study(table, "alpha_temperature", metric="top1_difference")
    assert len(rows) == 9 and set(rows["against"]) == {"alpha=0"}
    top1 = of_study(table, "alpha_temperature", metric="top1").set_index("trial")["value"]
    expected = top1[rows["trial"]] - top1["alpha=0"]
    assert rows["value"].tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_gain_per_number_of_clips_is_paired(tables):
    table = tables["ablation"]
    rows = of_study(table, "labelled_clips", metric="top1_difference")
    assert rows["arm"].tolist() == ["distilled - student"] * 3
    top1 = of_study(table, "labelled_clips", metric="top1").set_index(["trial", "arm"])["value"]
    expected = [top1[trial, "distilled"] - top1[trial, "student"] for trial in rows["trial"]]
    assert rows["value"].tolist() == pytest.approx(expected, abs=1e-3)
    assert (rows["ci_low"] < rows["value"]).all() and (rows["n_seeds"] == 3).all()
    clips = of_study(table, "labelled_clips", metric="training_clips", arm="student")
    assert clips["value"].tolist() == [16, 40, 80]


@pytest.mark.parametrize("study", ["alpha_temperature", "labelled_clips"])
def test_holm_covers_the_contrasts_of_a_study(tables, study):
    table = tables["ablation"]
    plain = of_study(table, study, metric="p_value")["value"]
    adjusted = of_study(table, study, metric="p_value_holm")["value"]
    assert adjusted.tolist() == pytest.approx(holm(plain).tolist(), rel=1e-3)


def test_the_choice_is_marked(tables):
    table = tables["ablation"]
    rows = of_study(table, "alpha_temperature", metric="top1")
    chosen = rows[rows["setting"].str.endswith("chosen=yes")]
    assert chosen["trial"].tolist() == ["alpha=0.9,temperature=4"]
    values = of_study(table, "alpha_temperature")
    assert select(values, metric="chosen_alpha")["value"].tolist() == [0.9]
    assert select(values, metric="chosen_temperature")["value"].tolist() == [4]


def test_a_reference_is_what_the_others_are_compared_with(tree, make_config):
    grid = {"distill.divergence": ["forward_kl", "cosine", "dkd"]}
    study = {
        "arms": ["distilled"],
        "evaluate_on": "test",
        "seeds": [0, 1, 2],
        "grid": grid,
        "points": [{"distill.alpha": 0.0}],
        "reference": {"distill.divergence": "forward_kl"},
    }
    config = make_config(ablation={"run": ["divergences"], "studies": {"divergences": study}}, chosen_by=[])
    table = build_ablation(tree(config))
    rows = of_study(table, "divergences", metric="top1_difference")
    assert rows["trial"].tolist() == ["divergence=cosine", "divergence=dkd", "alpha=0"]
    assert set(rows["against"]) == {"divergence=forward_kl"} and set(rows["n_seeds"]) == {3}
    adjusted = of_study(table, "divergences", metric="p_value_holm")
    verdicts = adjusted["setting"].map(lambda text: setting_parts(text)["larger_than_noise"])
    assert verdicts.tolist() == ["yes" if p < 0.05 else "no" for p in adjusted["value"]]
    # Made-up trials differ by their alpha alone: at 0 they are worse by far, between divergences by chance.
    assert verdicts.tolist()[:2] == ["no", "no"]


def test_a_difference_beyond_the_noise_is_called_so(tables):
    rows = of_study(tables["ablation"], "alpha_temperature", metric="p_value_holm")
    verdicts = rows["setting"].map(lambda text: setting_parts(text)["larger_than_noise"])
    assert verdicts.tolist() == ["yes" if p < 0.05 else "no" for p in rows["value"]]


def test_no_studies_no_rows(tree, make_config):
    table = build_ablation(tree(make_config(ablation={"run": [], "studies": {}}, chosen_by=[])))
    assert table.empty and tuple(table.columns) == COLUMNS
