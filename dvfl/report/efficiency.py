"""Table `efficiency`: what the models cost, and teacher / student ratios."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dvfl.config import Config
from dvfl.evaluate.statistics import median_interval
from dvfl.networks import profile_names
from dvfl.report.inputs import profiled_models
from dvfl.report.published import model_claims
from dvfl.report.results import profile_ids, read_profile
from dvfl.report.rows import select, setting, table_frame

# Arms that the paper trains each size in, for the rows of paper-size models.
PAPER_ARMS = {
    "video_focalnet_base": "teacher",
    "video_focalnet_small": "teacher_small",
    "video_focalnet_tiny": "teacher_tiny",
    "vfl_net": "student",
}
_PAPER_PAIR = ("video_focalnet_base", "vfl_net")

# Metric, unit, key of the profile, factor.
_OF_MODEL = (
    ("params", "million", "params", 1e-6),
    ("gmacs", "GMACs", "gmacs", 1),
    ("gflops", "GFLOPs", "gflops", 1),
    ("other_gops", "Gops", "other_gops", 1),
    ("activations", "million", "activations_m", 1),
    ("weights_mb", "MB", "weights_mb", 1),
)
_OF_BATCH = (
    ("latency_ms", "ms", "latency_ms"),
    ("latency_p95_ms", "ms", "latency_p95_ms"),
    ("clips_per_second", "clips/s", "clips_per_second"),
    ("peak_memory_mb", "MB", "peak_memory_mb"),
    ("peak_memory_increase_mb", "MB", "peak_memory_increase_mb"),
)
_OF_MEDIAN = ("latency_ms", "clips_per_second")
_MEASURED_ALIKE = ("precision", "device", "threads")

Profile = dict[str, Any]


def build_efficiency(config: Config) -> pd.DataFrame:
    """Models at the paper's size and networks as this config trains them; one view of one clip."""
    models = profiled_models(config)
    profiles = {name: read_profile(name) for name in models}
    claims = {place: value for place, value in model_claims().items() if place[0] in config.profile.paper_models}
    rows: list[dict[str, Any]] = []
    for name, arms in models.items():
        arm = ", ".join(arms) or PAPER_ARMS.get(name, "")
        for row in _model_rows(profiles[name], {"run_ids": profile_ids([name])}):
            published = claims.get((name, row["metric"]))
            rows.append({"model": name, "arm": arm, "published": published} | row)
    for teacher, student in _pairs(config):
        published = {}
        if (teacher, student) == _PAPER_PAIR:
            published = {"gmacs_ratio": claims.get((student, "compute_reduction_vs_teacher"))}
        names = {"model": f"{teacher} / {student}", "arm": "teacher / student"}
        names["run_ids"] = profile_ids([teacher, student])
        for row in _ratio_rows(profiles[teacher], profiles[student]):
            rows.append(names | {"published": published.get(row["metric"])} | row)
    return table_frame("efficiency", rows)


def of_paper(config: Config, model: str) -> bool:
    """Whether rows of that `model`, a name or two of a ratio, are about profiles at the paper's size."""
    return set(model.split(" / ")) <= set(config.profile.paper_models)


def of_arm(config: Config, efficiency: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The rows of what each arm trains on each data set, by (data set, arm)."""
    return {place: select(efficiency, model=name) for place, name in profile_names(config).items()}


def _model_rows(profile: Profile, ids: dict[str, str]) -> Iterator[dict[str, Any]]:
    fixed = {"setting": _input(profile)} | ids
    for metric, unit, key, factor in _OF_MODEL:
        yield fixed | {"metric": metric, "unit": unit, "value": profile[key] * factor}
    yield from _timed_rows(profile, profile, ids)
    for form in profile.get("exported", []):
        named = {"setting": f"{_input(profile)}; {setting(runtime=form['runtime'], precision=form['precision'])}"} | ids
        yield named | {"metric": "file_mb", "unit": "MB", "value": form["file_mb"]}
        yield from _timed_rows(profile, form, ids)


def _timed_rows(profile: Profile, form: dict[str, Any], ids: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Time and memory of a form of the model: PyTorch's, which is the profile itself, or an exported one."""
    for batch in form["batches"]:
        timed = {"setting": _timed(profile, batch, form)} | ids
        for metric, unit, key in _OF_BATCH:
            if batch.get(key) is not None:
                yield timed | {"metric": metric, "unit": unit, "value": batch[key]} | _interval_of(batch, metric)


def _interval_of(batch: dict[str, Any], metric: str) -> dict[str, float]:
    """Of the median over passes; nothing else is measured more than once."""
    passes = median_interval(batch.get("latencies_ms", []), level=0.95) if metric in _OF_MEDIAN else None
    if passes is None:
        return {}
    low, high = passes.low, passes.high
    if metric == "clips_per_second":
        low, high = (1e3 * batch["batch"] / each for each in (high, low))
    return {"ci_low": low, "ci_high": high}


def _interval_of_ratio(batch: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Of the ratio of two medians: each in its 97.5 % interval leaves both in theirs 95 % of the time (Bonferroni)."""
    ours, theirs = (median_interval(each.get("latencies_ms", []), level=0.975) for each in (batch, other))
    return {"ci_low": ours.low / theirs.high, "ci_high": ours.high / theirs.low} if ours and theirs else {}


def _ratio_rows(teacher: Profile, student: Profile) -> Iterator[dict[str, Any]]:
    """How many times the student's the teacher's is."""
    row = {"unit": "ratio"}
    for key in ("params", "gmacs"):
        ratio = teacher[key] / student[key]
        yield row | {"setting": _input(student), "metric": f"{key}_ratio", "value": ratio}
    if any(teacher.get(key) != student.get(key) for key in _MEASURED_ALIKE):
        return  # a ratio of times from two machines says nothing about the models
    of_student = {batch["batch"]: batch for batch in student["batches"]}
    for batch in teacher["batches"]:
        other = of_student.get(batch["batch"])
        if other is None:
            continue
        timed = {"setting": _timed(student, batch)}
        for metric, key in (("latency_ratio", "latency_ms"), ("memory_ratio", "peak_memory_mb")):
            if batch.get(key) and other.get(key):
                interval = _interval_of_ratio(batch, other) if key in _OF_MEDIAN else {}
                yield row | timed | {"metric": metric, "value": batch[key] / other[key]} | interval


def _pairs(config: Config) -> list[tuple[str, str]]:
    """Profiles of teacher and student: the paper's, where there are both, then those of the distilled arms."""
    pairs = [_PAPER_PAIR] if set(_PAPER_PAIR) <= set(config.profile.paper_models) else []
    names = profile_names(config)
    for (dataset, arm), name in names.items():
        teacher = config.arms[arm].distil_from
        if teacher:
            pairs.append((names[dataset, teacher], name))
    return list(dict.fromkeys(pairs))


def _input(profile: Profile) -> str:
    size = profile["img_size"]
    shape = f"{profile['frames']}x{size}x{size}"
    return setting(input=shape, classes=profile["num_classes"])


def _timed(profile: Profile, batch: dict[str, Any], form: dict[str, Any] | None = None) -> str:
    form = form or profile
    measured = {"runtime": form.get("runtime")} | {key: form.get(key) for key in _MEASURED_ALIKE}
    measured["machine"] = profile["machine"]["cpu"]
    return _input(profile) + "; " + setting(batch=batch["batch"], **measured)
