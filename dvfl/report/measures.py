"""Runs of one arm, or of two, turned into estimates with intervals (fractions).

Several seeds: a t interval over seeds and groups. One seed: the group bootstrap of those weights,
as scores.json has it. A difference: paired by seed and clip, always the t interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dvfl.evaluate.metrics import METRICS, true_class_rank
from dvfl.evaluate.statistics import (
    Interval,
    SeedInterval,
    metric_seed_intervals,
    paired_seed_interval,
    seed_interval,
    sign_flip_test,
    split_mean_interval,
)
from dvfl.report.results import ReportError, groups_of, read_predictions, read_scores
from dvfl.run import Run


@dataclass(frozen=True)
class Tested:
    """Predictions of several runs on the same N clips."""

    probabilities: list[np.ndarray]  # one (N, C) a run
    labels: np.ndarray
    groups: np.ndarray

    def correct(self) -> np.ndarray:
        """Whether each run got each clip right: (runs, N), 0 or 1."""
        return self._ranked_below(1)

    def among_five(self) -> np.ndarray:
        return self._ranked_below(5)

    def _ranked_below(self, rank: int) -> np.ndarray:
        ranks = [true_class_rank(each, self.labels) for each in self.probabilities]
        return (np.stack(ranks) < rank).astype(float)


def read_tested(runs: list[Run]) -> Tested:
    """ReportError unless all runs predicted the same clips of the same labels."""
    frames = [read_predictions(run) for run in runs]
    for run, frame in zip(runs, frames, strict=True):
        if not frame[["clip_id", "label"]].equals(frames[0][["clip_id", "label"]]):
            raise ReportError(
                f"{run.directory / 'predictions.parquet'} and "
                f"{runs[0].directory / 'predictions.parquet'} hold other clips or labels; "
                f"remove the older one and make it again"
            )
    return Tested(
        [np.stack(frame["probabilities"].to_numpy()) for frame in frames],
        frames[0]["label"].to_numpy(),
        groups_of(runs[0].dataset, frames[0]["clip_id"]),
    )


def metric_intervals(runs: list[Run], resamples: int) -> tuple[dict[str, Interval], str]:
    """Every metric of the runs of one arm, and what the intervals cover."""
    if len(runs) == 1:
        scores = read_scores(runs[0])
        found = {
            name: Interval(*(scores["metrics"][name][key] for key in ("value", "ci_low", "ci_high")))
            for name in METRICS
        }
        return found, "groups" if scores["n_groups"] > 1 else "none"
    tested = read_tested(runs)
    # Top-1 and top-5 are means over clips: their variance needs no resampling.
    by_seed = metric_seed_intervals(tested.probabilities, tested.labels, tested.groups, resamples=resamples) | {
        "top1": seed_interval(tested.correct(), tested.groups),
        "top5": seed_interval(tested.among_five(), tested.groups),
    }
    # A t interval knows no bounds; cutting it to where a metric can lie costs no coverage.
    found = {name: Interval(each.estimate, max(0.0, each.low), min(1.0, each.high)) for name, each in by_seed.items()}
    return found, covers(by_seed["top1"])


@dataclass(frozen=True)
class Contrast:
    """The difference in top-1 of paired runs, over seeds, and of each pair on its own."""

    interval: SeedInterval
    differences: list[float]
    sign_flip_p: list[float]


def contrast(pairs: list[tuple[Run, Run]]) -> Contrast:
    """First minus second, for pairs of runs on the same clips."""
    tested = read_tested([run for pair in pairs for run in pair])
    correct = tested.correct()
    first, second = correct[0::2], correct[1::2]
    flips = [sign_flip_test(b, a, tested.groups) for a, b in zip(first, second, strict=True)]
    return Contrast(
        paired_seed_interval(second, first, tested.groups),
        [flip.difference for flip in flips],
        [flip.p_value for flip in flips],
    )


def mean_over_splits(runs: list[list[Run]]) -> dict[str, SeedInterval]:
    """Top-1 and top-5 of an arm as means over splits; one list of runs a split, the same seeds in each."""
    tested = [read_tested(of_split) for of_split in runs]
    groups = [each.groups for each in tested]
    return {
        "top1": split_mean_interval([each.correct() for each in tested], groups),
        "top5": split_mean_interval([each.among_five() for each in tested], groups),
    }


def contrast_over_splits(pairs: list[list[tuple[Run, Run]]]) -> SeedInterval:
    """First minus second, as a mean over splits; one list of pairs a split."""
    tested = [read_tested([run for pair in of_split for run in pair]) for of_split in pairs]
    differences = [each.correct()[0::2] - each.correct()[1::2] for each in tested]
    return split_mean_interval(differences, [each.groups for each in tested])


def difference(pairs: list[tuple[Run, Run]]) -> tuple[SeedInterval, bool]:
    """Top-1 of the first minus the second of each pair, over seeds; and whether they were tested on the same clips."""
    firsts, seconds = ([_correct(pair[side]) for pair in pairs] for side in (0, 1))
    clips = firsts[0].index.union(seconds[0].index)
    groups = pd.Series(groups_of(pairs[0][0].dataset, clips.to_series()), index=clips)
    return difference_of_means(firsts, seconds, groups), firsts[0].index.equals(seconds[0].index)


def difference_of_means(firsts: list[pd.Series], seconds: list[pd.Series], groups: pd.Series) -> SeedInterval:
    """Mean of the first minus mean of the second of each pair, each over its own clips, averaged over pairs.

    Values are by clip id, `groups` has the group of every clip. On the same clips it is the paired difference.
    Elsewhere its variance over groups is the linearised one of a difference of two ratios: a clip counts in each mean
    by how far its value is from it, and by nothing where it is not part of it.
    """
    values = []
    for first, second in zip(firsts, seconds, strict=True):
        apart = _influence(first).reindex(groups.index, fill_value=0.0)
        apart -= _influence(second).reindex(groups.index, fill_value=0.0)
        values.append(len(groups) * apart.to_numpy() + first.mean() - second.mean())
    return seed_interval(np.stack(values), groups)


def _correct(run: Run) -> pd.Series:
    """Whether the run got each clip right, by clip id."""
    return pd.Series(read_tested([run]).correct()[0], index=read_predictions(run)["clip_id"], dtype=float)


def _influence(values: pd.Series) -> pd.Series:
    return (values - values.mean()) / len(values)


def covers(interval: SeedInterval) -> str:
    """What the interval covers, as `setting` writes it."""
    return "+".join(interval.sources) or "none"
