"""What one job makes for several runs to read: decoded frames, and what a teacher answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dvfl.ablate.trials import searched_keys
from dvfl.config import Config, InputConfig, digest
from dvfl.paths import RESULTS, frames_directory
from dvfl.plan import all_runs, choices_of, own_values, parse_run, run_settings, teacher_of
from dvfl.run import Run, RunSettings

SEVERAL = 3  # runs with the same inputs: from so many on, asking the teacher in a job of its own pays for that job


def targets_directory(config: Config, run: Run) -> Path:
    """Where the targets of a run lie, and of all with the same teacher and inputs: named after what decides these.

    Values that studies choose are not known yet; then the choices stand for them.
    """
    own = own_values(config, run).keys()
    choices = [path.as_posix() for path in choices_of(config, run) if _decides_targets(config, path.parent.name, own)]
    name = digest([str(teacher_of(config, run)), run_settings(config, run).taught_on, choices])
    return RESULTS / f"targets/{run.dataset}/{name}"


def target_stores(config: Config) -> dict[Path, list[Run]]:
    """The stores of targets that the plan makes, each with the runs that wait for it.

    Runs of other studies do not count: what is finished is not made anew because a study is added. Of those that train
    the very same, one does.
    """
    alike: dict[tuple[Path, str], dict[Run, RunSettings]] = {}
    for run in all_runs(config):
        settings = run_settings(config, run) if config.arms[run.arm].distil_from else None
        if settings is not None and settings.has_targets:
            runs = alike.setdefault((targets_directory(config, run), run.study), {})
            if settings not in runs.values():
                runs[run] = settings
    stores: dict[Path, list[Run]] = {}
    for (directory, _), runs in alike.items():
        asked_for = any(settings.distill and settings.distill.targets == "stored" for settings in runs.values())
        if asked_for or len(runs) >= SEVERAL:
            stores.setdefault(directory, []).extend(runs)
    return stores


def _decides_targets(config: Config, study: str, own: Iterable[str]) -> bool:
    """Whether a study chooses more than what students make of their targets."""
    read = {"distill.teacher_head", "distill.targets_precision"}
    return any(not key.startswith("distill.") or key in read for key in searched_keys(config, study) - set(own))


def frame_stores(config: Config, dataset: str) -> dict[str, InputConfig]:
    """Stores that runs on a data set read, by name, each with an input that asks for it."""
    stores: dict[str, InputConfig] = {}
    for run in all_runs(config):
        settings = run_settings(config, run).input if run.dataset == dataset else None
        directory = settings and frames_directory(dataset, settings)
        if directory:
            stores.setdefault(directory.name, settings)
    return stores


def parse_targets(config: Config, directory: str | Path) -> Run:
    """A run that reads the store of targets whose directory this is, or the run whose directory it is."""
    wanted = Path(directory).resolve()
    readers = {store.resolve(): runs for store, runs in target_stores(config).items()}
    return readers[wanted][0] if wanted in readers else parse_run(config, directory)
