"""The effects of the protocols' differences, measured on made-up runs: contrasts, words, figure."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dvfl import paths, plan
from dvfl.config import ConfigError
from dvfl.config.protocols import measured
from dvfl.evaluate.statistics import holm
from dvfl.files import NotMadeYet
from dvfl.report.figures import ON_DEMAND, write_figure
from dvfl.report.measures import contrast, difference, difference_of_means
from dvfl.report.protocol_effects import build_protocol_effects, effects, in_words
from dvfl.report.rows import COLUMNS, select, setting_parts
from dvfl.report.style import style
from dvfl.report.tables import read_table, write_table
from tests.report.conftest import hash_of, synthetic_config

STUDY = {
    "arms": ["student", "distilled"],
    "differences": True,
    "evaluate_on": "test",
    "seeds": [0, 1, 2],
    "set": {"distill.alpha": 0.2, "distill.temperature": 10},
}
SKILL = {"kd_not_a_divergence": 0.25, "selection_on_test": 0.95}


@pytest.fixture(scope="module")
def config():
    return synthetic_config(
        datasets=["motions"], chosen_by=[], ablation={"run": [], "studies": {"protocol_effects": STUDY}}
    )


@pytest.fixture
def trials(config, tree, monkeypatch):
    """Predictions of every trial: half right, but for the two that SKILL names."""
    tree(config, classes=4, groups=60)
    index = pd.read_parquet(paths.index_path("motions"))
    index = index[index["status"] == "ok"]
    for run in plan.trial_runs(config, "motions", "protocol_effects"):
        rng = np.random.default_rng(hash_of(f"{run.seed}"))
        clips = index.sample(frac=0.5, random_state=int(run.split == "clips1")).sort_values("clip_id")
        if run.trial == "eval_drops_clips":
            clips = clips.iloc[:-7]
        right = rng.random(len(clips)) < SKILL.get(run.trial, 0.5)
        answers = np.where(right, clips["label"], (clips["label"] + 1) % 4)
        frame = clips[["clip_id", "label"]].assign(probabilities=list(np.eye(4)[answers]))
        run.directory.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(run.directory / "predictions.parquet")
        (run.directory / "run.json").write_text(f'{{"mlflow_run_id": "{run.trial}{run.seed}"}}')
    return config


@pytest.fixture
def table(trials):
    return build_protocol_effects(trials)


def test_each_finding_is_compared_with_its_reference_and_holm_covers_them_all(table):
    assert tuple(table.columns) == COLUMNS
    found = effects(table)
    assert found["finding"].tolist() == [finding.id for finding in measured()]
    assert set(found["n_seeds"]) == {3}
    against = select(table, metric="top1_difference")["setting"].map(setting_parts).str["against"]
    assert against.tolist() == [finding.reference for finding in measured()]
    plain = select(table, metric="p_value")["value"]
    assert found["p_holm"].tolist() == pytest.approx(holm(plain).tolist(), rel=1e-3)
    top1 = select(table, metric="top1")
    values = dict(zip(top1["setting"].map(setting_parts).str["trial"], top1["value"], strict=True))
    expected = [values[finding.id] - values[finding.reference] for finding in measured()]
    assert found["value"].tolist() == pytest.approx(expected, abs=1e-3)


def test_an_effect_that_is_there_is_found_and_one_that_is_not_is_not(table):
    found = effects(table).set_index("finding")
    assert found.loc["kd_not_a_divergence", "value"] < -15 and found.loc["kd_not_a_divergence", "p_holm"] < 0.05
    assert found.loc["selection_on_test", "value"] > 30 and found.loc["selection_on_test", "p_holm"] < 0.05
    rest = found.drop(list(SKILL))
    assert (rest["p_holm"] > 0.05).all()
    # The same answers on the same clips: no difference at all. Other clips have an interval.
    assert found.loc["teacher_head_random", ["value", "ci_low", "ci_high"]].tolist() == [0, 0, 0]
    for finding in ("leaky_split", "eval_drops_clips"):
        row = found.loc[finding]
        assert row["ci_low"] < row["value"] < row["ci_high"] and row["paired"] == "seed"
    assert set(found.drop(["leaky_split", "eval_drops_clips"])["paired"]) == {"seed, clip"}


def test_on_the_same_clips_it_is_the_paired_difference(trials, config):
    runs = {}
    for run in plan.trial_runs(config, "motions", "protocol_effects"):
        runs.setdefault(run.trial, []).append(run)
    pairs = list(zip(runs["kd_not_a_divergence"], runs["teacher_head_random"], strict=True))
    interval, same = difference(pairs)
    paired = contrast(pairs).interval
    assert same
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((paired.estimate, paired.low, paired.high))


def test_between_different_clips_the_standard_error_is_the_spread_of_repeated_draws():
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(300):
        first, second = (answers(rng, *size) for size in (("a", 40), ("b", 60)))
        groups = pd.concat([first, second]).index.to_series().str.split("_").str[0]
        drawn.append(difference_of_means([first], [second], groups))
    spread = np.std([interval.estimate for interval in drawn])
    assert np.mean([interval.se_groups for interval in drawn]) == pytest.approx(spread, rel=0.15)


def answers(rng: np.random.Generator, name: str, groups: int) -> pd.Series:
    """Whether each of five clips a group is right; groups differ in how hard they are."""
    skill = np.clip(rng.normal(0.6, 0.2, groups), 0, 1).repeat(5)
    clips = [f"{name}{group}_{clip}" for group in range(groups) for clip in range(5)]
    return pd.Series((rng.random(len(clips)) < skill).astype(float), index=clips)


def test_words_say_what_is_shown_and_what_is_not(table):
    text = in_words(table)
    assert text.startswith(f"On motions, {len(measured())} differences of the released code were switched on")
    lower = text.split("Shown to lower the accuracy: ")[1].split(". ")[0]
    assert lower.startswith("kd_not_a_divergence -") and "p " in lower
    assert "Shown to raise the accuracy: selection_on_test +" in text
    assert "so that it need not be the cause: leaky_split " in text and text.count("leaky_split") == 1
    rest = text.split("Not shown to change it")[1]
    assert all(finding.id in rest for finding in measured() if finding.id not in SKILL)
    assert "share one teacher" in text and text.count("\n") == 1


def test_words_stand_before_the_table_that_they_are_made_from(table, tmp_path):
    text = in_words(table)
    write_table(table, tmp_path / "effects", text)
    page, plain = ((tmp_path / f"effects.{ending}").read_text() for ending in ("html", "md"))
    assert page.index(f"<p>{escape(text.strip())}</p>") < page.index("<table>")
    assert plain.startswith(text.strip().replace("_", "\\_").replace("<", "\\<") + "\n\n## ")


def test_words_where_nothing_is_shown(table):
    quiet = table.assign(value=table["value"].where(table["metric"] != "p_value_holm", 1.0))
    text = in_words(quiet)
    assert "None of them is shown to change the accuracy." in text and "Shown to lower" not in text


def test_the_figure_is_that_of_the_table(table, trials, tmp_path):
    write_table(table, "results/tables/protocol_effects")
    write_figure("protocol_effects", trials)
    drawn = pd.read_csv("results/figures/protocol_effects.csv", dtype={"teachers": "str"})
    expected = effects(read_table("results/tables/protocol_effects.csv"))
    texts = {name: expected[name].fillna(np.nan) for name in ("teachers", "against_split")}
    pd.testing.assert_frame_equal(drawn, expected.assign(**texts), check_dtype=False)
    with style():
        figure = ON_DEMAND["protocol_effects"].draw(drawn)
    (cell,) = figure.axes
    assert [label.get_text().split(" (")[0] for label in cell.get_yticklabels()] == drawn["finding"].tolist()
    assert len(cell.texts) == len(drawn)


def test_all_csv_has_the_effects_once_they_are_made(table, trials, command):
    from dvfl.steps import tables_made

    assert tables_made(trials) == []
    write_table(table, "results/tables/protocol_effects")
    assert tables_made(trials) == ["results/tables/protocol_effects.csv"]


def test_a_config_without_the_study_and_a_trial_that_is_missing_are_named(trials, make_config):
    with pytest.raises(ConfigError, match="none measures the differences between the protocols"):
        build_protocol_effects(make_config())
    Path("results/ablation/motions/protocol_effects/leaky_split/distilled/seed1/predictions.parquet").unlink()
    with pytest.raises(NotMadeYet, match=r"leaky_split/distilled/seed1/predictions\.parquet: not there yet"):
        build_protocol_effects(trials)
