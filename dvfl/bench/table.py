"""The benchmark as a table: on the terminal, as CSV, as Markdown, as a page."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from dvfl.bench.pairs import Result
from dvfl.errors import UserError
from dvfl.files import atomic
from dvfl.profile.machine import machine, package_versions
from dvfl.report.formats import csv_link, html_page, html_table
from dvfl.train.provenance import code_version

SHOWN = (
    "what",
    "slow side",
    "fast side",
    "slow",
    "fast",
    "ratio [quartiles]",
    "of CPU time",
    "threads",
    "target",
    "met",
    "deviation",
)
PACKAGES = ("torchvision", "openvino", "onnxruntime", "av", "decord", "numpy")


Row = tuple[Result, Mapping[str, Any]]  # what was measured, and the circumstances


def circumstances() -> dict[str, Any]:
    """The machine, the versions, the commit, and the date, which is that of the start of all measurements of a call."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    commit, changed = code_version()
    code = {"commit": f"{commit[:7]}{', changed' if changed else ''}"} if commit else {}
    return {"date": now, **code, **machine(), **package_versions(PACKAGES)}


_READ: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": lambda text: float(text or "nan"),
    "bool | None": {"": None, "True": True, "False": False}.__getitem__,
}
_FIELDS = {field.name: _READ[str(field.type)] for field in fields(Result)}


def read_benchmark(path: Path) -> dict[str, Row]:
    """The rows of `path`.csv by the names of their pairs, none where there is no such file.

    Raises UserError for a file that `write_benchmark` of this version has not written.
    """
    source = path.with_suffix(".csv")
    try:
        table = pd.read_csv(source, dtype=str, keep_default_na=False)
        return {row["name"]: _row(row) for row in table.to_dict("records")}
    except FileNotFoundError:
        return {}
    except (KeyError, ValueError) as problem:
        raise UserError(
            f"{source} has no rows of a benchmark of this version ({problem}), and is not written over: "
            f"move it away, or give another --out"
        ) from problem


def _row(line: Mapping[str, str]) -> Row:
    result = Result(**{name: read(line[name]) for name, read in _FIELDS.items()})
    return result, {name: value for name, value in line.items() if value and name not in _FIELDS}


def write_benchmark(path: Path, rows: Mapping[str, Row], left_out: Mapping[str, str]) -> None:
    """Write `path`.csv, .md and .html; `left_out` are pairs that could not be measured, with the reason."""
    lines = [result.as_row() | dict(about) for result, about in rows.values()]
    csv = pd.DataFrame(lines, columns=None if lines else [*_FIELDS]).to_csv(
        index=False, float_format="%.6g", lineterminator="\n"
    )
    results, about = [result for result, _ in rows.values()], _circumstances_of(rows)
    contents = {
        "csv": csv,
        "md": as_markdown(results, left_out, about),
        "html": as_html(results, left_out, about, csv_link(csv, path.name)),
    }
    for ending, content in contents.items():
        with atomic(path.with_suffix(f".{ending}")) as partial:
            partial.write_text(content, encoding="utf-8", newline="\n")


def _circumstances_of(rows: Mapping[str, Row]) -> list[str]:
    """In words; of which rows, where not all were measured in the same ones."""
    groups: dict[str, list[str]] = {}
    for name, (_, about) in rows.items():
        groups.setdefault(", ".join(f"{key} {value}" for key, value in about.items()), []).append(name)
    return list(groups) if len(groups) == 1 else [f"{', '.join(names)}: {said}" for said, names in groups.items()]


def as_markdown(results: Sequence[Result], left_out: Mapping[str, str], about: Sequence[str]) -> str:
    """`about` says what the results were measured on."""
    lines = [line for said in about for line in (said, "")]
    lines += [f"| {' | '.join(SHOWN)} |", "|" + " --- |" * len(SHOWN)]
    lines += [f"| {' | '.join(cells(result))} |" for result in results]
    lines += ["", HOW, *(f"- {note}" for note in notes(results, left_out))]
    return "\n".join(lines) + "\n"


def as_html(results: Sequence[Result], left_out: Mapping[str, str], about: Sequence[str], link: str) -> str:
    """A page; `link` is an element that stands for the CSV file."""
    paragraphs = [*map(escape, about), escape(HOW), *map(escape, notes(results, left_out)), f"All of it: {link}"]
    table = html_table(SHOWN, map(cells, results))
    return html_page(["<h1>benchmark</h1>", table, *(f"<p>{paragraph}</p>" for paragraph in paragraphs)])


HOW = "Both sides in turn in one process; medians over rounds, the quartiles are of the rounds' ratios."


def notes(results: Sequence[Result], left_out: Mapping[str, str]) -> list[str]:
    """What the numbers alone do not say."""
    said = [f"{result.name}: {result.note}" for result in results if result.note]
    rows = {result.name for result in results}
    for name, reason in left_out.items():
        said.append(f"{name}: not measured{' this time' if name in rows else ''}, {reason}")
    return said


def as_table(results: Sequence[Result]) -> Table:
    table = Table()
    for name in SHOWN:
        table.add_column(name, overflow="fold")  # on a narrow terminal longer, but whole
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
        str(result.threads),
        result.target,
        {None: "", True: "yes", False: "no"}[result.met],
        _deviation(result.deviation),
    ]


def _deviation(largest: float) -> str:
    """Empty where nothing was compared, 0 for what is the same to the bit."""
    if math.isnan(largest):
        return ""
    return f"{largest:.1e}" if largest else "0"
