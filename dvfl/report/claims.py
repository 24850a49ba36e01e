"""Table `claims`: every published number, and what this run has to say about it."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dvfl.config import Config
from dvfl.report.accuracy import build_accuracy
from dvfl.report.efficiency import build_efficiency
from dvfl.report.published import ANY, needs, read_published
from dvfl.report.rows import select, table_frame


def build_claims(config: Config) -> pd.DataFrame:
    """One row per published number, in the order of config/published.csv.

    A value stands there only if this config tests exactly that number. An accuracy is reproduced
    if the published value lies in the interval; a count if it is the measured one rounded or cut
    to the published digits.
    """
    claims = read_published()
    accuracies = claims[claims["dataset"] != ANY]
    some_tested = any(not needs(config, claim) for _, claim in accuracies.iterrows())
    accuracy = build_accuracy(config) if some_tested else None
    efficiency = build_efficiency(config)
    rows = []
    for _, claim in claims.iterrows():
        of_model = claim["dataset"] == ANY
        verdict = _of_model(efficiency, claim) if of_model else _of_accuracy(config, accuracy, claim)
        rows.append(_row(claim, verdict))
    return table_frame("claims", rows)


def _of_accuracy(config: Config, accuracy: pd.DataFrame | None, claim: pd.Series) -> dict[str, Any]:
    lacking = needs(config, claim)
    if lacking or accuracy is None:
        return {"setting": f"not tested here: needs {', '.join(lacking)}"}
    place = claim[["dataset", "split", "arm", "metric"]]
    found = select(accuracy, **place).iloc[0]
    within = found["ci_low"] <= claim["value"] <= found["ci_high"]
    interval = f"the 95 % interval [{found['ci_low']:.1f}, {found['ci_high']:.1f}]"
    if within:
        verdict = f"reproduced: the published value lies in {interval}"
    else:
        verdict = f"not reproduced: the published value lies outside {interval}"
    kept = ["value", "ci_low", "ci_high", "n_seeds", "run_ids"]
    return {"setting": f"{verdict}; {found['setting']}"} | found[kept].to_dict()


def _of_model(efficiency: pd.DataFrame, claim: pd.Series) -> dict[str, Any]:
    of_ratio = claim["metric"] == "compute_reduction_vs_teacher"
    metric = "gmacs_ratio" if of_ratio else claim["metric"]
    model = f"video_focalnet_base / {claim['model']}" if of_ratio else claim["model"]
    found = select(efficiency, metric=metric, model=model)
    if found.empty:
        return {"setting": f"not tested here: needs the profile of {model.replace(' / ', ' and ')}"}
    found = found.iloc[0]
    value, published = found["value"], claim["value"]
    if round(value) == published:
        verdict = "reproduced: the measured value rounds to it"
    elif math.floor(value) == published:
        verdict = "reproduced: the measured value cut to its digits"
    else:
        verdict = f"not reproduced: measured {value:.2f}"
    if of_ratio:
        verdict += ", as multiply-adds"
        params = select(efficiency, metric="params_ratio", model=model)["value"].iloc[0]
        verdict += f" (parameters: {params:.2f})"
    return {
        "setting": f"{verdict}; {found['setting']}",
        "value": value,
        "run_ids": found["run_ids"],
    }


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
