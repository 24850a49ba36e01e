"""Where a number comes from, and whether it still holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfl.cli.common import say, with_config

if TYPE_CHECKING:
    from dvfl.config import Config


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--row", type=int, required=True, help="Which row, counted from 1; the header does not count.")
@click.option("--json", "as_json", is_flag=True, help="Everything, for a program to read.")
def trace(table: Path, row: int, as_json: bool) -> None:
    """Where does this number come from? A row of TABLE walked back to its runs, commits, settings and clips."""
    import json

    from rich.console import Console

    from dvfl.provenance.trace import as_tree, trace_row

    traced = trace_row(table, row)
    if as_json:
        click.echo(json.dumps(traced, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(as_tree(traced))


@click.command()
@with_config
@click.argument("results", default="results", type=click.Path(path_type=Path))
@click.option("--clips", is_flag=True, help="Hash every clip again, not a sample of each data set alone.")
def verify(config: Config, results: Path, clips: bool) -> None:
    """Do the files under RESULTS still match? Hash inputs, score predictions and build tables anew, and compare.

    Writes nothing. Ends with exit code 1 where anything does not match. Give the --config that made the results.
    """
    from dvfl.provenance.verify import summary, verify_results

    checks = list(verify_results(config, results, clips))
    for check in checks:
        if check.said:
            click.echo(f"{'not checked: ' if check.matches is None else ''}{check.what}: {check.said}")
    click.echo(summary(checks))
    sys.exit(any(check.matches is False for check in checks))


@click.command()
@with_config
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--weights", is_flag=True, help="With the weights of every run; else only their hashes.")
def pack(config: Config, out: Path, weights: bool) -> None:
    """Pack a finished result for publication: OUT.zip, an RO-Crate. Give the --config that made the results.

    Tables, figures, config, lock file, splits, and of every run its record, predictions and scores; no clips.
    """
    from dvfl.provenance.crate import pack as pack_results

    runs = pack_results(config, out, weights)
    say(f"{out}: {len(runs)} runs, {out.stat().st_size / 1e6:.1f} MB")
    if any(run.about["dirty"] for run in runs):
        say("  some runs were made by an uncommitted version of the code: `dvfl verify` names it")
