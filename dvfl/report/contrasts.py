"""Which arms are compared with which, and which of their runs belong together."""

from __future__ import annotations

from collections.abc import Iterable

from dvfl.config import Config
from dvfl.plan import arm_seeds, run_settings, teacher_of
from dvfl.run import Run, RunSettings


def contrasts(config: Config, arms: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """Pairs (arm, baseline) of which `arm - baseline` is reported, among `arms` (default: all).

    For each distilled arm: against the same network on labels alone, and its teacher against it;
    then distilled arms of the same network against each other, which tells teachers apart.
    """
    arms = list(config.arms if arms is None else arms)
    distilled = [arm for arm in arms if config.arms[arm].distil_from]
    pairs: list[tuple[str, str | None]] = []
    for arm in distilled:
        pairs.append((arm, baseline_of(config, arm)))
        pairs.append((config.arms[arm].distil_from or "", arm))
    for position, arm in enumerate(distilled):
        for other in distilled[position + 1 :]:
            if _network(config, arm) == _network(config, other):
                pairs.append((arm, other))
    return [(a, b) for a, b in dict.fromkeys(pairs) if a in arms and b in arms]


def baseline_of(config: Config, arm: str) -> str | None:
    """The arm that is `arm` without distillation: same settings if possible, else same model."""
    alone = [name for name, other in config.arms.items() if other.distil_from is None]
    same = [name for name in alone if _network(config, name) == _network(config, arm)]
    model = _settings(config, arm).network.model
    alike = [name for name in alone if _settings(config, name).network.model == model]
    return next(iter(same + alike), None)


def main_arms(config: Config) -> list[str]:
    """Teacher, student, distilled: what the paper compares; the first arms if none is distilled."""
    for arm, settings in config.arms.items():
        if settings.distil_from:
            named = [settings.distil_from, baseline_of(config, arm), arm]
            return [name for name in named if name]
    return list(config.arms)[:3]


def paired_runs(config: Config, dataset: str, split: str, arm: str, baseline: str) -> list[tuple[Run, Run]]:
    """Runs to subtract: of a teacher and its student, else of the same seed; may be empty."""

    def run(name: str, seed: int) -> Run:
        return Run(dataset, split, config.protocol, name, seed)

    pupils = [run(baseline, seed) for seed in arm_seeds(config, baseline)]
    if config.arms[baseline].distil_from == arm:
        teachers = [(teacher_of(config, pupil), pupil) for pupil in pupils]
        return [(teacher, pupil) for teacher, pupil in teachers if teacher is not None]
    seeds = [seed for seed in arm_seeds(config, arm) if seed in arm_seeds(config, baseline)]
    return [(run(arm, seed), run(baseline, seed)) for seed in seeds]


def teachers_of(config: Config, runs: Iterable[Run]) -> int | None:
    """How many teachers taught these runs; None if none was taught."""
    taught = {teacher_of(config, run) for run in runs} - {None}
    return len(taught) or None


def _network(config: Config, arm: str) -> tuple[object, ...]:
    settings = _settings(config, arm)
    return settings.network, settings.input, settings.train


def _settings(config: Config, arm: str) -> RunSettings:
    dataset = config.datasets[0]
    split = config.dataset_definitions[dataset].splits[0]
    return run_settings(config, Run(dataset, split, config.protocol, arm, seed=0))
