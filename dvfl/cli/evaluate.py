"""From weights to predictions and scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfl.cli.common import run_argument, say, with_config

if TYPE_CHECKING:
    from dvfl.config import Config
    from dvfl.run import Run


@click.command()
@with_config
@run_argument
def test(config: Config, run: Run) -> None:
    """Predict every test clip of a trained run: predictions.parquet."""
    from dvfl.evaluate.job import test_run

    test_run(config, run)


@click.command()
@with_config
@run_argument
def score(config: Config, run: Run) -> None:
    """Score a run's predictions: scores.json, every metric with its interval."""
    from dvfl.evaluate.scoring import score_run

    scores = score_run(config, run)
    top1 = scores["metrics"]["top1"]
    say(
        f"{run.name}: top-1 {top1['value']:.1%} [{top1['ci_low']:.1%}, {top1['ci_high']:.1%}], "
        f"{scores['n_clips']} clips"
    )


@click.command("motion-check")
@with_config
@run_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON file to write.")
def motion_check(config: Config, run: Run, out: Path) -> None:
    """Is the class in the motion? Test a run on one repeated frame, on shuffled frames, and backwards."""
    from dvfl.evaluate.job import check_motion

    check_motion(config, run, out)
