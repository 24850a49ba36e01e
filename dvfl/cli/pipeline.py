"""The whole pipeline, and a view of its runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfl.cli.common import load, say, with_config

if TYPE_CHECKING:
    from dvfl.config import Config


@click.command()
@with_config
@click.option("--port", default=5000, show_default=True, help="Port on 127.0.0.1.")
def ui(config: Config, port: int) -> None:
    """Open the MLflow UI over this project's runs, on 127.0.0.1."""
    import os

    from dvfl.track import deliver_pending, ui_command, ui_environment

    command = ui_command(config.tracking, port)
    deliver_pending(config.tracking)
    # Its own first page is about language models, and shows no training.
    say(f"MLflow at http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning (Ctrl-C ends it)")
    # In place of this process: a signal to it reaches MLflow, which ends its own processes.
    os.execve(command[0], command, ui_environment(config.tracking))


@click.command()
@click.option(
    "--config", "files", multiple=True, type=click.Path(path_type=Path), help="Config file, as for Snakemake."
)
@click.option("--cores", type=int, default=None, help="Cores to use; all of them unless given.")
@click.argument("targets", nargs=-1)
def results(files: tuple[Path, ...], cores: int | None, targets: tuple[str, ...]) -> None:
    """What `make results` does: clear what a killed run left behind, then run the pipeline and print the summary."""
    from dvfl.launch import run_pipeline
    from dvfl.steps import check_before_work, check_targets

    config = load(files)
    check_targets(config, targets)
    check_before_work(config)
    sys.exit(run_pipeline(cores, files, targets or ("results/tables/all.csv", "figures")))
