"""Table `claims`: every published number, every claim that a number can test, and what this run has to say of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dvfl.config import Config
from dvfl.report.accuracy import build_accuracy, shown_splits, views
from dvfl.report.efficiency import build_efficiency, of_paper
from dvfl.report.published import ANY, UNSTATED_VIEWS, lacks_arm, needs, read_published
from dvfl.report.rows import select, table_frame

TEACHER, STUDENT = "video_focalnet_base", "vfl_net"
DATASETS = ("ucf50", "ucf101", "hmdb51", "ssv2", "kinetics400")  # that the abstract says it evaluates on
NOT_TESTED = "not tested here: needs "
_OURS = ["value", "ci_low", "ci_high", "n_seeds", "run_ids"]


@dataclass(frozen=True)
class Statement:
    """What the abstract says of teacher / student, as a ratio: `published` as a number, else that it is above 1."""

    said: str
    metric: str
    meaning: str
    published: float | None = None


# The published 7 itself is a row of config/published.csv, tested as multiply-adds.
STATEMENTS = (
    Statement("approximately 7x", "params_ratio", "read as parameters", 7),
    Statement("approximately 7x", "latency_ratio", "read as latency of one clip", 7),
    Statement("lower memory usage", "memory_ratio", "as peak memory of a process, against the teacher"),
    Statement("reduced GFLOPs", "gmacs_ratio", "as multiply-adds, against the teacher"),
)


def build_claims(config: Config) -> pd.DataFrame:
    """One row per published number, in the order of config/published.csv, then one per claim of the abstract.

    A value stands there only if this config tests exactly that number; where all but the number of views agrees, which
    most sources do not state, `setting` says what this run has with its own. An accuracy is reproduced
    if the published value lies in the interval; a count if it is the measured one rounded or cut
    to the published digits; a ratio of latencies if its interval has values that round to it;
    "lower" and "reduced" if the ratio is above 1; an improvement if the interval of the gain lies
    above 0.
    """
    claims = read_published()
    accuracies = claims[claims["dataset"] != ANY]
    some_tested = any(set(needs(config, claim)) <= {UNSTATED_VIEWS} for _, claim in accuracies.iterrows())
    some_tested |= any(not _gain_needs(config, dataset) for dataset in DATASETS)
    accuracy = build_accuracy(config) if some_tested else None
    efficiency = build_efficiency(config)
    # A network of the run's own is not what was published, whatever its name.
    efficiency = efficiency.loc[[of_paper(config, model) for model in efficiency["model"]]]
    rows = []
    for _, claim in claims.iterrows():
        of_model = claim["dataset"] == ANY
        verdict = _of_model(efficiency, claim) if of_model else _of_accuracy(config, accuracy, claim)
        rows.append(_row(claim, verdict))
    rows += [_of_statement(efficiency, statement) for statement in STATEMENTS]
    rows += [_of_gain(config, accuracy, dataset) for dataset in DATASETS]
    return table_frame("claims", rows)


def _of_statement(efficiency: pd.DataFrame, statement: Statement) -> dict[str, Any]:
    pair = f"{TEACHER} / {STUDENT}"
    row = {
        "dataset": ANY,
        "model": pair,
        "arm": "teacher / student",
        "metric": statement.metric,
        "unit": "ratio",
        "published": statement.published,
    }
    source = f'Claim: "{statement.said}", {statement.meaning}. Source: abstract of the paper'
    found = select(efficiency, metric=statement.metric, model=pair)
    if found.empty:
        return row | {"setting": f"{NOT_TESTED}the profiles of {TEACHER} and {STUDENT}. {source}"}
    found = found.iloc[0]  # the smallest batch
    value, published = found["value"], statement.published
    if published is None:
        verdict = "reproduced: the ratio is above 1" if value > 1 else f"not reproduced: measured {value:.2f}"
    elif pd.notna(found["ci_low"]):
        verdict = _rounding_within(found["ci_low"], found["ci_high"], published)
    else:
        verdict = _rounding(value, published)
    return row | {"setting": f"{verdict}; {found['setting']}. {source}"} | found[_OURS].to_dict()


def _gain_needs(config: Config, dataset: str) -> list[str]:
    """What the config lacks to test the paper's gain on a data set, under whichever protocol and split."""
    lacking = [] if dataset in config.datasets else [f"data set {dataset}"]
    for arm, model in (("teacher", TEACHER), ("student", STUDENT), ("distilled", STUDENT)):
        lacking += lacks_arm(config, arm, model)
    return list(dict.fromkeys(lacking))


def _of_gain(config: Config, accuracy: pd.DataFrame | None, dataset: str) -> dict[str, Any]:
    contrast = "distilled - student"
    metric = "top1_difference"
    row = {"dataset": dataset, "model": STUDENT, "arm": contrast, "metric": metric, "unit": "percentage points"}
    source = "Claim: distillation improves every data set. Source: the paper's text and tables"
    lacking = _gain_needs(config, dataset)
    if not lacking and accuracy is not None:
        split = shown_splits(config, dataset)[0]
        rows = select(accuracy, dataset=dataset, split=split, arm=contrast, metric=metric)
        row |= {"split": split, "protocol": config.protocol}
        found = rows[rows["ci_low"].notna()]
        if found.empty:
            lacking = ["an interval of the gain: several seeds"]
        else:
            found = found.iloc[0]
            return row | {"setting": f"{_gain_verdict(found)}; {found['setting']}. {source}"} | found[_OURS].to_dict()
    return row | {"setting": f"{NOT_TESTED}{', '.join(lacking)}. {source}"}


def _gain_verdict(found: pd.Series) -> str:
    interval = f"the 95 % interval [{found['ci_low']:.1f}, {found['ci_high']:.1f}]"
    if found["ci_low"] > 0:
        return f"reproduced: {interval} lies above 0"
    if found["ci_high"] < 0:
        return f"not reproduced: {interval} lies below 0"
    return f"not reproduced: {interval} includes 0"


def _of_accuracy(config: Config, accuracy: pd.DataFrame | None, claim: pd.Series) -> dict[str, Any]:
    lacking = needs(config, claim)
    if accuracy is None or set(lacking) - {UNSTATED_VIEWS}:
        return {"setting": f"{NOT_TESTED}{', '.join(lacking)}"}
    place = claim[["dataset", "split", "arm", "metric"]]
    found = select(accuracy, **place).iloc[0]
    ends = f"[{found['ci_low']:.1f}, {found['ci_high']:.1f}]"
    if lacking:
        return {"setting": f"{NOT_TESTED}{UNSTATED_VIEWS}; with {views(config)} it is {found['value']:.1f} {ends} here"}
    within = found["ci_low"] <= claim["value"] <= found["ci_high"]
    interval = f"the 95 % interval {ends}"
    if within:
        verdict = f"reproduced: the published value lies in {interval}"
    else:
        verdict = f"not reproduced: the published value lies outside {interval}"
    return {"setting": f"{verdict}; {found['setting']}"} | found[_OURS].to_dict()


def _of_model(efficiency: pd.DataFrame, claim: pd.Series) -> dict[str, Any]:
    of_ratio = claim["metric"] == "compute_reduction_vs_teacher"
    metric = "gmacs_ratio" if of_ratio else claim["metric"]
    model = f"{TEACHER} / {claim['model']}" if of_ratio else claim["model"]
    found = select(efficiency, metric=metric, model=model)
    if found.empty:
        return {"setting": f"{NOT_TESTED}the profile of {model.replace(' / ', ' and ')}"}
    found = found.iloc[0]
    value = found["value"]
    verdict = _rounding(value, claim["value"])
    if of_ratio:
        verdict += ", as multiply-adds"
        params = select(efficiency, metric="params_ratio", model=model)["value"].iloc[0]
        verdict += f" (parameters: {params:.2f})"
    return {
        "setting": f"{verdict}; {found['setting']}",
        "value": value,
        "run_ids": found["run_ids"],
    }


def _rounding(value: float, published: float) -> str:
    if round(value) == published:
        return "reproduced: the measured value rounds to it"
    if math.floor(value) == published:
        return "reproduced: the measured value cut to its digits"
    return f"not reproduced: measured {value:.2f}"


def _rounding_within(low: float, high: float, published: float) -> str:
    interval = f"the 95 % interval [{low:.2f}, {high:.2f}]"
    if low < published + 0.5 and high >= published - 0.5:
        return f"reproduced: {interval} has values that round to it"
    return f"not reproduced: {interval} has no value that rounds to it"


def _row(claim: pd.Series, verdict: dict[str, Any]) -> dict[str, Any]:
    views = f", views: {claim['views']}" if claim["views"] else ""
    copied = ["dataset", "split", "protocol", "model", "arm", "metric", "unit"]
    return (
        claim[copied].to_dict()
        | verdict
        | {
            "published": claim["value"],
            "setting": f"{verdict['setting']}. Source: {claim['source']}{views}",
        }
    )
