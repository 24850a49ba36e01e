"""What the config says, and what it asks for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfl.cli.common import say, with_config

if TYPE_CHECKING:
    from dvfl.config import Config


@click.command()
@with_config
@click.option("--hash", "short", is_flag=True, help="Print the hash alone.")
def config(config: Config, short: bool) -> None:
    """Check the config and print it whole, defaults included."""
    import yaml

    from dvfl.config import digest

    values = config.model_dump(mode="json")
    click.echo(digest(values) if short else yaml.safe_dump(values, sort_keys=False, width=120).rstrip())


@click.command()
@with_config
@click.option("--markdown", is_flag=True, help="As a Markdown table.")
def protocol(config: Config, markdown: bool) -> None:
    """What is described and what the released code does, side by side, with the finding behind each difference."""
    from dvfl.report.protocol import as_markdown, as_table, departures

    if markdown:
        click.echo(as_markdown())
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 100).print(as_table())
    say(f"This config: protocol {config.protocol}")
    for line in departures(config):
        say(f"  {line}")


@click.command()
@with_config
def runs(config: Config) -> None:
    """List the directories of all runs that the config asks for."""
    from dvfl.plan import all_runs

    for run in all_runs(config):
        click.echo(str(run))


@click.command()
@with_config
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write when all is ready.")
def tracking(config: Config, out: Path) -> None:
    """Open the MLflow store, its experiments and the studies' parent runs, before anything runs in parallel."""
    from dvfl.files import write_json
    from dvfl.plan import studies_to_track
    from dvfl.track import prepare

    write_json(out, prepare(config.tracking, studies_to_track(config)))
