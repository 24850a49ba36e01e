"""From clips to a network's weights: training, distillation, and a teacher's answers to distil from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfl.cli.common import say, wait_option, with_config

if TYPE_CHECKING:
    from dvfl.config import Config


@click.command()
@with_config
@click.argument("run", required=False)
@click.option(
    "--resume",
    "folder",
    type=click.Path(path_type=Path),
    help="Go on with the stopped training in this folder (RUN.resume), or say which values changed since.",
)
@wait_option
def train(config: Config, run: str | None, folder: Path | None, wait: bool) -> None:
    """Train or distil a run; goes on where a killed one was, and starts afresh where settings or inputs changed.

    On SIGTERM it saves where it is, within the epoch, and exits with 75.
    """
    from dvfl.train.memory import allocate_large_blocks_apart

    allocate_large_blocks_apart()  # before PyTorch is imported
    from dvfl.plan import parse_run
    from dvfl.train.job import train_run
    from dvfl.train.resume import run_directory

    if run is None and folder is None:
        raise click.UsageError("name the RUN, or the folder to --resume")
    named = parse_run(config, run_directory(folder) if run is None else run)
    train_run(config, named, wait, folder)


@click.command()
@with_config
@click.argument("what", metavar="RUN|STORE")
@click.option("--verify", "count", type=click.IntRange(1), help="Ask anew for this many of those that are there.")
@wait_option
def targets(config: Config, what: str, count: int | None, wait: bool) -> None:
    """Ask a teacher once for its logits on all that a distillation will show, and keep them.

    Of RUN, a distilled run, and of all that have its teacher and inputs; or of a STORE that runs of the config read,
    such as results/targets/motions/0123456789abcdef. Says first what they take and from how many runs on they pay.
    """
    from dvfl.stores import parse_targets
    from dvfl.train.targets import verify_targets, write_targets

    run = parse_targets(config, what)
    if count is None:
        write_targets(config, run, wait)
    else:
        say(verify_targets(config, run, count))
