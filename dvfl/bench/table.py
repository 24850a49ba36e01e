"""The benchmark as a table: on the terminal, as CSV, as Markdown, as a page."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from dvfl.bench.pairs import Result
from dvfl.files import atomic
from dvfl.profile.machine import machine, package_versions
from dvfl.report.formats import csv_link, html_page, html_table

SHOWN = (
    "what",
    "slow side",
    "fast side",
    "slow",
    "fast",
    "ratio [quartiles]",
    "of CPU time",
    "target",
    "met",
    "deviation",
)
PACKAGES = ("torchvision", "openvino", "onnxruntime", "av", "decord", "numpy")


def circumstances() -> dict[str, Any]:
    """The machine, the versions and the date of a measurement."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"date": now, **machine(), **package_versions(PACKAGES)}


def as_frame(results: Sequence[Result], about: Mapping[str, Any]) -> pd.DataFrame:
    """One row a pair, with the circumstances in every row."""
    return pd.DataFrame([result.as_row() | dict(about) for result in results])


def write_benchmark(
    path: Path, results: Sequence[Result], left_out: Mapping[str, str], about: Mapping[str, Any]
) -> None:
    """Write `path`.csv, .md and .html; `left_out` are pairs that could not be measured, with the reason."""
    csv = as_frame(results, about).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    contents = {
        "csv": csv,
        "md": as_markdown(results, left_out, about),
        "html": as_html(results, left_out, about, csv_link(csv, path.name)),
    }
    for ending, content in contents.items():
        with atomic(path.with_suffix(f".{ending}")) as partial:
            partial.write_text(content, encoding="utf-8", newline="\n")


def as_markdown(results: Sequence[Result], left_out: Mapping[str, str], about: Mapping[str, Any]) -> str:
    lines = [_said(about), ""]
    lines += [f"| {' | '.join(SHOWN)} |", "|" + " --- |" * len(SHOWN)]
    lines += [f"| {' | '.join(cells(result))} |" for result in results]
    lines += ["", HOW, *(f"- {note}" for note in notes(results, left_out))]
    return "\n".join(lines) + "\n"


def as_html(results: Sequence[Result], left_out: Mapping[str, str], about: Mapping[str, Any], link: str) -> str:
    """A page; `link` is an element that stands for the CSV file."""
    paragraphs = [escape(_said(about)), escape(HOW), *map(escape, notes(results, left_out)), f"All of it: {link}"]
    table = html_table(SHOWN, map(cells, results))
    return html_page(["<h1>benchmark</h1>", table, *(f"<p>{paragraph}</p>" for paragraph in paragraphs)])


HOW = "Both sides in turn in one process; medians over rounds, the quartiles are of the rounds' ratios."


def _said(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in about.items())


def notes(results: Sequence[Result], left_out: Mapping[str, str]) -> list[str]:
    """What the numbers alone do not say."""
    said = [f"{result.name}: {result.note}" for result in results if result.note]
    return said + [f"{name}: not measured, {reason}" for name, reason in left_out.items()]


def as_table(results: Sequence[Result]) -> Table:
    table = Table(*SHOWN)
    for result in results:
        table.add_row(*cells(result))
    return table


def cells(result: Result) -> list[str]:
    spread = f"{result.ratio:.2f} [{result.ratio_q1:.2f}, {result.ratio_q3:.2f}]"
    return [
        result.what,
        result.slow_side,
        result.fast_side,
        "" if math.isnan(result.slow) else f"{result.slow:.3g} {result.unit}",
        f"{result.fast:.3g} {result.unit}",
        "" if math.isnan(result.ratio) else spread,
        "" if math.isnan(result.cpu_ratio) or result.unit != "s" else f"{result.cpu_ratio:.2f}",
        result.target,
        {None: "", True: "yes", False: "no"}[result.met],
        _deviation(result.deviation),
    ]


def _deviation(largest: float) -> str:
    """Empty where nothing was compared, 0 for what is the same to the bit."""
    if math.isnan(largest):
        return ""
    return f"{largest:.1e}" if largest else "0"
