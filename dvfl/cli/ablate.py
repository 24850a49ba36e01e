"""Studies: their trials, and what they choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfl.cli.common import definition_of, run_argument, say, wait_option, with_config

if TYPE_CHECKING:
    from dvfl.config import Config
    from dvfl.run import Run


@click.command()
@with_config
@run_argument
@wait_option
def trial(config: Config, run: Run, wait: bool) -> None:
    """Train, predict and score one trial of a study, and record it with Optuna."""
    from dvfl.train.memory import allocate_large_blocks_apart

    allocate_large_blocks_apart()  # before PyTorch is imported
    from dvfl.ablate.job import run_trial

    value = run_trial(config, run, wait)
    say(f"{run.study} {run.trial} {run.arm} seed {run.seed}: top-1 {value:.1%}")


@click.command()
@with_config
@click.argument("dataset")
@click.argument("study")
@click.option("--worker", default=0, show_default=True, help="Number of this worker; each runs once at a time.")
@click.option("--forget", is_flag=True, help="Delete the study's trials from the storage instead; trained runs stay.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write when no trial is left.")
@wait_option
def tune(config: Config, dataset: str, study: str, worker: int, forget: bool, out: Path | None, wait: bool) -> None:
    """Run trials of a study that searches a space, until it has all; as many workers as you like do so at once.

    A worker that was killed goes on with its trial when it is started again.
    """
    from dvfl.files import write_json

    definition_of(config, dataset)
    if study not in config.ablation.tune:
        raise click.BadParameter(f"{study!r} is not among ablation.tune: {', '.join(config.ablation.tune) or 'none'}")
    if forget:
        from dvfl.ablate.tune import forget as forget_study

        forget_study(config, dataset, study)
        say(f"{dataset} {study}: forgotten")
        return
    from dvfl.train.memory import allocate_large_blocks_apart

    allocate_large_blocks_apart()  # before PyTorch is imported
    from dvfl.ablate.job import run_worker

    answered = run_worker(config, dataset, study, worker, wait)
    say(f"{dataset} {study}: worker {worker} answered {answered} trials, and none is left")
    if out:
        write_json(out, {"dataset": dataset, "study": study, "worker": worker, "answered": answered})


@click.command()
@with_config
@click.argument("dataset")
@click.argument("study")
def choose(config: Config, dataset: str, study: str) -> None:
    """Write what a study chooses on the validation subset: choice.json; of one that searches, also trials.csv."""
    from dvfl import paths
    from dvfl.ablate.study import choose as choose_values
    from dvfl.ablate.study import record_missing
    from dvfl.ablate.tune import finish
    from dvfl.files import write_json

    if study in config.ablation.tune:
        choice = finish(config, dataset, study)
    else:
        choice = choose_values(config, dataset, study)
        record_missing(config, dataset, study)
        write_json(paths.study_directory(dataset, study) / "choice.json", choice)
    for each in choice.get("best", [choice]):
        say(f"{dataset} {study}: chose {each['trial']}, validation top-1 {each['value']:.1%}")


@click.command("tune-figure")
@with_config
@click.argument("dataset")
@click.argument("study")
@click.argument("picture")
def tune_figure(config: Config, dataset: str, study: str, picture: str) -> None:
    """Draw one of Optuna's pictures of a finished study that searched a space."""
    from dvfl.report.figures.tuning import write_picture

    write_picture(config, dataset, study, picture)
