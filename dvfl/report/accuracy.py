"""Table `accuracy`: what each arm scores on test, and by how much arms differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dvfl.config import Config
from dvfl.evaluate.metrics import METRICS
from dvfl.evaluate.statistics import SeedInterval, holm
from dvfl.plan import arm_seeds
from dvfl.report.contrasts import contrasts, paired_runs, teachers_of
from dvfl.report.inputs import model_of
from dvfl.report.measures import contrast, contrast_over_splits, covers, mean_over_splits, metric_intervals
from dvfl.report.published import tested_claims
from dvfl.report.results import read_index, read_record, read_split, run_ids
from dvfl.report.rows import in_percent, plain, setting, table_frame
from dvfl.run import Run

Row = dict[str, Any]

MEAN = "mean"  # stands in the column `split` where a number is the mean over a data set's splits


def build_accuracy(config: Config) -> pd.DataFrame:
    """Percent and percentage points; per data set and split: clips, arms, contrasts; then the means over splits."""
    rows: list[Row] = []
    for dataset in config.datasets:
        splits = config.dataset_definitions[dataset].splits
        for split in splits:
            place = {"dataset": dataset, "split": split, "protocol": config.protocol}
            rows += [place | row for row in _clip_rows(dataset, split)]
            for arm in config.arms:
                rows += [place | row for row in _arm_rows(config, dataset, split, arm)]
            rows += [place | row for row in _contrast_rows(config, dataset, split)]
        if len(splits) > 1:
            place = {"dataset": dataset, "split": MEAN, "protocol": config.protocol}
            rows += [place | row for row in _mean_rows(config, dataset, splits)]
    return table_frame("accuracy", rows)


def shown_splits(config: Config, dataset: str) -> list[str]:
    """The values of column `split` that sum a data set up: the mean where there is one, else the only split."""
    splits = config.dataset_definitions[dataset].splits
    return [MEAN] if len(splits) > 1 else splits


def views(config: Config) -> str:
    """Views of a test clip: temporal clips x spatial crops."""
    return f"{config.evaluate.clips}x{config.evaluate.crops}"


def pair_model(config: Config, arm: str, baseline: str) -> str:
    """The model of a difference: one name, or both where they differ."""
    return " - ".join(dict.fromkeys([model_of(config, arm), model_of(config, baseline)]))


def difference_rows(
    contrasted: list[tuple[Row, SeedInterval, list[tuple[Run, Run]]]],
) -> Iterator[Row]:
    """top1_difference, p_value and its Holm-adjusted p value, over a family of contrasts."""
    adjusted = holm([interval.p_value for _, interval, _ in contrasted])
    for (row, interval, pairs), p_holm in zip(contrasted, adjusted, strict=True):
        ids = run_ids([first for first, _ in pairs] + [second for _, second in pairs])
        row = row | {"n_seeds": interval.n_seeds, "run_ids": ids}
        yield row | {
            "metric": "top1_difference",
            "unit": "percentage points",
            "value": 100 * interval.estimate,
            "ci_low": 100 * interval.low,
            "ci_high": 100 * interval.high,
        }
        probability = {"unit": "probability"}
        yield row | probability | {"metric": "p_value", "value": interval.p_value}
        yield row | probability | {"metric": "p_value_holm", "value": float(p_holm)}


def _clip_rows(dataset: str, split: str) -> Iterator[Row]:
    """Clips and groups of each subset, and the clips that were left out, by reason."""
    index = read_index(dataset)
    usable = index[index["status"] == "ok"]
    clips = read_split(dataset, split).merge(usable, on="clip_id")
    for subset in ("train", "validation", "test"):
        own = clips[clips["subset"] == subset]
        groups = own["group"].fillna(own["clip_id"]).nunique()
        row = {"setting": setting(subset=subset)}
        yield row | {"metric": "clips", "unit": "clips", "value": len(own)}
        yield row | {"metric": "groups", "unit": "groups", "value": groups}
    left_out = index.loc[index["status"] != "ok", "status"].value_counts().sort_index()
    row = {"metric": "clips_left_out", "unit": "clips"}
    for status, count in left_out.items():
        yield row | {"setting": setting(status=status), "value": count}
    yield row | {"setting": setting(status="any"), "value": left_out.sum()}


def _arm_rows(config: Config, dataset: str, split: str, arm: str) -> Iterator[Row]:
    runs = [Run(dataset, split, config.protocol, arm, seed) for seed in arm_seeds(config, arm)]
    records = [read_record(run) for run in runs]
    intervals, covered = metric_intervals(runs, config.evaluate.resamples)
    published = tested_claims(config)
    row = {
        "model": model_of(config, arm),
        "arm": arm,
        "setting": setting(
            views=views(config),
            weights="given" if _given(records[0]) else None,
            **_distillation(records[0]),
            selected_on=_selected_on(runs),
            interval=covered,
            teachers=teachers_of(config, runs),
        ),
        "n_seeds": len(runs),
        "run_ids": run_ids(runs),
    }
    for metric in METRICS:
        yield row | {
            "metric": metric,
            **in_percent(intervals[metric]),
            "published": published.get((dataset, split, arm, metric)),
        }
    if _given(records[0]):
        return  # trained elsewhere, on clips that are not known here
    clips = [record["train_clips"] for record in records]
    yield row | {"metric": "training_clips", "unit": "clips", "value": _mean(clips)}
    teacher = [record.get("teacher_top1_on_training_clips") for record in records]
    if None not in teacher:
        # A teacher that lost its classifier on the way shows here at once.
        name = "teacher_top1_on_training_clips"
        yield row | {"metric": name, "unit": "percent", "value": 100 * _mean(teacher)}


def _contrast_rows(config: Config, dataset: str, split: str) -> Iterator[Row]:
    contrasted = []
    for arm, baseline in contrasts(config):
        row = {"arm": f"{arm} - {baseline}", "model": pair_model(config, arm, baseline)}
        pairs = paired_runs(config, dataset, split, arm, baseline)
        if not pairs:
            note = {"setting": "not compared: no seed in common", "metric": "top1_difference"}
            yield row | note | {"unit": "percentage points"}
            continue
        found = contrast(pairs)
        runs = [run for pair in pairs for run in pair]
        teachers = teachers_of(config, runs)
        seeds = setting(
            views=views(config),
            selected_on=_selected_on(runs),
            paired="seed",
            interval=covers(found.interval),
            test="t",
            teachers=teachers,
        )
        contrasted.append((row | {"setting": seeds}, found, pairs))
    yield from difference_rows([(row, found.interval, pairs) for row, found, pairs in contrasted])
    for row, found, pairs in contrasted:
        for pair, difference, p_value in zip(pairs, found.differences, found.sign_flip_p, strict=True):
            own = setting(
                views=views(config), selected_on=_selected_on(list(pair)), seed=pair[1].seed, test="sign flip"
            )
            row = row | {"setting": own, "n_seeds": 1, "run_ids": run_ids(list(pair))}
            metric, unit = "top1_difference", "percentage points"
            yield row | {"metric": metric, "unit": unit, "value": 100 * difference}
            yield row | {"metric": "p_value", "unit": "probability", "value": p_value}


def _mean_rows(config: Config, dataset: str, splits: list[str]) -> Iterator[Row]:
    """Top-1 and top-5 of each arm and the contrasts, as means over the splits."""

    def shown(runs: list[Run], interval: SeedInterval, **parts: str) -> str:
        return setting(
            views=views(config),
            splits="+".join(splits),
            selected_on=_selected_on(runs),
            interval=covers(interval),
            **parts,
            teachers=teachers_of(config, runs),
        )

    for arm in config.arms:
        runs = [
            [Run(dataset, split, config.protocol, arm, seed) for seed in arm_seeds(config, arm)] for split in splits
        ]
        all_runs = [run for of_split in runs for run in of_split]
        for metric, interval in mean_over_splits(runs).items():
            yield {
                "model": model_of(config, arm),
                "arm": arm,
                "setting": shown(all_runs, interval),
                "n_seeds": interval.n_seeds,
                "run_ids": run_ids(all_runs),
                "metric": metric,
                "unit": "percent",
                "value": 100 * interval.estimate,
                "ci_low": 100 * max(0.0, interval.low),
                "ci_high": 100 * min(1.0, interval.high),
            }
    contrasted = []
    for arm, baseline in contrasts(config):
        pairs = [paired_runs(config, dataset, split, arm, baseline) for split in splits]
        if all(pairs):
            joined = [pair for of_split in pairs for pair in of_split]
            interval = contrast_over_splits(pairs)
            row = {
                "arm": f"{arm} - {baseline}",
                "model": pair_model(config, arm, baseline),
                "setting": shown([run for pair in joined for run in pair], interval, paired="seed", test="t"),
            }
            contrasted.append((row, interval, joined))
    yield from difference_rows(contrasted)


def _selected_on(runs: list[Run]) -> str | None:
    """`test` where an epoch was picked by the very clips that it is then tested on, as the released code does."""
    trained = [record["settings"]["train"] for record in map(read_record, runs) if not _given(record)]
    return "test" if any(train["report_epoch"] == "best_on_test" for train in trained) else None


def _given(record: dict[str, Any]) -> bool:
    """Whether weights from elsewhere took the place of the training."""
    return record["settings"]["network"]["weights"] is not None


def _distillation(record: dict[str, Any]) -> dict[str, str]:
    """alpha and temperature that the run used: a study's choice stands over the config.

    A divergence other than the paper's and the weight of features are named where there are any.
    """
    distill = record["settings"]["distill"]
    if not distill:
        return {}
    chosen = record.get("chosen") or {}
    used = {key: chosen.get(f"distill.{key}", distill.get(key)) for key in ("alpha", "temperature", "divergence")}
    features = chosen.get("distill.features.weight", distill.get("features", {}).get("weight"))
    if used["divergence"] == "forward_kl":
        del used["divergence"]
    return {key: plain(value) for key, value in used.items()} | ({"features": plain(features)} if features else {})


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
