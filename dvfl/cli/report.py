"""Tables, figures, and pages of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfl.cli.common import with_config

if TYPE_CHECKING:
    from dvfl.config import Config


@click.command("protocol-effects")
@with_config
def protocol_effects(config: Config) -> None:
    """Write what each difference between the protocols does, alone: table, figure, and a paragraph of words."""
    from dvfl.files import atomic
    from dvfl.report.figures import write_figure
    from dvfl.report.inputs import TABLES as folder
    from dvfl.report.protocol_effects import build_protocol_effects, in_words
    from dvfl.report.tables import write_table

    table = build_protocol_effects(config)
    text = in_words(table)
    write_table(table, folder / "protocol_effects", text)
    write_figure("protocol_effects", config)
    with atomic(folder / "protocol_effects.txt") as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    click.echo(text, nl=False)


@click.command()
@with_config
def tables(config: Config) -> None:
    """Write all tables, each as CSV, Markdown, LaTeX and a page of HTML, and their union all.csv."""
    from dvfl.report.inputs import TABLES as folder
    from dvfl.report.tables import TABLES, write_all, write_table
    from dvfl.steps import tables_made
    from dvfl.track import deliver_pending

    deliver_pending(config.tracking)
    for name, build in TABLES.items():
        write_table(build(config), folder / name)
    write_all([*(folder / f"{name}.csv" for name in TABLES), *tables_made(config)])


@click.command()
@with_config
def figures(config: Config) -> None:
    """Draw all figures as PDF and PNG, with the data behind each."""
    from dvfl.report.figures import FIGURES, write_figure
    from dvfl.report.inputs import FIGURES as folder
    from dvfl.report.tracked import track_figures

    for name in FIGURES:
        write_figure(name, config)
    track_figures(config, [folder / f"{name}.png" for name in FIGURES])


@click.command()
@with_config
def summary(config: Config) -> None:
    """Print what came out, in a few lines."""
    from rich.console import Console

    from dvfl.report.inputs import TABLES as folder
    from dvfl.report.summary import summary as summarise
    from dvfl.report.tables import read_table
    from dvfl.train.provenance import code_version

    tables = {name: read_table(folder / f"{name}.csv") for name in ("accuracy", "efficiency")}
    width = None if sys.stdout.isatty() else 110
    files = click.get_current_context().params["files"]
    Console(width=width).print(summarise(config, tables, code_version()[0], files))


@click.command()
@click.option(
    "--config", "files", multiple=True, envvar="DVFL_CONFIG", type=click.Path(path_type=Path), help="Config file."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="HTML file to write.")
def report(files: tuple[Path, ...], out: Path) -> None:
    """Put all tables and figures, with their captions, on one HTML page."""
    from dvfl.launch import write_report

    sys.exit(write_report(files, out))
