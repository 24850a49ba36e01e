"""Which trials a study has, and how each is named."""

from __future__ import annotations

import itertools
from typing import Any

from dvfl.config import Config, ConfigError, StudyConfig, digest, without_unread
from dvfl.config.protocols import effect_trials


def study_trials(study: StudyConfig) -> dict[str, dict[str, Any]]:
    """A study's points by name: {"alpha=0.5,temperature=4": {"distill.alpha": 0.5, …}, …}.

    Without distillation the temperature means nothing, so alpha = 0 is one trial and not one for each T; and a grid of
    divergences and of a parameter has one trial for each divergence that does not read it.
    """
    if study.differences:
        return {name: values for name, (_, values) in effect_trials().items()}
    grid = [dict(zip(study.grid, values, strict=True)) for values in itertools.product(*study.grid.values())]
    named: dict[str, dict[str, Any]] = {}
    for point in (grid if study.grid else []) + study.points:
        point = without_unread(point)
        names = [
            _fitting(",".join(f"{name(key)}={_plain(value)}" for key, value in point.items())) for name in (_last, str)
        ]
        # teacher.train.lr and student.train.lr are both an lr: then the whole key is the name.
        free = next((name for name in names if named.get(name, point) == point), None)
        if free is None:
            raise ConfigError(f"a study has two points named {names[-1]!r}: their values look the same in a file name")
        named[free] = point
    return named


def trial_keys(study: StudyConfig) -> list[tuple[str, str, int]]:
    """Trial, arm and seed of each run of a study, in order."""
    only = {name: [arm] for name, (arm, _) in effect_trials().items()} if study.differences else {}
    return [
        (trial, arm, seed)
        for trial in study_trials(study)
        for arm in only.get(trial, study.arms)
        if arm in study.arms
        for seed in study.seeds
    ]


def searched_keys(config: Config, study: str) -> set[str]:
    """Dotted keys in which the trials of a study differ."""
    if study in config.ablation.tune:
        return set(config.ablation.tune[study].space)
    return {key for point in study_trials(config.ablation.studies[study]).values() for key in point}


def _last(key: str) -> str:
    return key.split(".")[-1]


def _fitting(name: str) -> str:
    """The name, cut where it is longer than a file's name may be."""
    return name if len(name) <= 200 else f"{name[:180]}-{digest(name)}"


def _plain(value: Any) -> str:
    """A value as it may stand in a file's name."""
    text = str(value)
    if isinstance(value, float):
        text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "".join(character if character.isalnum() or character in "._-+" else "-" for character in text)
