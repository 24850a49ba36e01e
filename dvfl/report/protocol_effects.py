"""Table `protocol_effects`: what each difference of the released code does to the accuracy, alone.

Not among the tables that every run makes: its study is a target of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from dvfl.config import Config
from dvfl.config.protocols import Finding, measured
from dvfl.plan import evaluation
from dvfl.report.ablation import Trials, runs_by_trial
from dvfl.report.accuracy import Row, difference_rows
from dvfl.report.contrasts import teachers_of
from dvfl.report.inputs import differences_study, model_of_runs
from dvfl.report.measures import covers, difference, metric_intervals
from dvfl.report.results import run_ids
from dvfl.report.rows import in_percent, select, setting, setting_parts, table_frame
from dvfl.run import Run

ALPHA = 0.05


def build_protocol_effects(config: Config) -> pd.DataFrame:
    """Top-1 of each trial (percent), then each difference as released - as described, Holm-adjusted together."""
    study = differences_study(config)
    rows: list[Row] = []
    for dataset in config.datasets:
        trials = runs_by_trial(config, dataset, study)
        place = {"dataset": dataset, "protocol": config.protocol}
        rows += [place | row for row in _trial_rows(config, study, trials)]
        rows += [place | row for row in _effect_rows(config, study, trials)]
    return table_frame("protocol_effects", rows)


def _trial_rows(config: Config, study: str, trials: Trials) -> Iterator[Row]:
    for (trial, arm), runs in trials.items():
        intervals, covered = metric_intervals(runs, evaluation(config, runs[0]).resamples)
        top1 = intervals["top1"]
        yield {
            "split": runs[0].split,
            "model": model_of_runs(config, runs[0]),
            "arm": arm,
            "setting": setting(
                views=_views(config, runs[0]),
                study=study,
                subset="test",
                trial=trial,
                interval=covered,
                teachers=teachers_of(config, runs),
            ),
            "metric": "top1",
            **in_percent(top1),
            "n_seeds": len(runs),
            "run_ids": run_ids(runs),
        }


def _effect_rows(config: Config, study: str, trials: Trials) -> Iterator[Row]:
    contrasted = []
    for finding, arm in _tested(config, study):
        pairs = list(zip(trials[finding.id, arm], trials[finding.reference, arm], strict=True))
        interval, same_clips = difference(pairs)
        row = {
            "split": pairs[0][0].split,
            "model": model_of_runs(config, *pairs[0]),
            "arm": arm,
            "setting": setting(
                views=_views(config, pairs[0][0]),
                study=study,
                subset="test",
                trial=finding.id,
                against=finding.reference,
                against_split=None if pairs[0][0].split == pairs[0][1].split else pairs[0][1].split,
                paired="seed, clip" if same_clips else "seed",
                interval=covers(interval),
                test="t",
                teachers=teachers_of(config, [run for pair in pairs for run in pair]),
            ),
        }
        contrasted.append((row, interval, pairs))
    yield from difference_rows(contrasted)


def _tested(config: Config, study: str) -> list[tuple[Finding, str]]:
    arms = config.ablation.studies[study].arms
    return [(finding, finding.effect.arm) for finding in measured() if finding.effect.arm in arms]


def _views(config: Config, run: Run) -> str:
    tested = evaluation(config, run)
    return f"{tested.clips}x{tested.crops}"


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The differences alone: dataset, finding, arm, value, ci_low, ci_high, p_holm, n_seeds, then what qualifies them.

    That is: teachers, paired, against_split. Where the last is given, the reference has other clips, drawn once, and a
    teacher of its own: the difference is theirs as well.
    """
    parts = table["setting"].map(setting_parts)
    qualities = ["teachers", "paired", "against_split"]
    table = table.assign(**{key: parts.str.get(key) for key in ("trial", *qualities)})
    p_holm = select(table, metric="p_value_holm").set_index(["dataset", "trial"])["value"]
    shown = select(table, metric="top1_difference").rename(columns={"trial": "finding"})
    shown = shown.assign(p_holm=[p_holm[key] for key in zip(shown["dataset"], shown["finding"], strict=True)])
    columns = ["dataset", "finding", "arm", "value", "ci_low", "ci_high", "p_holm", "n_seeds", *qualities]
    return shown[columns].reset_index(drop=True)


def in_words(table: pd.DataFrame) -> str:
    """One paragraph a data set: what the numbers of the table show, and what they do not."""
    paragraphs = []
    for dataset, here in effects(table).groupby("dataset", sort=False):
        other_clips = here[here["against_split"].notna()]
        alike = here.drop(other_clips.index)
        shown = alike[alike["p_holm"] <= ALPHA]
        rest = alike.drop(shown.index)
        seeds = int(here["n_seeds"].iloc[0])
        sentences = [
            f"On {dataset}, {len(here)} differences of the released code were switched on one at a time and compared "
            f"with the same training without them, in percentage points of top-1 on test, over {_count(seeds, 'seed')} "
            f"with 95 % intervals and p values after Holm's correction."
        ]
        for rows, verb in ((shown[shown["value"] < 0], "lower"), (shown[shown["value"] > 0], "raise")):
            if len(rows):
                sentences.append(f"Shown to {verb} the accuracy: {_listed(rows, with_p=True)}.")
        if shown.empty:
            sentences.append("None of them is shown to change the accuracy.")
        if len(rest):
            not_shown = f"Not shown to change it, which does not say that {_they(len(rest))} not"
            sentences.append(f"{not_shown}: {_listed(rest, with_p=False)}.")
        if len(other_clips):
            sentences.append(
                f"Trained and tested on other clips than its reference, drawn once, and taught by another teacher, so "
                f"that it need not be the cause: {_listed(other_clips, with_p=True)}."
            )
        if (here["teachers"] == "1").any() and seeds > 1:
            sentences.append("Seeds share one teacher, whose luck no interval covers.")
        paragraphs.append(" ".join(sentences))
    return "\n\n".join(paragraphs) + "\n"


def _listed(rows: pd.DataFrame, with_p: bool) -> str:
    ordered = rows.reindex(rows["value"].abs().sort_values(ascending=False, kind="stable").index)
    return "; ".join(
        f"{row.finding} {row.value:+.1f} [{row.ci_low:+.1f}, {row.ci_high:+.1f}]"
        + ((", p < 0.001" if row.p_holm < 0.001 else f", p = {row.p_holm:.3f}") if with_p else "")
        for row in ordered.itertuples()
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _they(number: int) -> str:
    return "it does" if number == 1 else "they do"
