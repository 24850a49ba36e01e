"""What `make results` says at its end: the numbers, the gain whatever it is, and where to look."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dvfl.config import Config
from dvfl.plan import final_runs, trial_runs
from dvfl.report.accuracy import shown_splits
from dvfl.report.contrasts import main_arms
from dvfl.report.efficiency import of_arm
from dvfl.report.inputs import FIGURES, TABLES
from dvfl.report.results import ReportError, read_record
from dvfl.report.rows import select, setting_parts
from dvfl.run import Run

_LINES_AT_MOST = 12


def summary(
    config: Config, tables: Mapping[str, pd.DataFrame], commit: str | None = None, files: Sequence[Path] = ()
) -> RenderableType:
    """A rich renderable. `tables` needs accuracy and efficiency; `commit` is the current one.

    files: what the config was read from, over the default.

    Raises ReportError where the tables are not those of the config.
    """
    parts: list[RenderableType] = []
    efficiency = of_arm(config, tables["efficiency"])
    for dataset in config.datasets:
        for split in shown_splits(config, dataset):
            accuracy = select(tables["accuracy"], dataset=dataset, split=split)
            _check_arms(config, f"{dataset}, {split}", accuracy)
            own = {arm: efficiency[dataset, arm] for arm in config.arms}
            parts.append(_table(f"{dataset}, {split}", accuracy, own))
            parts.append(Text(gain_sentence(config, accuracy)))
            parts.append(Text())
    parts.append(Text(f"Tables: {TABLES}/all.csv (.md, .tex)   Figures: {FIGURES}/"))
    parts.append(Text(f"Every run, with curves and settings: {ui_line(files)}"))
    parts += [Text(line, style="yellow") for line in stale_lines(config, commit)]
    return Group(*parts)


def ui_line(files: Sequence[Path]) -> str:
    """The line that opens the MLflow UI, as it works from the current folder."""
    here = Path(sys.executable).parent
    dvfl = "dvfl" if str(here) in os.environ.get("PATH", "").split(os.pathsep) else os.path.relpath(here / "dvfl")
    return shlex.join([dvfl, "ui", *(word for file in files for word in ("--config", str(file)))])


def gain_sentence(config: Config, accuracy: pd.DataFrame) -> str:
    """The gain of distillation with its interval and test, be it a gain or not."""
    arms = main_arms(config)
    contrast = f"{arms[-1]} - {arms[-2]}" if len(arms) > 1 else ""
    rows = select(accuracy, arm=contrast)
    found = rows[rows["ci_low"].notna()]
    if found.empty:
        return "The config compares no distilled arm with the same network on labels alone."
    gain = found.iloc[0]
    p_value = select(rows, metric="p_value", setting=gain["setting"])["value"].iloc[0]
    parts = setting_parts(gain["setting"])
    sources = parts["interval"].replace("+", " and ")
    if gain["ci_low"] > 0:
        verdict = "distillation gains"
    elif gain["ci_high"] < 0:
        verdict = "distillation loses"
    else:
        verdict = "no gain is shown, the interval includes 0"
    seeds = f"{gain['n_seeds']} seed{'s' if gain['n_seeds'] > 1 else ''}"
    shared = ", one teacher for all" if parts.get("teachers") == "1" and gain["n_seeds"] > 1 else ""
    return (
        f"{contrast}: {gain['value']:+.1f} percentage points "
        f"[{gain['ci_low']:+.1f}, {gain['ci_high']:+.1f}] "
        f"(95 % interval over {sources}, {seeds}{shared}; paired t test, p = {_p(p_value)}): "
        f"{verdict}."
    )


def stale_lines(config: Config, commit: str | None) -> Iterator[str]:
    """Runs in the tables that another commit made, or code that was not committed."""
    others: list[Run] = []
    dirty: list[Run] = []
    for run in reported_runs(config):
        record = read_record(run)
        if record.get("dirty"):
            dirty.append(run)
        elif commit is not None and record.get("commit") != commit:
            others.append(run)
    for runs, what in ((others, f"another commit than {commit}"), (dirty, "uncommitted code")):
        if runs:
            yield f"{len(runs)} run(s) in the tables were made by {what}:"
            yield from _folded(runs)


def reported_runs(config: Config) -> list[Run]:
    """The runs behind the tables, each once."""
    trials = [
        run
        for dataset in config.datasets
        for study in config.ablation.run_studies
        for run in trial_runs(config, dataset, study)
    ]
    return list(dict.fromkeys([*final_runs(config), *trials]))


def _check_arms(config: Config, title: str, accuracy: pd.DataFrame) -> None:
    missing = [arm for arm in config.arms if select(accuracy, arm=arm, metric="top1").empty]
    if missing:
        raise ReportError(
            f"{TABLES}/accuracy.csv: holds no {missing[0]} of {title}, so it was made with another config; give that "
            f"one with --config, or make the tables of this one (`dvfl results`)"
        )


def _table(title: str, accuracy: pd.DataFrame, efficiency: Mapping[str, pd.DataFrame]) -> Table:
    """One row an arm; `efficiency` holds the rows of the network that each trains."""
    table = Table(title=title, title_justify="left")
    for name in ("arm", "model"):
        table.add_column(name, overflow="fold")
    for name in ("top-1 (%)", "parameters (M)", "GMACs", "latency (ms)"):
        table.add_column(name, justify="right")
    for arm, own in efficiency.items():
        row = select(accuracy, arm=arm, metric="top1").iloc[0]
        shown = [_first(own, metric) for metric in ("params", "gmacs", "latency_ms")]
        top1 = f"{row['value']:.1f} [{row['ci_low']:.1f}, {row['ci_high']:.1f}]"
        table.add_row(arm, row["model"], top1, *shown)
    return table


def _first(rows: pd.DataFrame, metric: str) -> str:
    values = select(rows, metric=metric)["value"]
    return "–" if values.empty else f"{values.iloc[0]:.3g}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _folded(runs: list[Run]) -> Iterator[str]:
    """One line for the seeds of an arm."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.directory.parent.as_posix(), []).append(str(run.seed))
    lines = [f"  {folder}/seed{','.join(numbers)}" for folder, numbers in seeds.items()]
    yield from lines[:_LINES_AT_MOST]
    if len(lines) > _LINES_AT_MOST:
        more = len(lines) - _LINES_AT_MOST
        yield f"  and those of {more} more folders; each run.json names its commit"
